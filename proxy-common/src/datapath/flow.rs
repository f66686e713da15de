//! Packets of flows that exist: the forward half at ingress, the reverse half at egress (or at ingress, where the
//! source was translated), and the step from unconfirmed to confirmed.

use super::seen_flags;
use crate::{
    abi::{
        counter::Counter,
        flow::{FlowKey, FlowValue, Half, flow_flags, seen},
        protocol,
        target::Slot,
    },
    balance,
    parse::Headers,
    tables::{FlowRef, FlowTable, Insert, PacketTables},
};

/// What to do with a packet whose tuple is in `FLOWS`.
pub(super) enum Step {
    /// Translate it so.
    Translate(FlowValue),
    /// Leave it alone.
    Pass,
    /// The flow is over: this packet may begin another.
    Begin,
}

/// A packet at ingress whose tuple is a half of a confirmed flow.
#[inline(always)]
pub(super) fn established<T: PacketTables>(t: &mut T, h: &Headers, entry: T::Flow) -> Step {
    let Some(value) = entry.load(&h.tuple) else {
        return Step::Begin;
    };
    if value.half != Half::Forward as u8 {
        // A backend's reply on its way in: translated where the client is. A SYN of its own on this tuple says
        // that the flow is over.
        if h.is_syn() {
            retire(t, &h.tuple, &value);
            return Step::Begin;
        }
        return Step::Pass;
    }
    if h.may_begin() && is_over(t, h, &value) {
        retire(t, &h.tuple, &value);
        return Step::Begin;
    }
    let now = t.now();
    entry.touch(now, seen_flags(h));
    Step::Translate(value)
}

/// Whether a SYN or datagram that meets a confirmed flow finds it over: closed, or its backend gone (semantics L3).
#[inline(always)]
fn is_over<T: PacketTables>(t: &mut T, h: &Headers, forward: &FlowValue) -> bool {
    let slot = Slot {
        backend: forward.backend,
        generation: forward.generation,
    };
    if balance::serving(t, slot).is_none() {
        return true;
    }
    if h.tuple.protocol != protocol::TCP {
        return false;
    }
    let closing = seen::FIN | seen::RST;
    if forward.seen & closing != 0 {
        return true;
    }
    let key = forward.out.inverted();
    match t.flow(reverse_table(forward), &key) {
        Some(entry) => entry
            .load(&key)
            .is_none_or(|reverse| reverse.seen & closing != 0),
        None => true,
    }
}

/// The table that holds the reverse half of a confirmed flow.
#[inline(always)]
fn reverse_table(value: &FlowValue) -> FlowTable {
    if value.flags & flow_flags::SNAT != 0 {
        FlowTable::Claims
    } else {
        FlowTable::Confirmed
    }
}

/// Removes both halves of a flow, given one of them.
#[inline(always)]
pub(super) fn retire<T: PacketTables>(t: &mut T, key: &FlowKey, value: &FlowValue) {
    let other = value.out.inverted();
    t.remove_flow(FlowTable::Confirmed, key);
    if value.flags & flow_flags::SNAT != 0 {
        t.remove_flow(FlowTable::Claims, &other);
    } else {
        t.remove_flow(FlowTable::Confirmed, &other);
    }
}

/// The reverse half of a reply that arrives with a translated destination, confirmed if it is the first.
#[inline(always)]
pub(super) fn snat_reply<T: PacketTables>(t: &mut T, h: &Headers) -> Option<FlowValue> {
    let entry = t.flow(FlowTable::Claims, &h.tuple)?;
    let value = entry.load(&h.tuple)?;
    let now = t.now();
    entry.touch(now, seen_flags(h));
    if value.flags & flow_flags::CONFIRMED == 0 {
        if !insert_forward(t, &h.tuple, &value, now) {
            return None;
        }
        entry.set_flags(value.flags | flow_flags::CONFIRMED);
        t.count(Counter::FlowConfirmed);
    }
    Some(value)
}

/// The reverse half of a packet that leaves, confirmed if it is the first reply.
#[inline(always)]
pub(super) fn reply<T: PacketTables>(t: &mut T, h: &Headers) -> Option<FlowValue> {
    if let Some(entry) = t.flow(FlowTable::Confirmed, &h.tuple) {
        let value = entry.load(&h.tuple)?;
        if value.half == Half::Reverse as u8 {
            let now = t.now();
            entry.touch(now, seen_flags(h));
        }
        return Some(value);
    }
    // Of TCP, only the answer to a SYN can be the first.
    if h.tuple.protocol == protocol::TCP && seen_flags(h) & (seen::SYN | seen::RST) == 0 {
        return None;
    }
    let entry = t.flow(FlowTable::New, &h.tuple)?;
    let value = entry.load(&h.tuple)?;
    if value.half == Half::Reverse as u8 {
        confirm(t, h, &value);
    }
    Some(value)
}

/// Moves a flow from `NEW_FLOWS` to `FLOWS` at its first reply. Where `FLOWS` is full it stays where it is, and
/// the client's next packet is not translated: counted, and tried again at the next reply.
#[inline(always)]
fn confirm<T: PacketTables>(t: &mut T, h: &Headers, value: &FlowValue) {
    let forward_key = value.out.inverted();
    if seen_flags(h) & seen::RST == 0 {
        let now = t.now();
        let reverse = FlowValue {
            last_seen: now,
            seen: seen_flags(h),
            flags: value.flags | flow_flags::CONFIRMED,
            ..*value
        };
        if t.insert_flow(FlowTable::Confirmed, &h.tuple, &reverse) == Insert::Full
            || !insert_forward(t, &h.tuple, value, now)
        {
            t.count(Counter::DropFlowTableFull);
            return;
        }
        t.count(Counter::FlowConfirmed);
    }
    t.remove_flow(FlowTable::New, &forward_key);
    t.remove_flow(FlowTable::New, &h.tuple);
}

/// Writes the forward half of a flow into `FLOWS`; the reverse half says all about it.
#[inline(always)]
fn insert_forward<T: PacketTables>(
    t: &mut T,
    reverse_key: &FlowKey,
    reverse: &FlowValue,
    now: u32,
) -> bool {
    let key = reverse.out.inverted();
    let forward = FlowValue {
        out: reverse_key.inverted(),
        last_seen: now,
        half: Half::Forward as u8,
        flags: reverse.flags | flow_flags::CONFIRMED,
        seen: if key.protocol == protocol::TCP {
            seen::SYN
        } else {
            seen::DATA
        },
        fingerprint: key.fingerprint(),
        ..*reverse
    };
    t.insert_flow(FlowTable::Confirmed, &key, &forward) != Insert::Full
}
