//! Which fields a new flow translates, and which source address its backend sees.

use super::Work;
use crate::{
    abi::{
        counter::Counter,
        device::DeviceClass,
        flow::{FlowValue, flow_flags},
        meta::List,
        target::{Algorithm, backend_lists},
    },
    addr::Addr,
    tables::{PacketTables, Route, RouteQuery},
};

/// Builds the forward half for a flow from this client to the chosen backend (semantics A1, A2, L5).
#[inline(always)]
pub(super) fn shape<T: PacketTables>(t: &mut T, w: &mut Work) -> Result<(), Counter> {
    let now = t.now();
    w.value = FlowValue {
        out: w.h.tuple,
        created: now,
        last_seen: now,
        backend: w.slot.backend,
        generation: w.slot.generation,
        ..FlowValue::default()
    };
    w.value.out.dst = w.backend.addr;
    w.value.out.dst_port = w.backend.port;
    let counted = if matches!(w.found.word.algorithm(), Algorithm::LeastConnections) {
        flow_flags::COUNTED
    } else {
        0
    };
    let outside = w.place.outside;
    if !outside && w.backend.addr.same(&w.h.tuple.src) {
        w.value.out.src = w.h.tuple.dst;
        w.value.flags = flow_flags::SNAT | flow_flags::HAIRPIN | counted;
        return Ok(());
    }
    if w.backend.is_local() {
        w.value.flags = flow_flags::LOCAL;
    } else if outside && let Some(source) = masquerade_address(t, w)? {
        w.value.out.src = source;
        w.value.flags = flow_flags::SNAT;
    }
    if outside && w.value.flags & flow_flags::SNAT == 0 && is_masqueraded_here(t, w) {
        w.value.flags |= flow_flags::MASQUERADE;
    }
    w.value.flags |= counted;
    if w.place.unanswered {
        w.value.flags |= flow_flags::PORT;
    }
    Ok(())
}

/// Whether netfilter must masquerade packets from outside to this backend on this node: the agent has installed
/// its masquerade rules, and the backend list is that of the Cluster policy (semantics A2). If the backend's
/// address is this node's own, packets are not forwarded and pass no such rule.
#[inline(always)]
fn is_masqueraded_here<T: PacketTables>(t: &mut T, w: &Work) -> bool {
    t.settings().masquerade_mark != 0
        && w.found.flags & backend_lists::bit(List::Cluster) != 0
        && t.node_addr(&w.backend.addr).is_none()
}

/// The source address for traffic to a backend on another node: an address of the device that leads there, so
/// that replies come back to this node. `None` if the device leads to a pod of this node, whatever the
/// EndpointSlice says; then replies come back anyway.
#[inline(always)]
fn masquerade_address<T: PacketTables>(t: &mut T, w: &Work) -> Result<Option<Addr>, Counter> {
    let query = RouteQuery {
        src: &w.h.tuple.src,
        dst: &w.value.out.dst,
        protocol: w.h.tuple.protocol,
        ifindex: w.place.ifindex,
    };
    let ifindex = match t.route(query) {
        Route::Neighbour { ifindex, .. } | Route::Device { ifindex } => ifindex,
        Route::None => return Err(Counter::DropNoRoute),
    };
    let device = t.device(ifindex).ok_or(Counter::DropNoSourceAddress)?;
    if device.class == DeviceClass::Pod as u8 || device.class == DeviceClass::Bridge as u8 {
        return Ok(None);
    }
    let addr = if w.h.v6 {
        device.snat_v6
    } else {
        device.snat_v4
    };
    if addr.is_unspecified() {
        return Err(Counter::DropNoSourceAddress);
    }
    Ok(Some(addr))
}
