//! Packets of flows that exist: the forward half at ingress, the reverse half at egress (or at ingress, where the
//! source was translated), and the step from unconfirmed to confirmed.

use super::{Work, seen_flags};
use crate::{
    abi::{
        counter::Counter,
        flow::{FlowValue, Half, flow_flags, seen},
        protocol,
        settings::settings_flags,
        target::Slot,
    },
    balance, load,
    parse::{Headers, tcp_flags},
    tables::{FlowRef, FlowTable, Insert, PacketTables},
};

/// What to do with a packet whose tuple is in `FLOWS`.
pub(super) enum Step {
    /// Translate it as `Work::value` says.
    Translate,
    /// Leave it alone.
    Pass,
    /// The flow is over: this packet may begin another.
    Begin,
    /// The flow is to be [retired](retire), and its client to be told.
    End,
}

/// A packet at ingress whose tuple is a half of a confirmed flow.
#[inline(always)]
pub(super) fn established<T: PacketTables>(t: &mut T, w: &mut Work, entry: T::Flow) -> Step {
    if !entry.load(&w.h.tuple, &mut w.value) {
        return Step::Begin;
    }
    if w.value.half != Half::Forward as u8 {
        // A backend's reply on its way in: translated where the client is. A SYN of its own on this tuple says
        // that the flow is over; an INIT belongs to it (RFC 9260 §5.2: both began, or the backend begins anew).
        if w.h.is_syn() && w.h.tuple.protocol == protocol::TCP {
            retire(t, w);
            return Step::Begin;
        }
        return Step::Pass;
    }
    if w.h.may_begin() && is_over(t, w) {
        retire(t, w);
        return Step::Begin;
    }
    if must_end(t, w) {
        return Step::End;
    }
    let now = t.now();
    entry.touch(now, seen_flags(&w.h));
    if closes(w) {
        w.key = w.h.tuple;
        t.count_flow(w, load::ENDS);
    }
    Step::Translate
}

/// Whether the packet closes the flow in `Work::value`, which counts as a connection until then.
#[inline(always)]
fn closes(w: &Work) -> bool {
    w.value.flags & flow_flags::COUNTED != 0 && seen_flags(&w.h) & (seen::FIN | seen::RST) != 0
}

/// The same for a packet of its backend's, whose forward half is found by `Work::value`.
#[inline(always)]
fn closed_by_backend<T: PacketTables>(t: &mut T, w: &mut Work) {
    if closes(w) {
        w.key = w.value.out.inverted();
        t.count_flow(w, load::ENDS);
    }
}

/// Whether a SYN, INIT or datagram that meets a confirmed flow finds it over: closed, or its backend gone (semantics L3).
#[inline(always)]
fn is_over<T: PacketTables>(t: &mut T, w: &mut Work) -> bool {
    if balance::serving(t, slot(&w.value)).is_none() {
        return true;
    }
    if !protocol::has_connections(w.h.tuple.protocol) {
        return false;
    }
    let closing = seen::FIN | seen::RST;
    if w.value.seen & closing != 0 {
        return true;
    }
    w.key = w.value.out.inverted();
    t.flow(other_table(&w.value, FlowTable::Confirmed), &w.key)
        .and_then(|entry| entry.state(&w.key))
        .is_none_or(|reverse| reverse.seen & closing != 0)
}

/// Whether the TCP flow in `Work::value` is not to outlive its backend (ADR 27), which was deleted. What was opened straight
/// to the backend is not the proxy's to end, and a client that breaks off itself is not answered.
#[inline(always)]
fn must_end<T: PacketTables>(t: &mut T, w: &Work) -> bool {
    w.h.tuple.protocol == protocol::TCP
        && t.settings().flags & settings_flags::END_TCP != 0
        && w.h.tcp_flags & tcp_flags::RST == 0
        && !w.value.is_straight(&w.h.tuple)
        && balance::is_deleted(t, slot(&w.value))
}

/// The backend of a flow, as slots name it.
#[inline(always)]
pub(super) const fn slot(value: &FlowValue) -> Slot {
    Slot {
        backend: value.backend,
        generation: value.generation,
    }
}

/// The table of the reverse half, given that of the forward half.
#[inline(always)]
pub(super) fn other_table(value: &FlowValue, table: FlowTable) -> FlowTable {
    if value.flags & flow_flags::SNAT != 0 {
        FlowTable::Claims
    } else {
        table
    }
}

/// Removes both halves of the confirmed flow of which the packet's tuple is one.
#[inline(always)]
pub(super) fn retire<T: PacketTables>(t: &mut T, w: &mut Work) {
    w.key = w.value.out.inverted();
    t.remove_flow(FlowTable::Confirmed, &w.h.tuple);
    t.remove_flow(other_table(&w.value, FlowTable::Confirmed), &w.key);
    if w.value.flags & flow_flags::COUNTED != 0 {
        if w.value.half == Half::Forward as u8 {
            w.key = w.h.tuple;
        }
        t.count_flow(w, load::ENDS);
    }
}

