//! The first packet of a flow: frontend, backend, claim.

use super::{Ingress, Verdict, Work, answer, claim, drop, flow, forward};
use crate::{
    abi::{
        counter::Counter,
        flow::{FlowValue, Half, flow_flags},
        frontend::{FrontendKind, Scope},
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
    w: &mut Work,
    at: Ingress,
    h: &Headers,
    scope: Scope,
) -> Verdict {
    let Some(found) = lookup(t, h, scope) else {
        untranslated(t, h, w);
        return Verdict::Pass;
    };
    match found.word.state() {
        TargetState::Reject => return answer::refuse(p, t, at, h),
        TargetState::Drop => return drop(t, Counter::DropNoLocalEndpoint),
        TargetState::Serve | TargetState::Absent => {}
    }
    if !repeated(t, h, w) {
        let place = Place {
            at,
            scope,
            word: found.word,
        };
        if let Some(reason) = Counter::from_u32(create(t, h, w, &place)) {
            return drop(t, reason);
        }
    }
    forward::onward(p, t, at, h, &w.value)
}

/// Where a new flow begins.
struct Place {
    at: Ingress,
    scope: Scope,
    word: TargetWord,
}

/// What [`create`] returns for a flow that was created; no counter has this number.
const CREATED: u32 = u32::MAX;

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
fn untranslated<T: PacketTables>(t: &mut T, h: &Headers, w: &mut Work) {
    if !h.is_syn() {
        return;
    }
    w.key = h.tuple.inverted();
    if let Some(entry) = t.flow(FlowTable::Confirmed, &w.key)
        && entry.load(&w.key, &mut w.value)
    {
        forget(t, w, FlowTable::Confirmed);
    }
    if let Some(entry) = t.flow(FlowTable::New, &w.key)
        && entry.load(&w.key, &mut w.value)
    {
        forget(t, w, FlowTable::New);
    }
}

/// Removes both halves of a flow of which `Work` holds one.
#[inline(always)]
fn forget<T: PacketTables>(t: &mut T, w: &mut Work, table: FlowTable) {
    t.remove_flow(table, &w.key);
    w.other.out = w.value.out.inverted();
    t.remove_flow(flow::other_table(&w.value, table), &w.other.out);
}

/// Finds the forward half of an unconfirmed flow that this packet repeats, while its backend serves and its reverse
/// half, which may have been evicted alone, is there or can be made again.
#[inline(always)]
fn repeated<T: PacketTables>(t: &mut T, h: &Headers, w: &mut Work) -> bool {
    let Some(entry) = t.flow(FlowTable::New, &h.tuple) else {
        return false;
    };
    if entry.load(&h.tuple, &mut w.value)
        && w.value.half == Half::Forward as u8
        && balance::serving(t, flow::slot(&w.value)).is_some()
        && has_reverse(t, h, w)
    {
        let now = t.now();
        entry.touch(now, super::seen_flags(h));
        return true;
    }
    t.remove_flow(FlowTable::New, &h.tuple);
    false
}

/// Whether the reverse half of the flow in `Work` is there, made again if it was not.
#[inline(always)]
fn has_reverse<T: PacketTables>(t: &mut T, h: &Headers, w: &mut Work) -> bool {
    w.key = w.value.out.inverted();
    let table = flow::other_table(&w.value, FlowTable::New);
    if let Some(entry) = t.flow(table, &w.key)
        && entry.load(&w.key, &mut w.other)
    {
        let (theirs, mine) = (&w.other.out, &h.tuple);
        return theirs.dst.same(&mine.src)
            && theirs.src.same(&mine.dst)
            && theirs.dst_port == mine.src_port
            && theirs.src_port == mine.dst_port;
    }
    claim::write_reverse(h, w);
    t.insert_flow(table, &w.key, &w.other) == Insert::Done
}

/// Gives a new flow its backend and both of its halves; the forward one is in `Work::value`. Returns [`CREATED`], or
/// the number of the reason why not. A call of its own, for the stack.
#[inline(never)]
fn create<T: PacketTables>(t: &mut T, h: &Headers, w: &mut Work, place: &Place) -> u32 {
    match try_create(t, h, w, place) {
        Ok(()) => CREATED,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_create<T: PacketTables>(
    t: &mut T,
    h: &Headers,
    w: &mut Work,
    place: &Place,
) -> Result<(), Counter> {
    let seed = h.tuple.keyed_hash(t.settings().hash_key);
    let mut tried = 0;
    while tried < MAX_BACKENDS_TRIED {
        let choice = if tried == 0 {
            seed
        } else {
            hash::finish(seed ^ tried)
        };
        let (slot, backend) =
            balance::select(t, place.word, choice).ok_or(Counter::DropStaleBackend)?;
        let last = tried + 1 == MAX_BACKENDS_TRIED || place.word.count() == 1;
        shape(t, h, place, slot, &backend, &mut w.value)?;
        if claim::claim(t, h, w, seed, last)? {
            w.value.half = Half::Forward as u8;
            w.value.seen = flow::first_seen(h);
            w.value.fingerprint = h.tuple.fingerprint();
            if t.insert_flow(FlowTable::New, &h.tuple, &w.value) == Insert::Full {
                return Err(Counter::DropFlowTableFull);
            }
            t.count(Counter::FlowCreated);
            return Ok(());
        }
        tried += 1;
    }
    Err(Counter::DropNoSourcePort)
}

/// What a flow of this client to this backend must translate (semantics A1, A2, L5).
#[inline(always)]
fn shape<T: PacketTables>(
    t: &mut T,
    h: &Headers,
    place: &Place,
    slot: Slot,
    backend: &Backend,
    value: &mut FlowValue,
) -> Result<(), Counter> {
    let now = t.now();
    *value = FlowValue {
        out: h.tuple,
        created: now,
        last_seen: now,
        backend: slot.backend,
        generation: slot.generation,
        ..FlowValue::default()
    };
    value.out.dst = backend.addr;
    value.out.dst_port = backend.port;
    if backend.addr.same(&h.tuple.src) {
        value.out.src = h.tuple.dst;
        value.flags = flow_flags::SNAT | flow_flags::HAIRPIN;
    } else if place.scope as u8 == Scope::External as u8 && !backend.is_local() {
        value.out.src = masquerade_address(t, h, place.at, &backend.addr)?;
        value.flags = flow_flags::SNAT;
    } else if backend.is_local() {
        value.flags = flow_flags::LOCAL;
    }
    Ok(())
}

/// The source that masquerading would take: an address of the device that leads to the backend, so that the reply
/// comes back to this node.
#[inline(always)]
fn masquerade_address<T: PacketTables>(
    t: &mut T,
    h: &Headers,
    at: Ingress,
    backend: &Addr,
) -> Result<Addr, Counter> {
    let query = RouteQuery {
        src: &h.tuple.src,
        dst: backend,
        protocol: h.tuple.protocol,
        ifindex: at.ifindex,
    };
    let ifindex = match t.route(query) {
        Route::Neighbour { ifindex, .. } | Route::Device { ifindex } => ifindex,
        Route::None => return Err(Counter::DropNoRoute),
    };
    let device = t.device(ifindex).ok_or(Counter::DropNoSourceAddress)?;
    let addr = if backend.is_v4() {
        device.snat_v4
    } else {
        device.snat_v6
    };
    if addr.is_unspecified() {
        return Err(Counter::DropNoSourceAddress);
    }
    Ok(addr)
}
