//! The packet path, from top to bottom: ingress of a pod's device, ingress of an uplink, egress. On uplinks XDP
//! runs first; it finishes the packets that it can and leaves the others unmodified.
//!
//! Both directions are translated on the device that leads to the client: DNAT at its ingress, the reverse
//! translation of replies at its egress. Conntrack, masquerading, `rp_filter` and netfilter policies therefore
//! see the same tuple in both directions, client ↔ backend. Incoming packets get the reverse translation at
//! ingress only if the proxy translated the flow's source.

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

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not for the proxy, and unchanged: continues to the next program or the stack.
    Pass,
    /// Translated: continues into the kernel's stack.
    Continue,
    /// Like `Continue`, and netfilter is to masquerade it.
    Masquerade,
    /// Translated: leaves by this device, to the neighbour that the kernel resolves.
    Forward {
        /// ifindex.
        ifindex: u32,
    },
    /// Goes back out of the device that it came in on. Its MAC addresses are already right.
    Bounce,
    /// Translated: leaves by this device. Its MAC addresses are already right. XDP only.
    Send {
        /// ifindex.
        ifindex: u32,
    },
    /// Dropped, and counted under this reason.
    Drop(Counter),
}

/// Where a packet came in.
#[derive(Clone, Copy, Debug)]
pub struct Ingress {
    /// ifindex.
    pub ifindex: u32,
    /// Which header the device's packets start with.
    pub link: LinkType,
}

/// State for one packet. It lives in a per-CPU map, because it does not fit on the BPF stack (ADR 12).
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// The packet's headers.
    h: Headers,
    /// If the packet is an ICMP error: headers of the packet that it quotes.
    quoted: Headers,
    /// The half of the flow that the packet belongs to.
    value: FlowValue,
    /// The other half, while the flow is created or removed.
    other: FlowValue,
    /// A key other than the packet's own tuple.
    key: FlowKey,
    /// The device by which an ICMP error leaves.
    ifindex: u32,
    /// Key of a fragmented packet.
    fragment: FragmentKey,
    /// For a new flow: where its packet came in.
    place: begin::Place,
    /// For a new flow: its frontend.
    found: Found,
    /// For a new flow: slot of the chosen backend.
    slot: Slot,
    /// For a new flow: the chosen backend.
    backend: Backend,
}

impl Work {
    /// The headers of the packet.
    #[inline(always)]
    pub const fn headers(&self) -> &Headers {
        &self.h
    }

    /// The packet's tuple after translation. Valid once [`begin::begin`] has decided to translate it.
    #[inline(always)]
    pub const fn translated(&self) -> &FlowKey {
        &self.value.out
    }

    /// The key of the flow, and its backend.
    #[inline(always)]
    pub(crate) const fn counted(&self) -> (&FlowKey, Slot) {
        (&self.key, flow::slot(&self.value))
    }
}

/// Ingress of a pod's device: a packet that a pod of this node sends.
#[inline(always)]
pub fn pod_ingress<P: Packet, T: PacketTables>(
    p: &mut P,
    t: &mut T,
    w: &mut Work,
    at: Ingress,
) -> Verdict {
    ingress(p, t, w, at, Scope::Cluster)
}

/// Ingress of an uplink or overlay: a packet from outside this node.
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
    // Must come before any verdict exists: LLVM would keep a partly initialised verdict on the stack across the
    // call, and the verifier rejects reads of it.
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

/// Next step for an incoming packet.
#[derive(Clone, Copy)]
enum Step {
    /// Not for the proxy.
    Pass,
    /// Translate it towards the backend, as `Work::value` says.
    Onward,
    /// Translate it back towards the client.
    Back,
    /// The flow's backend was deleted: send RST and remove the flow (ADR 27).
    End,
    /// Refuse it.
    Refuse,
    /// Drop it for this reason.
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

/// What the flow tables say about an incoming packet.
enum Known {
    /// From a client, to be translated as `Work::value` says.
    Forward,
    /// A reply to a translated source.
    Back,
    /// From a client whose flow ends because its backend was deleted.
    End,
    /// Leave it unchanged.
    Pass,
    /// No flow matches.
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

/// Egress of any device: replies of flows whose client is behind this device get the reverse translation.
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

/// Whether a reply to a translated source can have this destination port.
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

/// Clock ticks from `then` to `now`, modulo 2³².
#[inline(always)]
const fn since(now: u32, then: u32) -> u32 {
    now.wrapping_sub(then)
}

/// TCP flags (and their SCTP equivalents) as `FlowValue::seen` stores them.
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
