//! ICMP errors about translated packets (semantics P2). An error goes in the same direction as the flow's
//! replies. The packet that it quotes is translated back to what its sender sent. The error's own addresses are
//! translated like those of a reply, as netfilter does, because hosts drop errors from unroutable sources.

use super::{Ingress, Verdict, Work, drop, forward, rewrite::rewrite_error};
use crate::{
    abi::{
        counter::Counter,
        flow::{FlowKey, Half, flow_flags},
        frontend::Scope,
    },
    packet::Packet,
    parse::parse_quoted,
    tables::{FlowRef, FlowTable, PacketTables},
};

// Numbers that `incoming` and `outgoing` return, because `proxy-ebpf` compiles them as separate BPF functions.
// `verdict` decodes them; any other number is that of a drop counter.

/// Not for the proxy. XDP always says this, since it leaves ICMP errors to tc.
pub const PASS: u32 = u32::MAX;
const CONTINUE: u32 = u32::MAX - 1;
const FORWARD: u32 = u32::MAX - 2;
const BOUNCE: u32 = u32::MAX - 3;

/// Flags of a flow with a translated source: `SNAT` alone if it passes through this node, both for a hairpin.
const SOURCE: u8 = flow_flags::SNAT | flow_flags::HAIRPIN;

/// Decodes a result of [`incoming`] or [`outgoing`]. Counts the error here if it is dropped.
#[inline(always)]
pub(super) fn verdict<T: PacketTables>(t: &mut T, w: &Work, step: u32) -> Verdict {
    match step {
        PASS => Verdict::Pass,
        CONTINUE => Verdict::Continue,
        FORWARD => Verdict::Forward { ifindex: w.ifindex },
        BOUNCE => Verdict::Bounce,
        reason => drop(t, Counter::from_u32(reason).unwrap_or(Counter::DropRewrite)),
    }
}

/// An ICMP error at ingress. It quotes a packet that was sent to a client, or one that left with a translated
/// source.
#[inline(always)]
pub fn incoming<P: Packet, T: PacketTables>(
    p: &mut P,
    t: &mut T,
    w: &mut Work,
    at: Ingress,
    scope: Scope,
) -> u32 {
    if !parse_quoted(p, &w.h, &mut w.quoted) || !is_for_its_sender(w) {
        return PASS;
    }
    w.key = w.quoted.tuple.inverted();
    let found = if load(t, w, FlowTable::Confirmed) || load(t, w, FlowTable::New) {
        w.value.half == Half::Forward as u8
    } else {
        load(t, w, FlowTable::Claims)
    };
    let (translates, inside) = (w.value.flags & SOURCE, scope as u8 == Scope::Cluster as u8);
    // As with replies: errors about hairpin flows come from the pod itself, and those about other flows with a
    // translated source come from outside this node.
    if !found || translates != 0 && (translates == SOURCE) != inside {
        return PASS;
    }
    w.key = outer(w);
    let step = match translates {
        0 => CONTINUE,
        flow_flags::SNAT => {
            let way = forward::way(p, t, at, &w.h, &w.key.dst);
            if let Some(obstacle) = way.obstacle {
                // No ICMP error may be sent about an ICMP error (RFC 1122 §3.2.2).
                return obstacle.drop() as u32;
            }
            w.ifindex = way.ifindex;
            FORWARD
        }
        _ => BOUNCE,
    };
    if !rewrite_error(p, w, step == FORWARD) {
        return Counter::DropRewrite as u32;
    }
    match step {
        BOUNCE => forward::swap_macs(p, at.link),
        // Not for a masqueraded flow: netfilter knows its client by another address, so the error must be
        // routed.
        CONTINUE if w.value.flags & flow_flags::MASQUERADE == 0 => {
            forward::bridge(p, t, at, &w.key);
        }
        _ => {}
    }
    t.count(Counter::IcmpTranslated);
    step
}

/// An ICMP error at egress, towards the client of a flow without a translated source.
#[inline(always)]
pub fn outgoing<P: Packet, T: PacketTables>(p: &mut P, t: &mut T, w: &mut Work) -> u32 {
    if !parse_quoted(p, &w.h, &mut w.quoted) || !is_for_its_sender(w) {
        return PASS;
    }
    w.key = w.quoted.tuple.inverted();
    let found = load(t, w, FlowTable::Confirmed) || load(t, w, FlowTable::New);
    if !found || w.value.half != Half::Reverse as u8 || w.value.flags & flow_flags::SNAT != 0 {
        return PASS;
    }
    w.key = outer(w);
    if !rewrite_error(p, w, false) {
        return Counter::DropRewrite as u32;
    }
    t.count(Counter::IcmpTranslated);
    CONTINUE
}

/// Whether the error is addressed to the source of the packet that it quotes. If not, that packet did not pass
/// here.
#[inline(always)]
fn is_for_its_sender(w: &Work) -> bool {
    w.h.tuple.dst.same(&w.quoted.tuple.src)
}

/// Loads the half of a flow with the key in `Work::key`. The key is the inverted tuple of the quoted packet,
/// because the error goes in the direction of the replies.
#[inline(always)]
fn load<T: PacketTables>(t: &mut T, w: &mut Work, table: FlowTable) -> bool {
    t.flow(table, &w.key)
        .is_some_and(|entry| entry.load(&w.key, &mut w.value))
}

/// Addresses of the error after translation; its ports are unused. If this half does not translate the source,
/// the error keeps the address of the router that sent it.
#[inline(always)]
fn outer(w: &Work) -> FlowKey {
    let mut outer = w.h.tuple;
    outer.dst = w.value.out.dst;
    if !w.value.out.src.same(&w.key.src) {
        outer.src = w.value.out.src;
    }
    outer
}
