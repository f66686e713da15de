//! Packets per second that a node forwards to a backend on another node, on one processor, compared with
//! other ways to do it: `cargo xtask bench packets [ROUNDS]`. Prints Markdown for `docs/benchmarks.md`.
//!
//! Each way has its own node, and the ways take turns. An XDP program on the switch's port generates the
//! frames (live frames mode of a BPF test run), and another one drops them when they return to the switch.
//! Only veth pairs and the node lie between. All work is done on the processor of the calling thread.

mod programs;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use proxy_agent::dataplane::open;
use proxy_agent::dataplane::pin::PinFolder;
use proxy_agent::dataplane::sys::link::{XdpFlags, attach_xdp};
use proxy_agent::dataplane::sys::program::{TestXdp, run_xdp_live};
use proxy_common::abi::counter::Counter;
use proxy_common::host::{MacPair, Segment};
use proxy_lab::objects::{Endpoint, Service};
use proxy_lab::{
    Agent, AgentOptions, ControlPlane, ControlPlaneOptions, Family, Identity, KubeProxy,
    KubeProxyMode, Lab, LabError, Node, Offload, Protocol, Result, UdpRequest,
};

/// Ways, which are the nodes' names.
const XDP: &str = "xdp";
const TC: &str = "tc";
const IPTABLES: &str = "iptables";
const NFTABLES: &str = "nftables";
const BARE: &str = "bare";
const FLOOR: &str = "floor";
const WAYS: [(&str, &str); 6] = [
    (XDP, "kube-proxy-ebpf, XDP in the driver"),
    (TC, "kube-proxy-ebpf, tc (`--xdp off`)"),
    (IPTABLES, "kube-proxy, iptables"),
    (NFTABLES, "kube-proxy, nftables"),
    (BARE, "bare XDP: `bpf_fib_lookup` and redirect"),
    (FLOOR, "nothing: every frame sent back as it came"),
];
/// The node of the backend.
const SERVER: &str = "server";
const UPLINK: &str = "eth0";
const NODE_PORT: u16 = 30_900;
const PORT: u16 = 8080;

/// Frames in a row, rows in a round. The quickest row of a round counts: rows are short, so that some are not interrupted.
const ROW: u32 = 2_048;
const ROWS: u32 = 30;
const ROUNDS: usize = 15;

fn main() -> ExitCode {
    // `cargo bench` adds an argument of its own.
    let number = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let result = proxy_lab::take_down_on_signals().and_then(|()| run(number.unwrap_or(ROUNDS)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot go on: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

fn run(rounds: usize) -> Result<()> {
    let lab = Lab::builder("packets");
    let lab = WAYS.iter().fold(lab, |lab, (name, _)| lab.node(*name));
    let lab = lab.node(SERVER).pods(SERVER, ["pod"]).fit_for_xdp().up()?;
    lab.pod("pod").serve(PORT)?;
    for (name, _) in WAYS {
        // Frames from XDP are taken where segments are merged, with or without a program.
        lab.node(name).offload(UPLINK, Offload::Receive, true)?;
    }
    let control_plane =
        lab.start_control_plane(&ControlPlaneOptions::default().without_controllers())?;
    create_service(&lab, control_plane)?;
    let _proxies = start(&lab, control_plane)?;
    let _bare = attach(lab.node(BARE), programs::forwarder)?;
    for name in [XDP, TC, IPTABLES, NFTABLES] {
        let to = destination(&lab, name);
        let request = UdpRequest::to(to).timeout(Duration::from_secs(3));
        for exchange in lab.workstation().udp_all(request)? {
            if let Err(why) = exchange.outcome {
                let said = format!("{name} does not serve {to}: {why}");
                return Err(LabError::Topology(said));
            }
        }
    }
    let workings = WAYS.map(|(name, _)| {
        let node = lab.node(name);
        let port = lab.port_of(node);
        lab.switch().run(|| Way::open(&lab, node, port))
    });
    let ways: Vec<Way> = workings.into_iter().collect::<Result<_>>()?;
    // Late: what it sends back has its sender's MAC address, which the switch would look for there.
    let _floor = attach(lab.node(FLOOR), programs::reflector)?;
    let sent = || sent_by_xdp(lab.node(XDP)).zip(sent_by_xdp(lab.node(TC)));
    let before = sent();
    let measured = lab.switch().run(|| measure(&ways, rounds))?;
    let after = sent();
    print(&measured);
    if let (Some(before), Some(after)) = (before, after) {
        println!(
            "\nSent by XDP: {} frames of node `{XDP}`, {} of node `{TC}`, of {} each.",
            after.0 - before.0,
            after.1 - before.1,
            u64::from(ROW * ROWS) * rounds as u64,
        );
    }
    Ok(())
}

fn create_service(lab: &Lab, control_plane: &ControlPlane) -> Result<()> {
    let service = Service::new("packets").port("udp", Protocol::Udp, 80);
    let slice = service
        .slice(Family::V4, PORT)
        .endpoint(Endpoint::of(lab.pod("pod"), Family::V4));
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "packets", "namespace": "default"},
        "spec": {"type": "NodePort", "ports": [{
            "name": "udp", "protocol": "UDP", "port": 80, "targetPort": PORT, "nodePort": NODE_PORT,
        }]},
    });
    control_plane.api().create_all([object])?;
    control_plane.api().create_all([slice])
}

