//! The first packet of a flow: frontend, backend, claim.

use super::{Ingress, Verdict, answer, claim, drop, flow, forward};
use crate::{
    abi::{
        counter::Counter,
        flow::{FlowValue, Half, flow_flags, seen},
        frontend::{FrontendKind, Scope},
        protocol,
        settings::Settings,
        target::{Backend, Slot, TargetState, TargetWord},
    },
    addr::Addr,
    balance::{self, Found},
    hash,
    packet::Packet,
    parse::Headers,
    tables::{FlowRef, FlowTable, Insert, PacketTables, Route, RouteQuery},
};

/// Backends that are tried when the client's tuple to one is held by another of its flows.
const MAX_BACKENDS_TRIED: u32 = 3;

/// A first fragment: whatever it is of, it goes on untranslated, as its followers must; counted if it was for us.
#[inline(always)]
pub(super) fn fragment<T: PacketTables>(t: &mut T, h: &Headers, scope: Scope) -> Verdict {
    if balance::frontend(t, &h.tuple.dst, h.tuple.dst_port, h.tuple.protocol, scope).is_some() {
        t.count(Counter::FragmentPassed);
    }
    Verdict::Pass
}

/// A packet that may begin a flow, and belongs to none that is confirmed.
#[inline(always)]
pub(super) fn begin<P: Packet, T: PacketTables>(
    p: &mut P,
    t: &mut T,
    at: Ingress,
    h: &Headers,
    settings: &Settings,
    scope: Scope,
) -> Verdict {
    let Some(found) = lookup(t, h, scope) else {
        untranslated(t, h);
        return Verdict::Pass;
    };
    match found.word.state() {
        TargetState::Reject => return answer::refuse(p, t, at, h),
        TargetState::Drop => return drop(t, Counter::DropNoLocalEndpoint),
        TargetState::Serve | TargetState::Absent => {}
    }
    if let Some(value) = repeated(t, h) {
        return forward::onward(p, t, at, h, &value);
    }
    match create(t, at, h, settings, scope, found.word) {
        Ok(value) => forward::onward(p, t, at, h, &value),
        Err(reason) => drop(t, reason),
    }
}

/// The frontend of a packet. One on an address of this node leaves the node's own listeners alone (semantics S7).
#[inline(always)]
fn lookup<T: PacketTables>(t: &mut T, h: &Headers, scope: Scope) -> Option<Found> {
    let found = balance::frontend(t, &h.tuple.dst, h.tuple.dst_port, h.tuple.protocol, scope)?;
    if found.kind == FrontendKind::ExternalIp
        && t.node_addr(&h.tuple.dst).is_some()
        && t.listens(&h.tuple)
    {
        return None;
    }
    Some(found)
}

/// A connection that is not translated, on a tuple that a translated flow of the same client holds: it is the
/// client's latest word, the old flow is over.
#[inline(always)]
fn untranslated<T: PacketTables>(t: &mut T, h: &Headers) {
    if !h.is_syn() {
        return;
    }
    let key = h.tuple.inverted();
    if let Some(value) = t
        .flow(FlowTable::Confirmed, &key)
        .and_then(|entry| entry.load(&key))
    {
        flow::retire(t, &key, &value);
    }
    if let Some(value) = t
        .flow(FlowTable::New, &key)
        .and_then(|entry| entry.load(&key))
    {
        t.remove_flow(FlowTable::New, &key);
        t.remove_flow(FlowTable::New, &value.out.inverted());
    }
}

/// The forward half of an unconfirmed flow that this packet repeats, while its backend serves and its reverse
/// half, which may have been evicted alone, is there or can be made again.
#[inline(always)]
fn repeated<T: PacketTables>(t: &mut T, h: &Headers) -> Option<FlowValue> {
    let entry = t.flow(FlowTable::New, &h.tuple)?;
    let value = entry.load(&h.tuple)?;
    let slot = Slot {
        backend: value.backend,
        generation: value.generation,
    };
    if value.half != Half::Forward as u8 || balance::serving(t, slot).is_none() {
        t.remove_flow(FlowTable::New, &h.tuple);
        t.remove_flow(FlowTable::New, &value.out.inverted());
        return None;
    }
    let reverse_key = value.out.inverted();
    let table = if value.flags & flow_flags::SNAT != 0 {
        FlowTable::Claims
    } else {
        FlowTable::New
    };
    let mine = h.tuple.inverted();
    match t
        .flow(table, &reverse_key)
        .and_then(|entry| entry.load(&reverse_key))
    {
        Some(reverse) if reverse.out == mine => {}
        Some(_) => {
            t.remove_flow(FlowTable::New, &h.tuple);
            return None;
        }
        None => {
            let reverse = FlowValue {
                out: mine,
                half: Half::Reverse as u8,
                seen: 0,
                fingerprint: reverse_key.fingerprint(),
                ..value
            };
            if t.insert_flow(table, &reverse_key, &reverse) != Insert::Done {
                t.remove_flow(FlowTable::New, &h.tuple);
                return None;
            }
        }
    }
    let now = t.now();
    entry.touch(now, super::seen_flags(h));
    Some(value)
}

