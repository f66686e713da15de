//! One world twice: on the host and in the kernel.

use std::{
    collections::BTreeMap,
    fmt,
    io::ErrorKind,
    net::{TcpListener, UdpSocket},
};

use proxy_agent::dataplane::{
    load::{PacketProgram, XDP_PROGRAM},
    sys::program::TestSkb,
};
use proxy_common::{
    abi::{
        affinity::{AffinityKey, AffinityValue},
        counter::Counter,
        device::LinkType,
        flow::{FlowKey, FlowValue},
        protocol,
        target::{BackendState, backend_lists},
    },
    datapath::{self, Ingress, Verdict, Work},
    host::{Frame, World},
    parse::{Headers, parse, tcp_flags},
    tables::FlowTable,
};

use crate::{
    chance::Chance,
    kernel::Object,
    namespace::{OVERLAY, mac},
    outcome::Outcome,
    services::{self, Crowding, HZ, MARK, REFUSING_PORT, link},
};

/// Where a packet meets the datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Sent by the pod behind a device.
    Pod(u32),
    /// In by an uplink or overlay.
    In(u32),
    /// In by an uplink, before tc.
    Xdp(u32),
    /// Out by a device.
    Out(u32),
}

impl Hook {
    pub const fn ifindex(self) -> u32 {
        match self {
            Self::Pod(ifindex) | Self::In(ifindex) | Self::Xdp(ifindex) | Self::Out(ifindex) => {
                ifindex
            }
        }
    }

    /// The program of tc; none at XDP.
    pub const fn program(self) -> Option<PacketProgram> {
        Some(match self {
            Self::Pod(_) => PacketProgram::PodIngress,
            Self::In(OVERLAY) => PacketProgram::UplinkIngressL3,
            Self::In(_) => PacketProgram::UplinkIngress,
            Self::Xdp(_) => return None,
            Self::Out(OVERLAY) => PacketProgram::EgressL3,
            Self::Out(_) => PacketProgram::Egress,
        })
    }
}

/// A packet on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub hook: Hook,
    pub bytes: Vec<u8>,
    /// `gso_size`
    pub segment: u32,
    /// Bytes that are linear; 0: all.
    pub linear: u32,
    /// Whether its device has summed it up (`CHECKSUM_COMPLETE`).
    pub summed: bool,
}

/// What became of it: its tuples before and after, where it had any.
#[derive(Clone, Copy, Debug)]
pub struct Became {
    pub verdict: Verdict,
    pub before: Option<FlowKey>,
    pub after: Option<FlowKey>,
}

pub struct Pair {
    world: World,
    object: Object,
    outcome: Outcome,
    /// `CHECKSUM_COMPLETE` can be said of a test run's packet.
    can_sum: bool,
    /// Packets of a test run can be cut into pieces.
    can_cut: bool,
    /// Ticks of the clock that a run took at most.
    ticks: u32,
    _listening: (Vec<TcpListener>, Vec<UdpSocket>),
}

/// On every packet already.
const MARK_OF_OTHERS: u32 = 0x4000;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

impl Pair {
    pub fn new(object: Object, crowding: Crowding) -> Self {
        let world = services::world(crowding);
        object.maps.fill(&world);
        let takes = |about: &TestSkb, what: &str| {
            let run = object.run(PacketProgram::Egress, &[0; 64], about, 1);
            if run.is_err() {
                println!("not tested: {what}; this kernel's test runs do not know it");
            }
            run.is_ok()
        };
        let plain = TestSkb::default();
        let summed = TestSkb {
            summed: true,
            ..plain
        };
        let cut = TestSkb {
            linear: 32,
            ..plain
        };
        let can_sum = takes(
            &summed,
            "packets summed up by their device (CHECKSUM_COMPLETE)",
        );
        let can_cut = takes(&cut, "packets that are not linear");
        Self {
            world,
            object,
            can_sum,
            can_cut,
            outcome: Outcome::default(),
            ticks: 0,
            _listening: services::listen(),
        }
    }

    pub fn outcome(self) -> Outcome {
        self.outcome.with(self.world.counters())
    }

    /// A packet through both; panics where they differ. What XDP sends out is sent by tc as well, and must leave with the
    /// same bytes.
    pub fn send(&mut self, sent: &Sent, which: &str) -> Became {
        let (became, packet) = self.run(sent, which);
        let (ifindex, out) = match (sent.hook, became.verdict) {
            (Hook::Xdp(ifindex), Verdict::Send { ifindex: out }) => (ifindex, out),
            (Hook::Xdp(ifindex), Verdict::Bounce) => (ifindex, ifindex),
            _ => return became,
        };
        if ends_what_it_begins(sent) {
            return became;
        }
        let plain = Sent {
            hook: Hook::In(ifindex),
            segment: 0,
            linear: 0,
            ..sent.clone()
        };
        let (by_tc, other) = self.run(&plain, which);
        assert_eq!(by_tc.verdict, Verdict::Forward { ifindex: out }, "{which}");
        // Its MAC addresses are written by the neighbour code, after the program.
        assert_eq!(
            Dump(&packet[12..]),
            Dump(&other[12..]),
            "{which}: by XDP (left) and by tc (right)"
        );
        became
    }