/// Finds the reverse half of a reply that arrives with a translated destination, and loads it.
#[inline(always)]
pub(super) fn snat_reply<T: PacketTables>(t: &mut T, w: &mut Work) -> Option<T::Flow> {
    let entry = t.flow(FlowTable::Claims, &w.h.tuple)?;
    entry.load(&w.h.tuple, &mut w.value).then_some(entry)
}

/// Notes a reply that [`snat_reply`] found; the first confirms the flow.
#[inline(always)]
pub(super) fn accept_reply<T: PacketTables>(t: &mut T, w: &mut Work, entry: T::Flow) {
    let now = t.now();
    entry.touch(now, seen_flags(&w.h));
    if w.value.flags & flow_flags::CONFIRMED == 0 {
        if !confirm_forward(t, w, now) {
            t.count(Counter::FlowUnconfirmed);
            return;
        }
        entry.set_flags(w.value.flags | flow_flags::CONFIRMED);
        t.remove_flow(FlowTable::New, &w.key);
        t.count(Counter::FlowConfirmed);
    }
    closed_by_backend(t, w);
}

/// Finds the reverse half of a packet that leaves, confirmed if it is the first reply.
#[inline(always)]
pub(super) fn reply<T: PacketTables>(t: &mut T, w: &mut Work) -> bool {
    if let Some(entry) = t.flow(FlowTable::Confirmed, &w.h.tuple) {
        if !entry.load(&w.h.tuple, &mut w.value) || w.value.half != Half::Reverse as u8 {
            return false;
        }
        let now = t.now();
        entry.touch(now, seen_flags(&w.h));
        closed_by_backend(t, w);
        return true;
    }
    // Of TCP, only the answer to a SYN can be the first; of SCTP, that to an INIT.
    if protocol::has_connections(w.h.tuple.protocol)
        && seen_flags(&w.h) & (seen::SYN | seen::RST) == 0
    {
        return false;
    }
    let Some(entry) = t.flow(FlowTable::New, &w.h.tuple) else {
        return false;
    };
    if !entry.load(&w.h.tuple, &mut w.value) || w.value.half != Half::Reverse as u8 {
        return false;
    }
    confirm(t, w);
    true
}

/// Moves a flow from `NEW_FLOWS` to `FLOWS` at its first reply. Where `FLOWS` has no room for both halves, both stay where
/// they are: counted, and tried again at the next reply. A refusal ends the flow.
#[inline(always)]
fn confirm<T: PacketTables>(t: &mut T, w: &mut Work) {
    if seen_flags(&w.h) & seen::RST == 0 {
        let now = t.now();
        if !confirm_forward(t, w, now) {
            t.count(Counter::FlowUnconfirmed);
            return;
        }
        w.other = w.value;
        w.other.last_seen = now;
        w.other.seen = seen_flags(&w.h);
        w.other.flags |= flow_flags::CONFIRMED;
        if t.insert_flow(FlowTable::Confirmed, &w.h.tuple, &w.other) == Insert::Full {
            t.remove_flow(FlowTable::Confirmed, &w.key);
            if w.value.flags & flow_flags::COUNTED != 0 {
                t.count_flow(w, load::ENDS);
            }
            t.count(Counter::FlowUnconfirmed);
            return;
        }
        t.count(Counter::FlowConfirmed);
    } else {
        w.key = w.value.out.inverted();
    }
    t.remove_flow(FlowTable::New, &w.key);
    t.remove_flow(FlowTable::New, &w.h.tuple);
}

/// Writes the forward half into `FLOWS`: the reverse half, which the packet is of, says all about it. Leaves its key
/// in `Work::key`.
#[inline(always)]
fn confirm_forward<T: PacketTables>(t: &mut T, w: &mut Work, now: u32) -> bool {
    w.key = w.value.out.inverted();
    w.other = w.value;
    w.other.out = w.h.tuple.inverted();
    w.other.last_seen = now;
    w.other.half = Half::Forward as u8;
    w.other.flags |= flow_flags::CONFIRMED;
    w.other.seen = first_seen(&w.h);
    w.other.fingerprint = w.key.fingerprint();
    match t.insert_flow(FlowTable::Confirmed, &w.key, &w.other) {
        Insert::Done => {
            if w.value.flags & flow_flags::COUNTED != 0 {
                t.count_flow(w, load::BEGINS);
            }
            true
        }
        Insert::Exists => true,
        Insert::Full => false,
    }
}

/// What the client's first packet carried.
#[inline(always)]
pub(super) const fn first_seen(h: &Headers) -> u8 {
    if protocol::has_connections(h.tuple.protocol) {
        seen::SYN
    } else {
        seen::DATA
    }
}
