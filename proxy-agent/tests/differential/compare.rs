//! One world twice: on the host and in the kernel.

mod tables;

use std::{
    fmt,
    io::ErrorKind,
    net::{TcpListener, UdpSocket},
};

use proxy_agent::dataplane::{
    load::{PacketProgram, XDP_PROGRAM},
    sys::program::TestSkb,
};
use proxy_common::{
    abi::device::LinkType,
    datapath::{self, Ingress, Verdict, Work},
    host::{Frame, World},
};

use crate::{
    kernel::Object,
    outcome::Outcome,
    sent::{Became, Hook, Sent, is_for_another_host, protocol_of, tuple},
    services::{self, Crowding, MARK, MASQUERADE_MARK, link},
};

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
const ETH_P_IP: [u8; 2] = [0x08, 0x00];
const ETH_P_IPV6: [u8; 2] = [0x86, 0xdd];
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
        if sent.ends_what_it_begins() {
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
            summed: sent.summed && self.can_sum && sent.sum_can_hold(),
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
        self.world.monotonic.set(services::monotonic());
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
            (Verdict::Masquerade, _) => MARK_OF_OTHERS | MARK | MASQUERADE_MARK,
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
        if !matches!(said, Verdict::Pass | Verdict::Drop(_)) && sent.is_later_fragment() {
            self.outcome.later_fragments += 1;
        }
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
            let is_ip = [ETH_P_IP, ETH_P_IPV6].contains(&protocol_of(&sent.bytes));
            frame = frame.segmented(sent.segment).rigid(!is_ip);
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
            Verdict::Pass | Verdict::Continue | Verdict::Masquerade => TC_ACT_UNSPEC,
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