/// Starts each node's proxy.
fn start<'lab>(
    lab: &'lab Lab,
    control_plane: &ControlPlane,
) -> Result<(Vec<Agent>, Vec<KubeProxy<'lab>>)> {
    let kubeconfig = control_plane.kubeconfig(&Identity::KubeProxy)?;
    let agents = [(XDP, "native"), (TC, "off")].map(|(name, mode)| {
        let options = AgentOptions::kube(&kubeconfig).xdp(mode);
        lab.node(name)
            .spawn_agent(&options.ready_within(Duration::from_mins(2)))
    });
    let modes = [
        (IPTABLES, KubeProxyMode::Iptables),
        (NFTABLES, KubeProxyMode::Nftables),
    ];
    let proxies = modes.map(|(name, mode)| KubeProxy::start(control_plane, lab.node(name), mode));
    Ok((
        agents.into_iter().collect::<Result<_>>()?,
        proxies.into_iter().collect::<Result<_>>()?,
    ))
}

/// Attaches a program to a node's uplink.
fn attach(node: &Node, program: fn() -> std::io::Result<OwnedFd>) -> Result<OwnedFd> {
    node.netns().run(|| {
        let action = || format!("attaching a program on {}", node.name());
        let program = program().map_err(LabError::kernel(action()))?;
        let device = if_nametoindex(UPLINK).map_err(LabError::kernel(action()))?;
        attach_xdp(&program, device, XdpFlags::Driver).map_err(LabError::kernel(action()))
    })
}

/// Where a node's frames go: to its node port, or where that leads.
fn destination(lab: &Lab, name: &str) -> SocketAddr {
    if [BARE, FLOOR].contains(&name) {
        lab.pod("pod").at(Family::V4, PORT)
    } else {
        lab.node(name).at(Family::V4, NODE_PORT)
    }
}

/// What is at the switch's port to a node.
struct Way {
    port: String,
    ifindex: u32,
    generator: OwnedFd,
    frame: Vec<u8>,
}

impl Way {
    /// In the switch's namespace.
    fn open(lab: &Lab, node: &Node, port: String) -> Result<Self> {
        let action = || format!("setting up port {port}");
        let ifindex = if_nametoindex(port.as_str()).map_err(LabError::kernel(action()))?;
        let client = SocketAddr::new(lab.workstation().ip(Family::V4), 0x5000);
        let to = destination(lab, node.name()).to_string();
        // 64 bytes on the wire, including the 4-byte frame checksum.
        let frame = Segment::udp(&client.to_string(), &to)
            .without_checksum()
            .payload(&[0; 18])
            .macs(MacPair {
                dst: mac(node, UPLINK)?,
                src: mac(lab.workstation(), UPLINK)?,
            })
            .bytes();
        let generator = programs::generator(&frame).map_err(LabError::kernel(action()))?;
        let way = Self {
            port,
            ifindex,
            generator,
            frame,
        };
        // Flows begin, and are answered, a few at a time: the backend is no bottleneck.
        for _ in 0..60 {
            way.send(64)?;
            thread::sleep(Duration::from_millis(10));
        }
        Ok(way)
    }

    /// Nanoseconds for each, waits for the processor left out.
    fn send(&self, frames: u32) -> Result<u32> {
        let device = TestXdp {
            ifindex: self.ifindex,
        };
        run_xdp_live(&self.generator, &self.frame, &device, frames)
            .map_err(LabError::kernel("sending frames from XDP"))
    }