    fn run(&mut self, sent: &Sent, which: &str) -> (Became, Vec<u8>) {
        let skb = TestSkb {
            ifindex: sent.hook.ifindex(),
            mark: MARK_OF_OTHERS,
            segment: sent.segment,
            summed: sent.summed && self.can_sum && sums_can_hold(sent),
            linear: if self.can_cut { sent.linear } else { 0 },
        };
        let run = || match sent.hook.program() {
            Some(program) => self.object.run(program, &sent.bytes, &skb, 1),
            None => self.object.run_xdp(sent.hook.ifindex(), &sent.bytes, 1),
        };
        let describe = || {
            format!(
                "{which}: {:?}, {skb:?}\nsent{:?}",
                sent.hook,
                Dump(&sent.bytes)
            )
        };

        let (before, run, after) = (self.object.now(), run(), self.object.now());
        self.world.clock.set(before);
        self.ticks = self.ticks.max(after.wrapping_sub(before));
        // Between two ticks it is not known which of them the program saw.
        let saved = (before != after).then(|| self.world.clone());
        let (mut became, mut verdict, mut packet) = self.on_host(sent);
        let run = match run {
            // The test runs of later kernels take no frame that ends within its IP header.
            Err(error) if error.kind() == ErrorKind::InvalidInput && sent.bytes.len() < 54 => {
                assert_eq!(became.verdict, Verdict::Pass, "{}", describe());
                self.outcome.saw_refused();
                return (became, packet);
            }
            run => run.unwrap_or_else(|error| panic!("{}\nthe run failed: {error}", describe())),
        };
        for now in 1..=after.wrapping_sub(before) {
            if run.verdict == verdict && run.packet == packet {
                break;
            }
            self.world = saved.clone().expect("more than one tick");
            self.world.clock.set(before.wrapping_add(now));
            (became, verdict, packet) = self.on_host(sent);
        }
        let said = became.verdict;
        assert_eq!(
            run.verdict,
            verdict,
            "{}\nthe host says {said:?}",
            describe()
        );
        assert_eq!(
            Dump(&run.packet),
            Dump(&packet),
            "{}\nin the kernel (left) and on the host (right) it became, with {:?}, {said:?}",
            describe(),
            became.before,
        );
        let mark = match (said, sent.hook) {
            (_, Hook::Xdp(_)) => 0,
            (Verdict::Continue, Hook::Pod(_) | Hook::In(_)) => MARK_OF_OTHERS | MARK,
            _ => MARK_OF_OTHERS,
        };
        assert_eq!(run.mark, mark, "{}\nthe host says {said:?}", describe());
        if let Verdict::Drop(reason) = said {
            let (kernel, host) = (self.object.maps.counted(reason), self.world.counted(reason));
            assert_eq!(
                kernel,
                host,
                "{}\ndropped for {reason:?} on the host only",
                describe()
            );
        }
        let program = sent.hook.program().map_or(XDP_PROGRAM, PacketProgram::name);
        self.outcome.saw(said, program, skb.summed);
        (became, packet)
    }

