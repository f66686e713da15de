//! The reverse tuple of a new flow is claimed before the flow exists: no two flows may have the same one.

use zerocopy::network_endian::U16;

use super::{Work, flow, since};
use crate::{
    abi::{
        counter::Counter,
        flow::{Half, flow_flags},
        settings::{MAX_SNAT_RANGES, Settings},
    },
    hash,
    tables::{FlowRef, FlowTable, Insert, PacketTables},
};

/// Source ports that are tried for one flow.
const MAX_PORTS_TRIED: u32 = 16;

/// Seconds after which a claim that no reply has confirmed may be taken over.
const UNCONFIRMED_SECONDS: u32 = 3;

/// Claims the reverse tuple of the flow in `Work::value`, and writes its reverse half. Says no if the client's own
/// tuple is held by another flow and the caller should try another backend; with `last`, the source port is
/// translated instead. A flow that has `PORT` already gets another port in any case.
#[inline(always)]
pub(super) fn claim<T: PacketTables>(
    t: &mut T,
    w: &mut Work,
    seed: u32,
    last: bool,
) -> Result<bool, Counter> {
    if w.value.flags & (flow_flags::SNAT | flow_flags::PORT) == 0 {
        if result(t.claim_tuple(w))? {
            return Ok(true);
        }
        if !last {
            return Ok(false);
        }
        w.value.flags |= flow_flags::PORT;
    }
    claim_port(t, w, seed, MAX_PORTS_TRIED)
}

// What comes of a claim is a number, since a shell may make what claims a function of its own; see `result`.
const CLAIMED: u32 = 0;
const HELD: u32 = 1;
const FULL: u32 = 2;

/// Whether a claim succeeded, or why it cannot.
#[inline(always)]
pub(super) const fn result(n: u32) -> Result<bool, Counter> {
    match n {
        CLAIMED => Ok(true),
        HELD => Ok(false),
        _ => Err(Counter::DropFlowTableFull),
    }
}

/// Claims the reverse tuple of the flow in `Work::value` under another source port, of which at `most` so many are tried.
#[inline(always)]
pub(super) fn claim_port<T: PacketTables>(
    t: &mut T,
    w: &mut Work,
    seed: u32,
    most: u32,
) -> Result<bool, Counter> {
    let mut tried = 0;
    while tried < most {
        let random = hash::finish(seed.wrapping_add(tried.wrapping_mul(0x9e37_79b9)));
        let port = port(&t.settings(), w.value.flags, random);
        if port == 0 {
            break;
        }
        w.value.out.src_port = U16::new(port);
        if result(t.claim_tuple(w))? {
            return Ok(true);
        }
        tried += 1;
    }
    Err(Counter::DropNoSourcePort)
}

/// Makes `Work::other` the reverse half of `Work::value`, and `Work::key` its key.
#[inline(always)]
fn write_reverse(w: &mut Work) {
    w.key = w.value.out.inverted();
    w.other = w.value;
    w.other.out = w.h.tuple.inverted();
    w.other.half = Half::Reverse as u8;
    w.other.seen = 0;
    w.other.fingerprint = w.key.fingerprint();
}

/// Claims the reverse tuple of the flow in `Work::value`, if nobody holds it, and writes its reverse half.
#[inline(always)]
pub fn claim_tuple<T: PacketTables>(t: &mut T, w: &mut Work) -> u32 {
    let table = flow::other_table(&w.value, FlowTable::New);
    write_reverse(w);
    let mut inserted = t.insert_flow(table, &w.key, &w.other);
    if inserted == Insert::Exists && abandoned(t, w, table) && t.remove_flow(table, &w.key) {
        inserted = t.insert_flow(table, &w.key, &w.other);
    }
    match inserted {
        Insert::Done => {}
        Insert::Exists => return HELD,
        Insert::Full => return FULL,
    }
    // Asked only now: a holder that is confirmed meanwhile writes FLOWS before it leaves NEW_FLOWS.
    if table == FlowTable::New && t.flow(FlowTable::Confirmed, &w.key).is_some() {
        t.remove_flow(FlowTable::New, &w.key);
        return HELD;
    }
    CLAIMED
}

/// Whether a claim was never confirmed and is old. A successful removal elects the one who takes it over.
#[inline(always)]
fn abandoned<T: PacketTables>(t: &mut T, w: &Work, table: FlowTable) -> bool {
    let Some(state) = t.flow(table, &w.key).and_then(|entry| entry.state(&w.key)) else {
        return false;
    };
    let (now, hz) = (t.now(), t.settings().hz);
    state.flags & flow_flags::CONFIRMED == 0
        && since(now, state.last_seen) > UNCONFIRMED_SECONDS * hz
}

/// A port from the ranges that a flow may take its source port from; 0 if there are none.
#[inline(always)]
fn port(settings: &Settings, flags: u8, random: u32) -> u16 {
    if flags & flow_flags::HAIRPIN != 0 {
        let range = settings.hairpin_ports;
        if range.size() == 0 {
            return 0;
        }
        return range
            .first
            .wrapping_add(hash::below(random, range.size()) as u16);
    }
    let (mut total, mut i) = (0, 0);
    while i < MAX_SNAT_RANGES {
        total += settings.snat_ports[i].size();
        i += 1;
    }
    let mut n = hash::below(random, total);
    i = 0;
    while i < MAX_SNAT_RANGES {
        let range = settings.snat_ports[i];
        if n < range.size() {
            return range.first.wrapping_add(n as u16);
        }
        n -= range.size();
        i += 1;
    }
    0
}
