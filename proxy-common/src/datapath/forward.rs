//! The next hop of a translated packet.

use core::hint;

use super::{
    Ingress, Verdict, Work,
    answer::{self, Answer},
    drop,
    rewrite::rewrite,
};
use crate::{
    abi::{
        counter::Counter,
        device::LinkType,
        flow::{FlowKey, flow_flags},
        protocol,
    },
    addr::Addr,
    packet::{Packet, Segment},
    parse::Headers,
    tables::{PacketTables, Route, RouteQuery},
};

/// Translates a packet towards the backend and sends it on.
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
        // Keeps the destination MAC, which is the bridge's: the packet must be routed to be masqueraded, and
        // the reply must return to this node.
        return Verdict::Masquerade;
    }
    bridge(p, t, at, &w.value.out);
    Verdict::Continue
}

/// Sends on a packet of a flow with a translated source, in either direction: out of this node, or for a
/// hairpin back to the pod.
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

/// Routes the packet out of this node. It bypasses the kernel's receive path, which would drop it as a martian,
/// because its source is an address of this node.
#[inline(always)]
fn route<P: Packet, T: PacketTables>(p: &mut P, t: &mut T, at: Ingress, w: &Work) -> Verdict {
    let way = way(p, t, at, &w.h, &w.value.out.dst);
    match way.obstacle {
        None => {}
        // The sender is told (semantics P2).
        Some(Obstacle::HopLimit) => return answer::give(p, t, at, w, Answer::TimeExceeded, 0),
        Some(Obstacle::TooBig) => return answer::give(p, t, at, w, Answer::TooBig, way.mtu),
        Some(obstacle @ Obstacle::NoRoute) => return drop(t, obstacle.drop()),
    }
    if !rewrite(p, &w.h, &w.value.out, true) {
        return drop(t, Counter::DropRewrite);
    }
    Verdict::Forward {
        ifindex: way.ifindex,
    }
}

/// Why a packet cannot be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Its hop limit is used up.
    HopLimit,
    /// No route.
    NoRoute,
    /// It exceeds the device's MTU.
    TooBig,
}

impl Obstacle {
    /// The drop counter for this obstacle.
    #[inline(always)]
    pub(super) const fn drop(self) -> Counter {
        match self {
            Self::HopLimit => Counter::DropTtl,
            Self::NoRoute => Counter::DropNoRoute,
            Self::TooBig => Counter::DropTooBig,
        }
    }
}

/// Route of a packet out of this node. A struct and not an enum: LLVM would copy the inactive variant's fields
/// as well, and the verifier rejects reads of uninitialised stack.
pub(super) struct Way {
    /// Device.
    pub ifindex: u32,
    /// MTU of the device: bytes, from the IP header on.
    pub mtu: u32,
    /// The reason why the packet cannot leave, if there is one.
    pub obstacle: Option<Obstacle>,
}

/// Looks up the route to `dst` and checks hop limit and MTU.
#[inline(always)]
pub(super) fn way<P: Packet, T: PacketTables>(
    p: &mut P,
    t: &mut T,
    at: Ingress,
    h: &Headers,
    dst: &Addr,
) -> Way {
    let mut way = Way {
        ifindex: 0,
        mtu: 0,
        obstacle: None,
    };
    if h.ttl <= 1 {
        way.obstacle = Some(Obstacle::HopLimit);
        return way;
    }
    let query = RouteQuery {
        src: &h.tuple.src,
        dst,
        protocol: h.tuple.protocol,
        ifindex: at.ifindex,
    };
    match t.route(query) {
        Route::Neighbour { ifindex, .. } | Route::Device { ifindex } => way.ifindex = ifindex,
        Route::None => {
            way.obstacle = Some(Obstacle::NoRoute);
            return way;
        }
    }
    way.mtu = t.device(way.ifindex).map_or(u32::MAX, |device| device.mtu);
    if wire_len(p, h) > way.mtu {
        way.obstacle = Some(Obstacle::TooBig);
    }
    way
}

/// Length of the largest packet on the wire, in bytes, from the IP header on.
#[inline(always)]
pub(super) fn wire_len<P: Packet>(p: &mut P, h: &Headers) -> u32 {
    match p.segment() {
        // `black_box`: XDP's length is a difference of packet pointers, and LLVM would continue with pointer
        // arithmetic.
        Segment::None => hint::black_box(p.len()) - u32::from(h.l3),
        // The sender segmented it already, for the path MTU that it knows.
        Segment::Cut => 0,
        Segment::Payload(bytes) => bytes + u32::from(h.l4 - h.l3) + transport_len(p, h),
    }
}

/// Length of the transport header of a GSO packet.
#[inline(always)]
fn transport_len<P: Packet>(p: &mut P, h: &Headers) -> u32 {
    if h.tuple.protocol != protocol::TCP {
        return 8;
    }
    p.window::<20>(usize::from(h.l4))
        .map_or(20, |w| u32::from(w[12] >> 4) * 4)
}

/// Sends a hairpin packet back to the pod that sent it (semantics L5). It bypasses routing, bridging and
/// conntrack, which would drop it.
#[inline(always)]
fn bounce<P: Packet, T: PacketTables>(p: &mut P, t: &mut T, at: Ingress, w: &Work) -> Verdict {
    if !rewrite(p, &w.h, &w.value.out, false) {
        return drop(t, Counter::DropRewrite);
    }
    swap_macs(p, at.link);
    Verdict::Bounce
}

/// Exchanges the MAC addresses of a packet that goes back out of its device.
#[inline(always)]
pub(super) fn swap_macs<P: Packet>(p: &mut P, link: LinkType) {
    if matches!(link, LinkType::Ethernet)
        && let Some(w) = p.window::<12>(0)
    {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *w;
        *w = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
    }
}

/// If the backend is on the client's bridge, sets its MAC as destination. Both directions are then bridged, and
/// conntrack sees both or neither. If the neighbour is not resolved yet, this one packet is routed instead.
#[inline(always)]
pub(super) fn bridge<P: Packet, T: PacketTables>(p: &mut P, t: &mut T, at: Ingress, out: &FlowKey) {
    let bridge = t.device(at.ifindex).map_or(0, |device| device.bridge);
    if bridge == 0 {
        return;
    }
    let query = RouteQuery {
        src: &out.src,
        dst: &out.dst,
        protocol: out.protocol,
        ifindex: bridge,
    };
    if let Route::Neighbour { ifindex, mac } = t.route(query)
        && ifindex == bridge
        && let Some(w) = p.window::<6>(0)
    {
        *w = mac;
    }
}