    /// Frames that came back to the port.
    fn received(&self) -> Result<u64> {
        let file = "/proc/thread-self/net/dev";
        let text = std::fs::read_to_string(file).map_err(LabError::file("reading", file))?;
        let mut lines = text.lines().filter_map(|line| line.trim().split_once(':'));
        let fields = lines.find(|(name, _)| *name == self.port);
        let packets = fields.and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        packets.ok_or_else(|| LabError::Topology(format!("{} is not in {file}", self.port)))
    }
}

fn mac(host: &proxy_lab::Host, device: &str) -> Result<[u8; 6]> {
    let text = host.exec(["ip", "-o", "link", "show", "dev", device])?;
    let mut words = text.split_whitespace();
    let found = words.find(|word| *word == "link/ether").and(words.next());
    let bytes = found.into_iter().flat_map(|text| text.split(':'));
    let bytes: Vec<u8> = bytes
        .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    let none = |_| LabError::Topology(format!("{device} has no MAC address: {text}"));
    bytes.try_into().map_err(none)
}

/// Of a way in a round: a frame's nanoseconds in its quickest row, and how many of a hundred came back of all.
#[derive(Clone, Copy)]
struct Round {
    nanoseconds: f64,
    arrived: f64,
}

/// In the switch's namespace: all ways in turns, on one processor.
fn measure(ways: &[Way], rounds: usize) -> Result<Vec<Vec<Round>>> {
    let mut cpus = CpuSet::new();
    cpus.set(0)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus))
        .map_err(LabError::kernel("staying on one processor"))?;
    prefer_this_thread()?;
    let sink = programs::sink().map_err(LabError::kernel("loading a sink"))?;
    let attach = |way: &Way| attach_xdp(&sink, way.ifindex, XdpFlags::Driver);
    let _sinks: Vec<OwnedFd> = ways
        .iter()
        .map(attach)
        .collect::<std::io::Result<_>>()
        .map_err(LabError::kernel("attaching a sink"))?;
    let mut measured = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for (way, rounds) in ways.iter().zip(&mut measured) {
            rounds.push(round(way)?);
        }
    }
    Ok(measured)
}

/// Gives the calling thread the highest priority (nice -20).
fn prefer_this_thread() -> Result<()> {
    let thread = nix::unistd::gettid().to_string();
    let status = Command::new("renice")
        .args(["-n", "-20", "-p", &thread])
        .stdout(Stdio::null())
        .status()
        .map_err(LabError::kernel("running renice"))?;
    if status.success() {
        Ok(())
    } else {
        Err(LabError::Topology(format!("renice ends with {status}")))
    }
}

#[expect(clippy::cast_precision_loss, reason = "some hundred thousand frames")]
fn round(way: &Way) -> Result<Round> {
    let before = way.received()?;
    let mut quickest = u32::MAX;
    for _ in 0..ROWS {
        quickest = quickest.min(way.send(ROW)?);
    }
    let arrived = way.received()? - before;
    Ok(Round {
        nanoseconds: quickest.into(),
        arrived: arrived as f64 * 100.0 / f64::from(ROW * ROWS),
    })
}

/// Frames that a node's agent has sent out by XDP.
fn sent_by_xdp(node: &Node) -> Option<u64> {
    let map = open::counters(&PinFolder::new(node.bpffs())).ok()?;
    map.sum(Counter::XdpSent as u32).ok()
}

fn print(measured: &[Vec<Round>]) {
    println!(
        "\n| way | million packets/s | ns/packet | above nothing | beside tc | spread | arrived % |"
    );
    println!("|---|---|---|---|---|---|---|");
    let base = &measured[1];
    let floor = measured.last().map_or(0.0, |rounds| nanoseconds(rounds));
    for ((_, name), rounds) in WAYS.iter().zip(measured) {
        let ratios = sorted(
            rounds
                .iter()
                .zip(base)
                .map(|(a, b)| b.nanoseconds / a.nanoseconds),
        );
        let arrived = rounds.iter().map(|round| round.arrived);
        println!(
            "| {name} | {:.2} | {:.0} | {:.0} | {:.2} × | {:.2}–{:.2} | {:.1} |",
            1e3 / nanoseconds(rounds),
            nanoseconds(rounds),
            nanoseconds(rounds) - floor,
            middle(&ratios),
            ratios[0],
            ratios[ratios.len() - 1],
            arrived.fold(f64::MAX, f64::min),
        );
    }
}

/// A packet's, in the middle round.
fn nanoseconds(rounds: &[Round]) -> f64 {
    middle(&sorted(rounds.iter().map(|round| round.nanoseconds)))
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn middle(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}