    /// What the host's build makes of a packet: with the verdict and the bytes that the program must give.
    fn on_host(&self, sent: &Sent) -> (Became, u32, Vec<u8>) {
        let (mut tables, mut work) = (&self.world, Work::default());
        let at = Ingress {
            ifindex: sent.hook.ifindex(),
            link: link(sent.hook.ifindex()),
        };
        let mut frame = Frame::new(sent.bytes.clone());
        if !matches!(sent.hook, Hook::Xdp(_)) {
            frame = frame.segmented(sent.segment);
        }
        let before = tuple(&frame, at.link);
        let verdict = match sent.hook {
            Hook::Pod(_) => datapath::pod_ingress(&mut frame, &mut tables, &mut work, at),
            // Left alone by the shell before the datapath sees it.
            Hook::In(ifindex) if is_for_another_host(&sent.bytes, ifindex) => Verdict::Pass,
            Hook::In(_) => datapath::uplink_ingress(&mut frame, &mut tables, &mut work, at),
            Hook::Xdp(_) => datapath::xdp_ingress(&mut frame, &mut tables, &mut work, at),
            Hook::Out(_) => datapath::egress(&mut frame, &mut tables, &mut work, at.link),
        };
        let after = tuple(&frame, at.link);
        let mut packet = frame.bytes().to_vec();
        if matches!(verdict, Verdict::Pass) {
            assert_eq!(Dump(&packet), Dump(&sent.bytes), "passed, and yet changed");
        }
        if matches!(sent.hook, Hook::Xdp(_)) {
            let code = match verdict {
                Verdict::Pass => XDP_PASS,
                Verdict::Drop(_) => XDP_DROP,
                Verdict::Bounce => XDP_TX,
                Verdict::Send { .. } => XDP_REDIRECT,
                other => panic!("XDP has no way to {other:?}"),
            };
            let became = Became {
                verdict,
                before,
                after,
            };
            return (became, code, packet);
        }
        let code = match verdict {
            Verdict::Pass | Verdict::Continue => TC_ACT_UNSPEC,
            Verdict::Drop(_) => TC_ACT_SHOT,
            Verdict::Bounce => TC_ACT_REDIRECT,
            Verdict::Send { .. } => panic!("only XDP sends"),
            Verdict::Forward { .. } => {
                if matches!(at.link, LinkType::RawIp) {
                    // The shell's room for an Ethernet header.
                    let mut header = vec![0; 12];
                    header.extend_from_slice(&protocol_of(&sent.bytes));
                    packet.splice(0..0, header);
                }
                TC_ACT_REDIRECT
            }
        };
        let became = Became {
            verdict,
            before,
            after,
        };
        (became, code, packet)
    }

    /// Whether two readings of the clock are no further apart than a run may take.
    const fn at_once(&self, a: u32, b: u32) -> bool {
        a.wrapping_sub(b).wrapping_add(self.ticks) <= 2 * self.ticks
    }

    /// Changes the world of both.
    pub fn disturb(&mut self, chance: &mut Chance) {
        let backends = self.world.backends.written();
        match chance.below(5) {
            4 => {
                let id = 1 + chance.below(backends.len() as u64 - 1) as u32;
                let mut backend = backends[id as usize];
                let lists = backend.word.lists() ^ backend_lists::ALL;
                backend.word = backend.word.in_lists(lists);
                self.world.backends.set(id, backend);
                self.object.maps.put_backend(id, &backend);
            }
            0 | 1 => {
                let id = 1 + chance.below(backends.len() as u64 - 1) as u32;
                let state = match backends[id as usize].word.state() {
                    BackendState::Serving => BackendState::NotServing,
                    _ => BackendState::Serving,
                };
                self.world.set_backend_state(id, state);
                let backend = self.world.backends.get(id).expect("a backend");
                self.object.maps.put_backend(id, &backend);
            }
            2 => {
                for table in [FlowTable::New, FlowTable::Claims] {
                    self.age(table);
                }
            }
            _ => {
                for table in [FlowTable::Confirmed, FlowTable::New, FlowTable::Claims] {
                    self.evict(table, chance);
                }
            }
        }
    }

    /// Compares what choices leave behind.
    fn compare_choices(&self, which: &str) {
        let (world, maps) = (&self.world, &self.object.maps);
        let timeless = |(key, value): (AffinityKey, AffinityValue)| {
            let last_used = 0;
            (key, AffinityValue { last_used, ..value })
        };
        let kernel: Vec<_> = maps.affinity().into_iter().map(timeless).collect();
        let host: Vec<_> = world.affinity.entries().into_iter().map(timeless).collect();
        assert_eq!(kernel, host, "{which}: AFFINITY");
        let host: BTreeMap<_, _> = world.flow_loads.entries().into_iter().collect();
        assert_eq!(maps.flow_loads(), host, "{which}: FLOW_LOADS");
        for (target, turns) in (0..).zip(world.turns.written()) {
            assert_eq!(maps.turns(target), turns, "{which}: TURNS of {target}");
        }
        for (backend, load) in (0..).zip(world.loads.written()) {
            assert_eq!(maps.load(backend), load, "{which}: LOADS of {backend}");
        }
    }

    /// How often anything was chosen by affinity, in turn, and by load.
    pub fn choices(&self) -> [usize; 3] {
        let turns = self.world.turns.written();
        let loads = self.world.loads.written();
        [
            self.world.affinity.len(),
            turns.into_iter().sum::<u64>() as usize,
            loads.iter().filter(|load| load.generation != 0).count(),
        ]
    }

    /// Makes what is in a table old enough to be taken over.
    fn age(&self, table: FlowTable) {
        for (key, mut value) in self.object.maps.flows(table) {
            grow_old(&mut value);
            self.object.maps.put_flow(table, &key, &value);
            self.world.flow_table(table).modify(&key, grow_old);
        }
    }

