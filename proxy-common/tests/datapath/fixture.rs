//! Test steps: a packet, the hook that it passes, and the expected result.

use std::collections::BTreeMap;

use proxy_common::{
    abi::{counter::Counter, device::LinkType, protocol},
    datapath::{self, Ingress, Verdict, Work},
    host::{Frame, Segment, World, checksum_of},
};

use crate::{
    node::{self, BOTH, Names},
    xdp,
};

/// The hook that a packet passes.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    /// Ingress from the pod behind this device.
    Pod(u32),
    /// Ingress from this uplink or overlay.
    In(u32),
    /// Egress of this device.
    Out(u32),
}

/// Expected result for a packet.
#[derive(Clone, Debug)]
pub enum Fate {
    /// Passed unchanged.
    Passes,
    /// Translated to this segment, and passed to the kernel's stack.
    GoesOn(Segment),
    /// Like `GoesOn`, and marked for masquerading.
    IsMasqueraded(Segment),
    /// Translated to this segment, and sent out of this device to a neighbour.
    Leaves(u32, Segment),
    /// Sent back out of its device as this segment.
    Bounces(Segment),
    /// Dropped, and counted under this reason.
    Dropped(Counter),
}

/// A step of a story.
pub enum Step<'a> {
    /// A packet passes a hook.
    Packet(Box<Fixture>),
    /// A change of the world, or a check of its state.
    Then(Box<dyn Fn(&World) + 'a>),
    /// The counter must have this value.
    Counted(Counter, u64),
}

/// A packet, the hook that it passes, and the expected result.
pub struct Fixture {
    what: &'static str,
    hook: Hook,
    packet: Segment,
    fate: Fate,
}

/// The parameters of a story: addresses, and the protocol of its packets.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    pub names: &'static Names,
    pub protocol: u8,
}

impl Cast {
    pub fn first(&self, src: &str, dst: &str) -> Segment {
        Segment::first(self.protocol, src, dst)
    }

    pub fn answer(&self, src: &str, dst: &str) -> Segment {
        Segment::answer(self.protocol, src, dst)
    }

    /// A packet in the middle of a flow, with data.
    pub fn later(&self, src: &str, dst: &str) -> Segment {
        Segment::later(self.protocol, src, dst).payload(b"odd")
    }
}

/// Runs a test for both families and all protocols.
pub fn for_each_cast(tell: impl Fn(Cast)) {
    for names in &BOTH {
        for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP] {
            tell(Cast { names, protocol });
        }
    }
}

pub fn packet<'a>(what: &'static str, hook: Hook, segment: &Segment, fate: Fate) -> Step<'a> {
    Step::Packet(Box::new(Fixture {
        what,
        hook,
        packet: segment.clone(),
        fate,
    }))
}

/// A change or check. `_what` describes it for readers only.
pub fn then<'a>(_what: &'static str, change: impl Fn(&World) + 'a) -> Step<'a> {
    Step::Then(Box::new(change))
}

/// Runs a story twice, each time in a fresh world: with complete checksums, and with pending transport
/// checksums. The resulting bytes must equal those of the expected packets, whose checksums are computed in
/// full.
pub fn tell<'a>(fresh: impl Fn() -> World, story: impl Fn() -> Vec<Step<'a>>) {
    for pending in [false, true] {
        let world = fresh();
        for step in story() {
            play(&world, step, pending);
        }
    }
}

fn play(world: &World, step: Step<'_>, pending: bool) {
    match step {
        Step::Then(change) => change(world),
        Step::Counted(counter, times) => {
            assert_eq!(world.counted(counter), times, "value of {counter:?}");
        }
        Step::Packet(fixture) => {
            let Fixture {
                what,
                hook,
                packet: segment,
                fate,
            } = *fixture;
            let before = frame(&segment, pending);
            let mut after = before.clone();
            let verdict = run(world, hook, &mut after);
            let (expected, segment) = match fate {
                Fate::Passes => (Verdict::Pass, segment),
                Fate::GoesOn(segment) => (Verdict::Continue, segment),
                Fate::IsMasqueraded(segment) => (Verdict::Masquerade, segment),
                Fate::Leaves(ifindex, segment) => (Verdict::Forward { ifindex }, segment),
                Fate::Bounces(segment) => (Verdict::Bounce, segment),
                Fate::Dropped(counter) => {
                    assert_eq!(verdict, Verdict::Drop(counter), "{what}");
                    return;
                }
            };
            assert_eq!(verdict, expected, "{what} (checksum pending: {pending})");
            if verdict == Verdict::Pass {
                assert_eq!(after, before, "{what}: passed, but changed");
            }
            let after = after.completed();
            assert_eq!(
                Dump(after.bytes()),
                Dump(&segment.bytes()),
                "{what} (checksum pending: {pending})"
            );
        }
    }
}

fn frame(segment: &Segment, pending: bool) -> Frame {
    // A sender without a checksum leaves none pending.
    if pending && segment.has_checksum() {
        segment.pending_frame()
    } else {
        segment.frame()
    }
}

/// Passes a packet through a hook. On an uplink, runs both tc alone and XDP followed by tc, which must give the
/// same result. A drop counter must rise exactly if the packet is dropped, and it must be that of the reason.
pub fn run(world: &World, hook: Hook, frame: &mut Frame) -> Verdict {
    let mut expected = drops(world);
    let verdict = pass(world, hook, frame);
    if let Verdict::Drop(reason) = verdict {
        *expected.entry(reason).or_default() += 1;
    }
    assert_eq!(
        drops(world),
        expected,
        "counted as dropped, and {verdict:?}"
    );
    verdict
}

/// Drops that were counted, by reason.
fn drops(world: &World) -> BTreeMap<Counter, u64> {
    let counters = world.counters().into_iter();
    counters
        .filter(|(counter, _)| counter.drop_reason().is_some())
        .collect()
}

fn pass(world: &World, hook: Hook, frame: &mut Frame) -> Verdict {
    let (mut tables, mut work) = (world, Work::default());
    let at = |ifindex| Ingress {
        ifindex,
        link: node::link(ifindex),
    };
    match hook {
        Hook::Pod(ifindex) => datapath::pod_ingress(frame, &mut tables, &mut work, at(ifindex)),
        Hook::In(ifindex) if node::link(ifindex) == LinkType::Ethernet => {
            xdp::with_and_without(world, frame, at(ifindex))
        }
        Hook::In(ifindex) => datapath::uplink_ingress(frame, &mut tables, &mut work, at(ifindex)),
        Hook::Out(ifindex) => {
            let link: LinkType = node::link(ifindex);
            datapath::egress(frame, &mut tables, &mut work, link)
        }
    }
}

/// Checks the checksums of an ICMP message behind an IP header without options.
pub fn sums_up(frame: &Frame, v4: bool) {
    let bytes = frame.bytes();
    if v4 {
        assert_eq!(checksum_of(&[&bytes[14..34]]), 0, "IPv4 header");
        assert_eq!(checksum_of(&[&bytes[34..]]), 0, "ICMP");
    } else {
        let len = (bytes.len() as u32 - 54).to_be_bytes();
        let sum = checksum_of(&[&bytes[22..54], &len, &[0, 0, 0, 58], &bytes[54..]]);
        assert_eq!(sum, 0, "ICMPv6");
    }
}

/// Bytes, formatted as hex lines.
#[derive(PartialEq, Eq)]
pub struct Dump<'a>(pub &'a [u8]);

impl std::fmt::Debug for Dump<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let space = if index % 16 == 0 { "\n" } else { " " };
            write!(f, "{space}{byte:02x}")?;
        }
        Ok(())
    }
}
