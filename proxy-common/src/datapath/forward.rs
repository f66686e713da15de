//! Where a translated packet goes from here.

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
    let way = way(p, t, at, &w.h, &w.value.out.dst);
    match way.obstacle {
        None => {}
        // Its sender is told (semantics P2).
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

/// Why a packet does not go on from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Its hop limit is used up.
    HopLimit,
    /// Nothing leads there.
    NoRoute,
    /// It is bigger than the device takes.
    TooBig,
}

impl Obstacle {
    /// What a packet is counted as that is dropped for it.
    #[inline(always)]
    pub(super) const fn drop(self) -> Counter {
        match self {
            Self::HopLimit => Counter::DropTtl,
            Self::NoRoute => Counter::DropNoRoute,
            Self::TooBig => Counter::DropTooBig,
        }
    }
}

/// How a packet leaves this node. No enum: the compiler would copy the part of it that is not there, which the verifier
/// refuses.
pub(super) struct Way {
    /// By this device.
    pub ifindex: u32,
    /// Bytes that it takes, from the IP header on.
    pub mtu: u32,
    /// Not at all, for this.
    pub obstacle: Option<Obstacle>,
}

/// The way on to an address.
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

/// Bytes of the biggest piece that will leave, from the IP header on.
#[inline(always)]
pub(super) fn wire_len<P: Packet>(p: &mut P, h: &Headers) -> u32 {
    match p.segment() {
        // As a number: XDP's length is a difference of pointers, which the compiler would go on calculating with.
        Segment::None => hint::black_box(p.len()) - u32::from(h.l3),
        // Cut already, by what the sender knows of the path.
        Segment::Cut => 0,
        Segment::Payload(bytes) => bytes + u32::from(h.l4 - h.l3) + transport_len(p, h),
    }
}

/// Length of the transport header of a packet that is cut into segments.
#[inline(always)]
fn transport_len<P: Packet>(p: &mut P, h: &Headers) -> u32 {
    if h.tuple.protocol != protocol::TCP {
        return 8;
    }
    p.window::<20>(usize::from(h.l4))
        .map_or(20, |w| u32::from(w[12] >> 4) * 4)
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
