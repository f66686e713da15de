//! Where a translated packet goes from here.

use super::{Ingress, Verdict, Work, drop, rewrite::rewrite};
use crate::{
    abi::{
        counter::Counter,
        device::LinkType,
        flow::{FlowKey, flow_flags},
    },
    packet::Packet,
    tables::{PacketTables, Route, RouteQuery},
};

/// Towards the backend.
#[inline(always)]
pub(super) fn onward<P: Packet, T: PacketTables>(
    p: &mut P,
    t: &mut T,
    at: Ingress,
    w: &Work,
) -> Verdict {
    if w.value.flags & flow_flags::SNAT != 0 {
        return back(p, t, at, w);
    }
    if !rewrite(p, &w.h, &w.value.out, false) {
        return drop(t, Counter::DropRewrite);
    }
    if w.value.flags & flow_flags::MASQUERADE != 0 {
        // Also to the bridge that it came by: what is only bridged is not masqueraded, and the answer is this node's.
        return Verdict::Masquerade;
    }
    bridge(p, t, at, &w.value.out);
    Verdict::Continue
}

/// Either way of a flow whose source is translated: out of this node, or back to the pod that it came from.
#[inline(always)]
pub(super) fn back<P: Packet, T: PacketTables>(
    p: &mut P,
    t: &mut T,
    at: Ingress,
    w: &Work,
) -> Verdict {
    if w.value.flags & flow_flags::HAIRPIN != 0 {
        bounce(p, t, at, w)
    } else {
        route(p, t, at, w)
    }
}

/// Out of this node, by whatever device leads there. Never handed to the kernel's receive path: its source is an
/// address of this node, which the kernel drops as a martian.
#[inline(always)]
fn route<P: Packet, T: PacketTables>(p: &mut P, t: &mut T, at: Ingress, w: &Work) -> Verdict {
    if w.h.ttl <= 1 {
        return drop(t, Counter::DropTtl);
    }
    let query = RouteQuery {
        src: &w.h.tuple.src,
        dst: &w.value.out.dst,
        protocol: w.h.tuple.protocol,
        ifindex: at.ifindex,
    };
    let ifindex = match t.route(query) {
        Route::Neighbour { ifindex, .. } | Route::Device { ifindex } => ifindex,
        Route::None => return drop(t, Counter::DropNoRoute),
    };
    if let Some(device) = t.device(ifindex)
        && p.wire_len(usize::from(w.h.l3)) > device.mtu
    {
        return drop(t, Counter::DropTooBig);
    }
    if !rewrite(p, &w.h, &w.value.out, true) {
        return drop(t, Counter::DropRewrite);
    }
    Verdict::Forward { ifindex }
}

/// Back to the pod that sent it (semantics L5): past routing, bridge and conntrack, which would not have it.
#[inline(always)]
fn bounce<P: Packet, T: PacketTables>(p: &mut P, t: &mut T, at: Ingress, w: &Work) -> Verdict {
    if !rewrite(p, &w.h, &w.value.out, false) {
        return drop(t, Counter::DropRewrite);
    }
    swap_macs(p, at.link);
    Verdict::Bounce
}

/// Exchanges the MAC addresses of a packet that goes back where it came from.
#[inline(always)]
pub(super) fn swap_macs<P: Packet>(p: &mut P, link: LinkType) {
    if matches!(link, LinkType::Ethernet)
        && let Some(w) = p.window::<12>(0)
    {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *w;
        *w = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
    }
}

/// A backend on the client's own bridge is addressed by its MAC: both directions are then bridged, and conntrack
/// sees both or neither. An unknown neighbour is routed this once.
#[inline(always)]
fn bridge<P: Packet, T: PacketTables>(p: &mut P, t: &mut T, at: Ingress, out: &FlowKey) {
    let Some(device) = t.device(at.ifindex) else {
        return;
    };
    if device.bridge == 0 {
        return;
    }
    let query = RouteQuery {
        src: &out.src,
        dst: &out.dst,
        protocol: out.protocol,
        ifindex: device.bridge,
    };
    if let Route::Neighbour { ifindex, mac } = t.route(query)
        && ifindex == device.bridge
        && let Some(w) = p.window::<6>(0)
    {
        *w = mac;
    }
}
