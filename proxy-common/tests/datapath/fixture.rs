//! Fixtures: a packet, where it meets the datapath, and what becomes of it.

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

/// Where a packet meets the datapath.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    /// Sent by the pod behind a device.
    Pod(u32),
    /// In by an uplink or overlay.
    In(u32),
    /// Out by a device.
    Out(u32),
}

/// What becomes of a packet.
#[derive(Clone, Debug)]
pub enum Fate {
    /// Not ours, unchanged.
    Passes,
    /// On to the kernel, as this.
    GoesOn(Segment),
    /// The same, to be masqueraded there.
    IsMasqueraded(Segment),
    /// Out of a device by way of its neighbours, as this.
    Leaves(u32, Segment),
    /// Back out of its device, as this.
    Bounces(Segment),
    /// Dropped and counted.
    Dropped(Counter),
}

/// A line of a story.
pub enum Step<'a> {
    /// A packet.
    Packet(Box<Fixture>),
    /// A change of the world.
    Then(Box<dyn Fn(&World) + 'a>),
    /// An event must have been counted so often so far.
    Counted(Counter, u64),
}

/// A packet, where it meets the datapath, and what becomes of it.
pub struct Fixture {
    what: &'static str,
    hook: Hook,
    packet: Segment,
    fate: Fate,
}

/// What a story is told of: names, and a protocol with which its packets begin and are answered.
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

    /// A later packet, with data.
    pub fn later(&self, src: &str, dst: &str) -> Segment {
        Segment::later(self.protocol, src, dst).payload(b"odd")
    }
}

/// Runs something for both families and all protocols.
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

/// A change; what happens is said for the reader.
pub fn then<'a>(_what: &'static str, change: impl Fn(&World) + 'a) -> Step<'a> {
    Step::Then(Box::new(change))
}

/// Tells a story twice, each time in a fresh world: with all checksums there, and with transport checksums left to the
/// device. The bytes must be those of the packets expected, whose checksums are summed up in full.
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
            assert_eq!(
                world.counted(counter),
                times,
                "{counter:?} was counted otherwise"
            );
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
                assert_eq!(after, before, "{what}: passed, and yet changed");
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
    // Who sends no checksum leaves none to the device.
    if pending && segment.has_checksum() {
        segment.pending_frame()
    } else {
        segment.frame()
    }
}

/// Puts a packet through a hook; on an uplink, by tc alone and by XDP first, which must come to the same. It must be counted as
/// dropped exactly when it is, and for the reason that it is.
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

/// Checks the sums of an ICMP message behind a plain IP header.
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

/// Bytes, printed so that one can read them.
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
