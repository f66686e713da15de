//! Packets of existing flows: the forward half at ingress; the reverse half at egress, or at ingress if the
//! source was translated; and the confirmation of a flow by its first reply.

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
    /// The flow is over, and the packet may begin another.
    Begin,
    /// [Remove](retire) the flow and send its client a RST (ADR 27).
    End,
}

/// Handles a packet at ingress whose tuple is the key of a half of a confirmed flow.
#[inline(always)]
pub(super) fn established<T: PacketTables>(t: &mut T, w: &mut Work, entry: T::Flow) -> Step {
    if !entry.load(&w.h.tuple, &mut w.value) {
        return Step::Begin;
    }
    if w.value.half != Half::Forward as u8 {
        // A backend's reply on its way in. It is translated later, at egress towards the client. A SYN from the
        // backend on this tuple means that the flow is over. An INIT belongs to the association: both sides may
        // send one, or the backend restarts it (RFC 9260 §5.2).
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

/// Whether the packet closes the flow in `Work::value`, which is then no longer counted in `LOADS`.
#[inline(always)]
fn closes(w: &Work) -> bool {
    w.value.flags & flow_flags::COUNTED != 0 && seen_flags(&w.h) & (seen::FIN | seen::RST) != 0
}

/// [`closes`] for a packet from the backend: stops counting the flow, whose forward half is `Work::value.out`
/// inverted.
#[inline(always)]
fn closed_by_backend<T: PacketTables>(t: &mut T, w: &mut Work) {
    if closes(w) {
        w.key = w.value.out.inverted();
        t.count_flow(w, load::ENDS);
    }
}

/// Whether the flow of a SYN, INIT or datagram is over: closed, or its backend does not serve (semantics L3).
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

/// Whether the TCP flow in `Work::value` must end because its backend was deleted (ADR 27). Excludes
/// connections opened directly to the backend, which are not the proxy's, and RSTs, which must not be answered.
#[inline(always)]
fn must_end<T: PacketTables>(t: &mut T, w: &Work) -> bool {
    w.h.tuple.protocol == protocol::TCP
        && t.settings().flags & settings_flags::END_TCP != 0
        && w.h.tcp_flags & tcp_flags::RST == 0
        && !w.value.is_straight(&w.h.tuple)
        && balance::is_deleted(t, slot(&w.value))
}

/// The backend of a flow, as a slot.
#[inline(always)]
pub(super) const fn slot(value: &FlowValue) -> Slot {
    Slot {
        backend: value.backend,
        generation: value.generation,
    }
}

/// The table of a flow's reverse half, given the table of its forward half.
#[inline(always)]
pub(super) fn other_table(value: &FlowValue, table: FlowTable) -> FlowTable {
    if value.flags & flow_flags::SNAT != 0 {
        FlowTable::Claims
    } else {
        table
    }
}

/// Removes both halves of a confirmed flow. The packet's tuple is the key of one of them, which is in
/// `Work::value`.
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

/// Looks up the reverse half for a reply to a translated source, and loads it.
#[inline(always)]
pub(super) fn snat_reply<T: PacketTables>(t: &mut T, w: &mut Work) -> Option<T::Flow> {
    let entry = t.flow(FlowTable::Claims, &w.h.tuple)?;
    entry.load(&w.h.tuple, &mut w.value).then_some(entry)
}

/// Records a reply that [`snat_reply`] found. The first reply confirms the flow.
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

/// Looks up the reverse half for a packet at egress, and loads it. The first reply confirms the flow.
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
    // The first reply of a TCP flow has SYN or RST; that of an SCTP flow is an INIT ACK or ABORT.
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

/// Moves a flow from `NEW_FLOWS` to `FLOWS` at its first reply. If `FLOWS` has no room for both halves, they
/// stay in `NEW_FLOWS`; this is counted, and the next reply tries again. If the first reply is a RST, the flow
/// is removed.
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

/// Writes the forward half into `FLOWS`, built from the reverse half in `Work::value`. Leaves its key in
/// `Work::key`. Returns false if the table is full.
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

/// The `seen` bits of the client's first packet.
#[inline(always)]
pub(super) const fn first_seen(h: &Headers) -> u8 {
    if protocol::has_connections(h.tuple.protocol) {
        seen::SYN
    } else {
        seen::DATA
    }
}
