//! The first packet of a flow: frontend, backend, claim.

use super::{Verdict, Work, claim, flow};
use crate::{
    abi::{
        counter::Counter,
        device::DeviceClass,
        flow::{FlowValue, Half, flow_flags},
        frontend::{FrontendKind, Scope},
        target::{Backend, Slot, TargetState},
    },
    addr::Addr,
    balance::{self, Found},
    hash,
    tables::{FlowRef, FlowTable, Insert, PacketTables, Route, RouteQuery},
};

/// Backends that are tried when the client's tuple to one is held by another of its flows.
const MAX_BACKENDS_TRIED: u32 = 3;

/// A first fragment: whatever it is of, it goes on untranslated, as its followers must; counted if it was for us.
#[inline(always)]
pub(super) fn fragment<T: PacketTables>(t: &mut T, w: &Work, scope: Scope) -> Verdict {
    if balance::frontend(
        t,
        &w.h.tuple.dst,
        w.h.tuple.dst_port,
        w.h.tuple.protocol,
        scope,
    )
    .is_some()
    {
        t.count(Counter::FragmentPassed);
    }
    Verdict::Pass
}

/// What the packet that may begin a flow, and belongs to none that is confirmed, is to become. A number, since a
/// shell may make this a program of its own that returns one; see [`Step`] for what it means.
#[inline(always)]
pub fn begin<T: PacketTables>(t: &mut T, w: &mut Work, ifindex: u32, scope: Scope) -> u32 {
    let Some(found) = lookup(t, w, scope) else {
        untranslated(t, w);
        return Step::PASS;
    };
    if !found.admits(t, &w.h.tuple.src) {
        return Counter::DropSourceRange as u32;
    }
    match found.word.state() {
        TargetState::Reject => return Step::REFUSE,
        TargetState::Drop => return Counter::DropNoLocalEndpoint as u32,
        TargetState::Serve | TargetState::Absent => {}
    }
    if repeated(t, w) {
        return Step::TRANSLATE;
    }
    let place = Place {
        ifindex,
        scope,
        found,
    };
    match create(t, w, &place) {
        Ok(()) => Step::TRANSLATE,
        Err(reason) => reason as u32,
    }
}

/// What comes after [`begin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Not ours.
    Pass,
    /// Translate it as `Work::value` says.
    Translate,
    /// Refuse it.
    Refuse,
    /// Drop it, for this reason.
    Drop(Counter),
}

impl Step {
    const PASS: u32 = u32::MAX;
    const TRANSLATE: u32 = u32::MAX - 1;
    const REFUSE: u32 = u32::MAX - 2;

    /// From what [`begin`] returned: one of the constants, or the number of a counter.
    #[inline(always)]
    pub(super) fn from_u32(n: u32) -> Self {
        match n {
            Self::PASS => Self::Pass,
            Self::TRANSLATE => Self::Translate,
            Self::REFUSE => Self::Refuse,
            n => Self::Drop(Counter::from_u32(n).unwrap_or(Counter::DropRewrite)),
        }
    }
}

/// Where a new flow begins.
struct Place {
    ifindex: u32,
    scope: Scope,
    found: Found,
}

/// The frontend of a packet. One on an address of this node leaves the node's own listeners alone (semantics S7).
#[inline(always)]
fn lookup<T: PacketTables>(t: &mut T, w: &Work, scope: Scope) -> Option<Found> {
    let found = balance::frontend(
        t,
        &w.h.tuple.dst,
        w.h.tuple.dst_port,
        w.h.tuple.protocol,
        scope,
    )?;
    if found.kind == FrontendKind::ExternalIp
        && t.node_addr(&w.h.tuple.dst).is_some()
        && t.listens(&w.h.tuple)
    {
        return None;
    }
    Some(found)
}

