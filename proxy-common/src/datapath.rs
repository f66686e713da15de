//! The packet path, readable from top to bottom: ingress of a pod's device, ingress of an uplink, egress; and before
//! them, on uplinks, XDP, which finishes what it can and leaves the rest as it is.
//!
//! Both translations sit on the device that the client is behind: DNAT at its ingress, the way back at its
//! egress. Conntrack, masquerading, `rp_filter` and netfilter's policies then see one tuple, client ↔ backend.
//! What comes in is translated back at ingress only if its source was translated by us.

pub mod answer;
pub mod begin;
pub mod choose;
pub mod claim;
mod flow;
mod forward;
mod fragment;
pub mod icmp;
mod rewrite;
mod xdp;

pub use xdp::xdp_ingress;

use self::answer::Answer;
use crate::{
    abi::{
        counter::Counter,
        device::LinkType,
        flow::{FlowKey, FlowValue, flow_flags},
        fragment::FragmentKey,
        frontend::Scope,
        settings::{MAX_SNAT_RANGES, Settings},
        target::{Backend, Slot},
    },
    balance::Found,
    packet::Packet,
    parse::{Headers, Kind, parse},
    tables::{FlowTable, PacketTables},
};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours, and unchanged: goes on to whoever comes next.
    Pass,
    /// Translated; goes on to the kernel.
    Continue,
    /// The same, and netfilter is to give it an address of this node as its source.
    Masquerade,
    /// Translated; leaves by this device, to the neighbour that the kernel finds.
    Forward {
        /// ifindex.
        ifindex: u32,
    },
    /// Goes back out of the device that it came in by, as it is: MACs are swapped already, or those of the way.
    Bounce,
    /// Translated; leaves by this device as it is: its MACs are those of the way. XDP's alone.
    Send {
        /// ifindex.
        ifindex: u32,
    },
    /// Dropped, counted under this reason.
    Drop(Counter),
}

/// Where a packet came in.
#[derive(Clone, Copy, Debug)]
pub struct Ingress {
    /// Device.
    pub ifindex: u32,
    /// How its packets begin.
    pub link: LinkType,
}

/// Memory for one packet, which a program's stack has no room for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// The packet's headers.
    h: Headers,
    /// Those of the packet that it quotes the beginning of, if it is an ICMP error.
    quoted: Headers,
    /// The half of the flow that the packet belongs to.
    value: FlowValue,
    /// The other half, while it is made.
    other: FlowValue,
    /// A key that is not the packet's own tuple.
    key: FlowKey,
    /// The device that an ICMP error leaves by.
    ifindex: u32,
    /// What its fragment shares with others.
    fragment: FragmentKey,
    /// Where a new flow begins, …
    place: begin::Place,
    /// … and at which frontend.
    found: Found,
    /// The backend that was chosen for it, …
    slot: Slot,
    /// … and what stands there.
    backend: Backend,
}

impl Work {
    /// The headers of the packet at hand.
    #[inline(always)]
    pub const fn headers(&self) -> &Headers {
        &self.h
    }

    /// The packet's tuple after translation, once [`begin::begin`] said that it is translated.
    #[inline(always)]
    pub const fn translated(&self) -> &FlowKey {
        &self.value.out
    }

    /// The key, and the backend of the flow.
    #[inline(always)]
    pub(crate) const fn counted(&self) -> (&FlowKey, Slot) {
        (&self.key, flow::slot(&self.value))
    }
}

/// A packet that a pod of this node sends.
#[inline(always)]
pub fn pod_ingress<P: Packet, T: PacketTables>(
    p: &mut P,
    t: &mut T,
    w: &mut Work,
    at: Ingress,
) -> Verdict {
    ingress(p, t, w, at, Scope::Cluster)
}

/// A packet that comes from elsewhere, by an uplink or overlay.
#[inline(always)]
pub fn uplink_ingress<P: Packet, T: PacketTables>(
    p: &mut P,
    t: &mut T,
    w: &mut Work,
    at: Ingress,
) -> Verdict {
    ingress(p, t, w, at, Scope::External)
}

#[inline(always)]
fn ingress<P: Packet, T: PacketTables>(
    p: &mut P,
    t: &mut T,
    w: &mut Work,
    at: Ingress,
    scope: Scope,
) -> Verdict {
    match parse(p, at.link, &mut w.h) {
        Kind::Transport => {}
        Kind::IcmpError => {
            let step = t.icmp_in(p, w, at, scope);
            return icmp::verdict(t, w, step);
        }
        Kind::Other => return Verdict::Pass,
    }
    if !fragment::complete(t, w) {
        return Verdict::Pass;
    }
    let step = decide(t, w, at, scope);
    if matches!(step, Step::Pass) {
        return Verdict::Pass;
    }
    // Before there is a verdict: compilers keep the parts of one that another has not, too, which the verifier refuses.
    fragment::leave(t, w);
    match step {
        Step::Pass => Verdict::Pass,
        Step::Onward => forward::onward(p, t, at, w),
        Step::Back => forward::back(p, t, at, w),
        Step::End => {
            flow::retire(t, w);
            answer::give(p, t, at, w, Answer::End, 0)
        }
        Step::Refuse => answer::give(p, t, at, w, Answer::Refusal, 0),
        Step::Drop(reason) => drop(t, reason),
    }
}