/// Gives a new flow its backend and both of its halves.
#[inline(always)]
fn create<T: PacketTables>(
    t: &mut T,
    at: Ingress,
    h: &Headers,
    settings: &Settings,
    scope: Scope,
    word: TargetWord,
) -> Result<FlowValue, Counter> {
    let seed = h.tuple.keyed_hash(settings.hash_key);
    let mut tried = 0;
    while tried < MAX_BACKENDS_TRIED {
        let choice = if tried == 0 {
            seed
        } else {
            hash::finish(seed ^ tried)
        };
        let (slot, backend) = balance::select(t, word, choice).ok_or(Counter::DropStaleBackend)?;
        let last = tried + 1 == MAX_BACKENDS_TRIED || word.count() == 1;
        let mut value = shape(t, at, h, scope, slot, &backend)?;
        if claim::claim(t, h, settings, &mut value, seed, last)? {
            value.half = Half::Forward as u8;
            value.fingerprint = h.tuple.fingerprint();
            value.seen = if h.tuple.protocol == protocol::TCP {
                seen::SYN
            } else {
                seen::DATA
            };
            if t.insert_flow(FlowTable::New, &h.tuple, &value) == Insert::Full {
                return Err(Counter::DropFlowTableFull);
            }
            t.count(Counter::FlowCreated);
            return Ok(value);
        }
        tried += 1;
    }
    Err(Counter::DropNoSourcePort)
}

/// What a flow of this client to this backend must translate (semantics A1, A2, L5).
#[inline(always)]
fn shape<T: PacketTables>(
    t: &mut T,
    at: Ingress,
    h: &Headers,
    scope: Scope,
    slot: Slot,
    backend: &Backend,
) -> Result<FlowValue, Counter> {
    let mut value = FlowValue {
        out: h.tuple,
        created: t.now(),
        backend: slot.backend,
        generation: slot.generation,
        ..FlowValue::default()
    };
    value.last_seen = value.created;
    value.out.dst = backend.addr;
    value.out.dst_port = backend.port;
    if backend.addr.same(&h.tuple.src) {
        value.out.src = h.tuple.dst;
        value.flags = flow_flags::SNAT | flow_flags::HAIRPIN;
    } else if scope as u8 == Scope::External as u8 && !backend.is_local() {
        value.out.src = masquerade_address(t, at, h, backend)?;
        value.flags = flow_flags::SNAT;
    } else if backend.is_local() {
        value.flags = flow_flags::LOCAL;
    }
    Ok(value)
}

/// The source that masquerading would take: an address of the device that leads to the backend, so that the reply
/// comes back to this node.
#[inline(always)]
fn masquerade_address<T: PacketTables>(
    t: &mut T,
    at: Ingress,
    h: &Headers,
    backend: &Backend,
) -> Result<Addr, Counter> {
    let query = RouteQuery {
        src: &h.tuple.src,
        dst: &backend.addr,
        protocol: h.tuple.protocol,
        ifindex: at.ifindex,
    };
    let ifindex = match t.route(query) {
        Route::Neighbour { ifindex, .. } | Route::Device { ifindex } => ifindex,
        Route::None => return Err(Counter::DropNoRoute),
    };
    let device = t.device(ifindex).ok_or(Counter::DropNoSourceAddress)?;
    let addr = if backend.addr.is_v4() {
        device.snat_v4
    } else {
        device.snat_v6
    };
    if addr.is_unspecified() {
        return Err(Counter::DropNoSourceAddress);
    }
    Ok(addr)
}
