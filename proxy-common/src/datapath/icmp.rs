//! ICMP errors about translated packets (semantics P2): they go the way of the flow that they are about, and quote the packet
//! as its sender knows it. Both addresses are translated as those of any packet that goes this way (as netfilter does): who
//! is told of an error by an address that it does not know the way to may never be told.

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

// What comes of an error is a number, since a shell makes this a function of its own that returns one; see `verdict`. Others
// are numbers of counters.

/// It is not ours. All that XDP would say, which leaves errors to tc.
pub const PASS: u32 = u32::MAX;
const CONTINUE: u32 = u32::MAX - 1;
const FORWARD: u32 = u32::MAX - 2;
const BOUNCE: u32 = u32::MAX - 3;

/// Flags that say whose source is translated, and how: `SNAT` alone on its way through this node, both of a hairpin.
const SOURCE: u8 = flow_flags::SNAT | flow_flags::HAIRPIN;

/// What [`incoming`] and [`outgoing`] said. An error that is dropped is counted here, whoever says that it is.
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

/// An error that comes in: about what a client was sent, or what left with a translated source. What becomes of it is a number.
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
    // As for any packet: what a pod is told of itself comes from the pod, and of another node's backend from elsewhere.
    if !found || translates != 0 && (translates == SOURCE) != inside {
        return PASS;
    }
    w.key = outer(w);
    let step = match translates {
        0 => CONTINUE,
        flow_flags::SNAT => {
            let way = forward::way(p, t, at, &w.h, &w.key.dst);
            if let Some(obstacle) = way.obstacle {
                // Errors are not answered with errors (RFC 1122 §3.2.2).
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
        // Netfilter knows the client of a masqueraded flow by another address: such packets are routed.
        CONTINUE if w.value.flags & flow_flags::MASQUERADE == 0 => {
            forward::bridge(p, t, at, &w.key);
        }
        _ => {}
    }
    t.count(Counter::IcmpTranslated);
    step
}

/// An error that leaves for a client: about what was translated where it came in. What becomes of it is a number.
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

/// Whoever sends an error sends it to the sender of what it quotes: others are not about a packet that came by here.
#[inline(always)]
fn is_for_its_sender(w: &Work) -> bool {
    w.h.tuple.dst.same(&w.quoted.tuple.src)
}

/// Loads the half of a flow that `Work::key` names: that of the answers to the packet that is quoted, since they go the error's
/// way.
#[inline(always)]
fn load<T: PacketTables>(t: &mut T, w: &mut Work, table: FlowTable) -> bool {
    t.flow(table, &w.key)
        .is_some_and(|entry| entry.load(&w.key, &mut w.value))
}

/// What the error itself becomes, its ports aside. A source that this way of the flow leaves alone stays that of the router.
#[inline(always)]
fn outer(w: &Work) -> FlowKey {
    let mut outer = w.h.tuple;
    outer.dst = w.value.out.dst;
    if !w.value.out.src.same(&w.key.src) {
        outer.src = w.value.out.src;
    }
    outer
}