/// A connection that is not translated, on a tuple that a translated flow of the same client holds: it is the
/// client's latest word, the old flow is over.
#[inline(always)]
fn untranslated<T: PacketTables>(t: &mut T, w: &mut Work) {
    if !w.h.is_syn() {
        return;
    }
    w.key = w.h.tuple.inverted();
    if let Some(entry) = t.flow(FlowTable::Confirmed, &w.key)
        && entry.load(&w.key, &mut w.value)
        && w.value.half == Half::Reverse as u8
    {
        forget(t, w, FlowTable::Confirmed);
    }
    if let Some(entry) = t.flow(FlowTable::New, &w.key)
        && entry.load(&w.key, &mut w.value)
        && w.value.half == Half::Reverse as u8
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
fn repeated<T: PacketTables>(t: &mut T, w: &mut Work) -> bool {
    let Some(entry) = t.flow(FlowTable::New, &w.h.tuple) else {
        return false;
    };
    if entry.load(&w.h.tuple, &mut w.value)
        && w.value.half == Half::Forward as u8
        && balance::serving(t, flow::slot(&w.value)).is_some()
        && has_reverse(t, w)
    {
        let now = t.now();
        entry.touch(now, super::seen_flags(&w.h));
        return true;
    }
    t.remove_flow(FlowTable::New, &w.h.tuple);
    false
}

/// Whether the reverse half of the flow in `Work` is there, made again if it was not.
#[inline(always)]
fn has_reverse<T: PacketTables>(t: &mut T, w: &mut Work) -> bool {
    w.key = w.value.out.inverted();
    let table = flow::other_table(&w.value, FlowTable::New);
    if let Some(entry) = t.flow(table, &w.key)
        && entry.load(&w.key, &mut w.other)
    {
        let (theirs, mine) = (&w.other.out, &w.h.tuple);
        return theirs.dst.same(&mine.src)
            && theirs.src.same(&mine.dst)
            && theirs.dst_port == mine.src_port
            && theirs.src_port == mine.dst_port;
    }
    matches!(claim::try_tuple(t, w), Ok(true))
}

/// Gives a new flow its backend and both of its halves; the forward one is in `Work::value`.
#[inline(always)]
fn create<T: PacketTables>(t: &mut T, w: &mut Work, place: &Place) -> Result<(), Counter> {
    let seed = w.h.tuple.keyed_hash(t.settings().hash_key);
    let mut tried = 0;
    while tried < MAX_BACKENDS_TRIED {
        let choice = if tried == 0 {
            seed
        } else {
            hash::finish(seed ^ tried)
        };
        let (slot, backend) =
            balance::select(t, &place.found, choice).ok_or(Counter::DropStaleBackend)?;
        let last = tried + 1 == MAX_BACKENDS_TRIED || place.found.word.count() == 1;
        shape(t, w, place, slot, &backend)?;
        if claim::claim(t, w, seed, last)? {
            w.value.half = Half::Forward as u8;
            w.value.seen = flow::first_seen(&w.h);
            w.value.fingerprint = w.h.tuple.fingerprint();
            if t.insert_flow(FlowTable::New, &w.h.tuple, &w.value) == Insert::Full {
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
    w: &mut Work,
    place: &Place,
    slot: Slot,
    backend: &Backend,
) -> Result<(), Counter> {
    let now = t.now();
    w.value = FlowValue {
        out: w.h.tuple,
        created: now,
        last_seen: now,
        backend: slot.backend,
        generation: slot.generation,
        ..FlowValue::default()
    };
    w.value.out.dst = backend.addr;
    w.value.out.dst_port = backend.port;
    let outside = place.scope as u8 == Scope::External as u8;
    if !outside && backend.addr.same(&w.h.tuple.src) {
        w.value.out.src = w.h.tuple.dst;
        w.value.flags = flow_flags::SNAT | flow_flags::HAIRPIN;
        return Ok(());
    }
    if backend.is_local() {
        w.value.flags = flow_flags::LOCAL;
    } else if outside && let Some(source) = masquerade_address(t, w, place.ifindex)? {
        w.value.out.src = source;
        w.value.flags = flow_flags::SNAT;
    }
    Ok(())
}

/// The source that masquerading would take: an address of the device that leads to the backend, so that the reply
/// comes back to this node. None if that device is a pod's: the reply comes back anyway, whatever the slice said.
#[inline(always)]
fn masquerade_address<T: PacketTables>(
    t: &mut T,
    w: &Work,
    ifindex: u32,
) -> Result<Option<Addr>, Counter> {
    let query = RouteQuery {
        src: &w.h.tuple.src,
        dst: &w.value.out.dst,
        protocol: w.h.tuple.protocol,
        ifindex,
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