    /// Takes a tenth of a table away.
    fn evict(&self, table: FlowTable, chance: &mut Chance) {
        for (key, _) in self.world.flow_table(table).entries() {
            if chance.below(10) == 0 {
                self.world.flow_table(table).remove(&key);
                let was_there = self.object.maps.flow_table(table).delete(&key);
                assert!(
                    was_there.expect("a deletion"),
                    "{key:?} is not in the kernel"
                );
            }
        }
    }

    /// Compares all that packets write; panics where it differs.
    pub fn compare_tables(&self, which: &str) {
        for table in [FlowTable::Confirmed, FlowTable::New, FlowTable::Claims] {
            let kernel = self.object.maps.flows(table);
            let host: BTreeMap<_, _> = self.world.flow_table(table).entries().into_iter().collect();
            for key in kernel.keys().chain(host.keys()) {
                let (kernel, host) = (kernel.get(key), host.get(key));
                assert_eq!(
                    kernel.map(timeless),
                    host.map(timeless),
                    "{which}: {table:?} differs in the kernel (left) and on the host (right) at {key:?}"
                );
                let (kernel, host) = kernel.zip(host).expect("in both");
                assert!(
                    self.at_once(kernel.created, host.created)
                        && self.at_once(kernel.last_seen, host.last_seen),
                    "{which}: {table:?} has other times in the kernel, {kernel:?}, than on the host, {host:?}"
                );
            }
        }
        self.compare_choices(which);
        for &counter in Counter::ALL {
            assert_eq!(
                self.object.maps.counted(counter),
                self.world.counted(counter),
                "{which}: {counter:?} was counted otherwise in the kernel (left)"
            );
        }
    }
}

/// A value without its times, which may be some ticks apart.
fn timeless(value: &FlowValue) -> FlowValue {
    FlowValue {
        created: 0,
        last_seen: 0,
        ..*value
    }
}

fn grow_old(value: &mut FlowValue) {
    value.created = value.created.wrapping_sub(5 * HZ);
    value.last_seen = value.last_seen.wrapping_sub(5 * HZ);
}

fn headers(frame: &Frame, link: LinkType) -> Option<Headers> {
    let mut h = Headers::default();
    parse(&mut frame.clone(), link, &mut h).then_some(h)
}

/// A SYN that closes its flow as well: another of the same begins another flow.
fn ends_what_it_begins(sent: &Sent) -> bool {
    let frame = Frame::new(sent.bytes.clone());
    headers(&frame, LinkType::Ethernet)
        .is_some_and(|h| h.is_syn() && h.tcp_flags & (tcp_flags::FIN | tcp_flags::RST) != 0)
}

fn tuple(frame: &Frame, link: LinkType) -> Option<FlowKey> {
    headers(frame, link).map(|h| h.tuple)
}

/// Whether the kernel says `PACKET_OTHERHOST` of a frame that came in by a device (`eth_type_trans`).
fn is_for_another_host(bytes: &[u8], ifindex: u32) -> bool {
    bytes[0] & 1 == 0 && bytes[..6] != mac(ifindex)
}

/// What the kernel takes for the protocol of a test run's packet (`eth_type_trans`): bytes 12 and 13, or for a length
/// `ETH_P_802_3` before `0xffff` and else `ETH_P_802_2`.
fn protocol_of(bytes: &[u8]) -> [u8; 2] {
    let found = [bytes[12], bytes[13]];
    if u16::from_be_bytes(found) >= 0x600 {
        found
    } else if bytes.get(14..16) == Some(&[0xff, 0xff]) {
        [0, 1]
    } else {
        [0, 4]
    }
}

/// Whether a sum over the whole packet must still hold afterwards. Not where the packet is made another one (a refusal),
/// nor where it carries no checksum that changes with its ports (of SCTP the sum is told of both); a packet that begins with its IP header is summed up
/// from within by the test run.
fn sums_can_hold(sent: &Sent) -> bool {
    let link = link(sent.hook.ifindex());
    let frame = Frame::new(sent.bytes.clone());
    link == LinkType::Ethernet
        && headers(&frame, link).is_none_or(|h| {
            let at = h.checksum_offset();
            let no_sum = sent
                .bytes
                .get(at..at + 2)
                .is_none_or(|field| field == [0, 0]);
            h.tuple.dst_port.get() != REFUSING_PORT
                && (h.tuple.protocol == protocol::SCTP || !no_sum)
        })
}

/// Bytes, printed so that one can read them.
#[derive(PartialEq, Eq)]
struct Dump<'a>(&'a [u8]);

impl fmt::Debug for Dump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let space = if index % 16 == 0 { "\n" } else { " " };
            write!(f, "{space}{byte:02x}")?;
        }
        Ok(())
    }
}