/// What is to become of a packet that comes in.
#[derive(Clone, Copy)]
enum Step {
    /// It is not ours.
    Pass,
    /// Towards the backend, as `Work::value` says.
    Onward,
    /// Back to the client.
    Back,
    /// Its flow is not to outlive its backend: refused, and retired.
    End,
    /// Refused.
    Refuse,
    /// Dropped, for this reason.
    Drop(Counter),
}

#[inline(always)]
fn decide<T: PacketTables>(t: &mut T, w: &mut Work, at: Ingress, scope: Scope) -> Step {
    match known(t, w, scope) {
        Known::Forward => return Step::Onward,
        Known::Back => return Step::Back,
        Known::End => return Step::End,
        Known::Pass => return Step::Pass,
        Known::No => {}
    }
    if !w.h.may_begin() {
        return Step::Pass;
    }
    let step = t.begin(w, at.ifindex, scope);
    match begin::finish(t, w, step) {
        begin::Step::Pass => Step::Pass,
        begin::Step::Translate => Step::Onward,
        begin::Step::Refuse => Step::Refuse,
        begin::Step::Drop(reason) => Step::Drop(reason),
    }
}

/// What the flow tables say of a packet that comes in.
enum Known {
    /// Of a client, to be translated as `Work::value` says.
    Forward,
    /// Of a backend that saw a translated source.
    Back,
    /// Of a client, whose flow is not to outlive its backend.
    End,
    /// To be left alone.
    Pass,
    /// Nothing.
    No,
}

#[inline(always)]
fn known<T: PacketTables>(t: &mut T, w: &mut Work, scope: Scope) -> Known {
    if let Some(entry) = t.flow(FlowTable::Confirmed, &w.h.tuple) {
        match flow::established(t, w, entry) {
            flow::Step::Translate => return Known::Forward,
            flow::Step::End => return Known::End,
            flow::Step::Pass => return Known::Pass,
            flow::Step::Begin => {}
        }
    }
    if may_be_snat_reply(&t.settings(), w.h.tuple.dst_port.get(), scope)
        && let Some(entry) = flow::snat_reply(t, w)
    {
        flow::accept_reply(t, w, entry);
        return Known::Back;
    }
    Known::No
}

/// A packet that leaves by any device: the reply of a flow that came in by it is translated back.
#[inline(always)]
pub fn egress<P: Packet, T: PacketTables>(
    p: &mut P,
    t: &mut T,
    w: &mut Work,
    link: LinkType,
) -> Verdict {
    match parse(p, link, &mut w.h) {
        Kind::Transport => {}
        Kind::IcmpError => {
            let step = t.icmp_out(p, w);
            return icmp::verdict(t, w, step);
        }
        Kind::Other => return Verdict::Pass,
    }
    if !fragment::complete(t, w) || !flow::reply(t, w) || w.value.flags & flow_flags::SNAT != 0 {
        return Verdict::Pass;
    }
    fragment::leave(t, w);
    if !rewrite::rewrite(p, &w.h, &w.value.out, false) {
        return drop(t, Counter::DropRewrite);
    }
    Verdict::Continue
}

/// Whether a reply to a translated source could have this destination port.
#[inline(always)]
fn may_be_snat_reply(settings: &Settings, port: u16, scope: Scope) -> bool {
    if scope as u8 == Scope::Cluster as u8 {
        return settings.hairpin_ports.contains(port);
    }
    let mut i = 0;
    while i < MAX_SNAT_RANGES {
        if settings.snat_ports[i].contains(port) {
            return true;
        }
        i += 1;
    }
    false
}

#[inline(always)]
fn drop<T: PacketTables>(t: &mut T, reason: Counter) -> Verdict {
    t.count(reason);
    Verdict::Drop(reason)
}

/// The time that has passed between two readings of the clock, in its ticks.
#[inline(always)]
const fn since(now: u32, then: u32) -> u32 {
    now.wrapping_sub(then)
}

/// TCP flags, and what stands for them in SCTP, as flow tables keep them.
#[inline(always)]
const fn seen_flags(h: &Headers) -> u8 {
    use crate::{abi::flow::seen, parse::tcp_flags};
    let f = h.tcp_flags;
    let mut s = 0;
    if f & tcp_flags::SYN != 0 {
        s |= seen::SYN;
    }
    if f & tcp_flags::FIN != 0 {
        s |= seen::FIN;
    }
    if f & tcp_flags::RST != 0 {
        s |= seen::RST;
    }
    if s == 0 {
        s = seen::DATA;
    }
    s
}
