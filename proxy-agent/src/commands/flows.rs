//! `flows`: the flows that packets have made, read from the maps alone; the agent need not run.

mod table;

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use proxy_common::{
    abi::{
        flow::{FlowKey, Half, flow_flags},
        protocol,
    },
    addr::Addr,
    flow_timeout::{Stage, elapsed},
    tables::FlowTable,
};
use serde::Serialize;
use zerocopy::network_endian::U16;

use crate::{
    commands::{
        BpffsArgs,
        plan::{Output, print_text},
    },
    dataplane::{
        clock::{Clock, ClockError},
        gc::tables::{FlowTables, Found, TableError},
        pin::PinFolder,
    },
    report::Protocol,
};

/// Flags of `flows`.
#[derive(Clone, Debug, clap::Args)]
pub struct FlowsArgs {
    #[command(flatten)]
    bpffs: BpffsArgs,

    /// Output format.
    #[arg(short, long, env = "PROXY_OUTPUT", value_enum, default_value_t)]
    output: Output,
}

/// Prints the flows.
pub fn run(args: &FlowsArgs) -> anyhow::Result<()> {
    let report = read(&PinFolder::new(&args.bpffs.bpffs))?;
    print_text(&match args.output {
        Output::Table => report.to_string(),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
    })
}

/// The whole output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowReport {
    /// Sorted by client, frontend, protocol.
    pub flows: Vec<Flow>,
    /// What could not be found out, and why.
    pub warnings: Vec<String>,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Protocol.
    pub protocol: Protocol,
    /// Who began it.
    pub client: SocketAddr,
    /// What the client connected to.
    pub frontend: SocketAddr,
    /// Where its packets go.
    pub backend: SocketAddr,
    /// Who the backend takes for the client, where that is somebody else. (As whom netfilter masquerades it, its conntrack knows.)
    pub source: Option<SocketAddr>,
    /// How far it has come.
    pub state: State,
    /// Seconds since its first packet.
    pub age_seconds: Option<u32>,
    /// Seconds since its last packet.
    pub idle_seconds: Option<u32>,
    /// What is special about it.
    pub flags: Vec<Flag>,
}

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No answer yet.
    New,
    /// A translated source is held by a flow without an answer, whose other half was evicted.
    Claimed,
    /// A connection (TCP, SCTP): answered, and the client has not acknowledged it.
    Opening,
    /// Both sides were heard.
    Established,
    /// A connection: one side has ended.
    Closing,
    /// A connection: both sides have ended.
    Closed,
    /// A connection: broken off, or, of SCTP, over for both.
    Reset,
    /// One half alone is left.
    Orphan,
}

/// What is special about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flag {
    /// The source is translated.
    Snat,
    /// The client is its own backend.
    Hairpin,
    /// The backend is on this node.
    Local,
    /// The source port alone is translated.
    Port,
    /// Netfilter masquerades the client, by a rule of the agent.
    Masquerade,
}

/// Flags as the maps have them.
const FLAGS: [(u8, Flag); 5] = [
    (flow_flags::SNAT, Flag::Snat),
    (flow_flags::HAIRPIN, Flag::Hairpin),
    (flow_flags::LOCAL, Flag::Local),
    (flow_flags::PORT, Flag::Port),
    (flow_flags::MASQUERADE, Flag::Masquerade),
];

/// Reads all flows. Those that begin or end meanwhile may be missed.
pub fn read(pins: &PinFolder) -> anyhow::Result<FlowReport> {
    pins.check_present()?;
    let tables = FlowTables::open(pins)?;
    let (time, warnings) = match Time::now() {
        Ok(time) => (Some(time), Vec::new()),
        Err(error) => {
            let error = anyhow::Error::from(error);
            (None, vec![format!("ages are not known: {error:#}")])
        }
    };
    let mut flows = Vec::new();
    for table in [FlowTable::Confirmed, FlowTable::New, FlowTable::Claims] {
        let mut walk = tables.map(table).walk();
        while let Some(chunk) = walk.next_chunk().context("can't walk a flow table")? {
            for (key, value) in chunk {
                let half = Found { table, key, value };
                flows.extend(flow(&tables, &half, time.as_ref())?);
            }
        }
    }
    // One that was confirmed while it was read is in two tables; the first of equals is the confirmed one.
    flows.sort_by_key(|flow: &Flow| (flow.client, flow.frontend, flow.protocol));
    flows.dedup_by_key(|flow| (flow.client, flow.frontend, flow.protocol));
    Ok(FlowReport { flows, warnings })
}

/// The clock of the maps.
struct Time {
    now: u32,
    hz: u32,
}

impl Time {
    fn now() -> Result<Self, ClockError> {
        let clock = Clock::open()?;
        Ok(Self {
            now: clock.now()?,
            hz: clock.hz(),
        })
    }

    const fn seconds(&self, jiffies: u32) -> u32 {
        jiffies / self.hz
    }
}

/// The flow of a half; none for a reverse half whose forward half tells of it.
fn flow(
    tables: &FlowTables,
    half: &Found,
    time: Option<&Time>,
) -> Result<Option<Flow>, TableError> {
    let forward = half.value.half == Half::Forward as u8;
    let other = tables.other(half)?;
    if !forward && other.is_some() {
        return Ok(None);
    }
    let (sent, translated) = if forward {
        (half.key, half.value.out)
    } else {
        (half.value.out.inverted(), half.key.inverted())
    };
    let client = address(sent.src, sent.src_port);
    let source = address(translated.src, translated.src_port);
    let halves = tables.halves(half, other.as_ref());
    let confirmed = half.value.flags & flow_flags::CONFIRMED != 0;
    Ok(Some(Flow {
        protocol: protocol(&sent),
        client,
        frontend: address(sent.dst, sent.dst_port),
        backend: address(translated.dst, translated.dst_port),
        source: (source != client).then_some(source),
        state: match halves.stage() {
            Stage::Unconfirmed => State::New,
            // The reverse half of a new flow is made again when it was evicted.
            Stage::Orphan if half.table == FlowTable::New && forward => State::New,
            Stage::Orphan if half.table == FlowTable::Claims && !confirmed => State::Claimed,
            Stage::Orphan => State::Orphan,
            Stage::Opening => State::Opening,
            Stage::Established => State::Established,
            Stage::Closing => State::Closing,
            Stage::Closed => State::Closed,
            Stage::Reset => State::Reset,
        },
        age_seconds: time.map(|t| t.seconds(elapsed(t.now, half.value.created, t.hz))),
        idle_seconds: time.map(|t| t.seconds(halves.idle(t.now, t.hz))),
        flags: FLAGS
            .into_iter()
            .filter(|(bit, _)| half.value.flags & bit != 0)
            .map(|(_, flag)| flag)
            .collect(),
    }))
}

fn address(addr: Addr, port: U16) -> SocketAddr {
    let ip: IpAddr = addr.to_ip();
    SocketAddr::new(ip, port.get())
}

const fn protocol(key: &FlowKey) -> Protocol {
    match key.protocol {
        protocol::TCP => Protocol::Tcp,
        protocol::SCTP => Protocol::Sctp,
        _ => Protocol::Udp,
    }
}
