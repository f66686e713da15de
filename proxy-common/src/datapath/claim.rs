//! Claiming reverse tuples. A new flow claims its reverse tuple before it exists, because no two flows may
//! share one.

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

/// Source ports to try for one flow.
const MAX_PORTS_TRIED: u32 = 16;

/// Seconds after which another flow may take over an unconfirmed claim.
const UNCONFIRMED_SECONDS: u32 = 3;

/// Claims the reverse tuple of the flow in `Work::value` and writes its reverse half. Returns false if another
/// flow holds the client's own tuple and the caller should try another backend. With `last`, it translates the
/// source port instead. A flow that already has `PORT` always gets another source port.
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

// Numbers that `claim_tuple` returns, because `proxy-ebpf` compiles it as a separate BPF function.
const CLAIMED: u32 = 0;
const HELD: u32 = 1;
const FULL: u32 = 2;

/// Decodes the result of [`claim_tuple`]: whether the tuple was claimed, or the reason for a drop.
#[inline(always)]
pub(super) const fn result(n: u32) -> Result<bool, Counter> {
    match n {
        CLAIMED => Ok(true),
        HELD => Ok(false),
        _ => Err(Counter::DropFlowTableFull),
    }
}

/// Claims a reverse tuple with a translated source port for the flow in `Work::value`. Tries at most `most`
/// ports.
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

/// Builds the reverse half of `Work::value` in `Work::other`, and its key in `Work::key`.
#[inline(always)]
fn write_reverse(w: &mut Work) {
    w.key = w.value.out.inverted();
    w.other = w.value;
    w.other.out = w.h.tuple.inverted();
    w.other.half = Half::Reverse as u8;
    w.other.seen = 0;
    w.other.fingerprint = w.key.fingerprint();
}

/// Claims the reverse tuple of the flow in `Work::value`, if no other flow holds it, and writes its reverse
/// half. `result` decodes the returned number.
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
    // `FLOWS` is checked after the insertion: a confirming packet writes `FLOWS` before it removes from
    // `NEW_FLOWS`.
    if table == FlowTable::New && t.flow(FlowTable::Confirmed, &w.key).is_some() {
        t.remove_flow(FlowTable::New, &w.key);
        return HELD;
    }
    CLAIMED
}

/// Whether the claim at `Work::key` is old and unconfirmed. Several packets may find it so; the one that
/// succeeds in removing it takes it over.
#[inline(always)]
fn abandoned<T: PacketTables>(t: &mut T, w: &Work, table: FlowTable) -> bool {
    let Some(state) = t.flow(table, &w.key).and_then(|entry| entry.state(&w.key)) else {
        return false;
    };
    let (now, hz) = (t.now(), t.settings().hz);
    state.flags & flow_flags::CONFIRMED == 0
        && since(now, state.last_seen) > UNCONFIRMED_SECONDS * hz
}

/// A port from the ranges for this flow's source port; 0 if the ranges are empty.
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
