//! The reverse tuple of a new flow is claimed before the flow exists: no two flows may have the same one.

use zerocopy::network_endian::U16;

use super::since;
use crate::{
    abi::{
        counter::Counter,
        flow::{FlowKey, FlowValue, Half, flow_flags},
        settings::{MAX_SNAT_RANGES, PortRange, Settings},
    },
    hash,
    parse::Headers,
    tables::{FlowRef, FlowTable, Insert, PacketTables},
};

/// Source ports that are tried for one flow.
const MAX_PORTS_TRIED: u32 = 8;

/// Seconds after which a claim that no reply has confirmed may be taken over.
const UNCONFIRMED_SECONDS: u32 = 3;

/// Claims the reverse tuple of the flow that `value.out` describes, and writes its reverse half. Says no if the
/// client's own tuple is held by another flow and the caller should try another backend; with `last`, the source
/// port is translated instead.
#[inline(always)]
pub(super) fn claim<T: PacketTables>(
    t: &mut T,
    h: &Headers,
    settings: &Settings,
    value: &mut FlowValue,
    seed: u32,
    last: bool,
) -> Result<bool, Counter> {
    if value.flags & flow_flags::SNAT != 0 {
        return port(t, h, settings, value, seed, FlowTable::Claims).map(|()| true);
    }
    if try_tuple(t, h, value, FlowTable::New)? {
        return Ok(true);
    }
    if !last {
        return Ok(false);
    }
    value.flags |= flow_flags::PORT;
    port(t, h, settings, value, seed, FlowTable::New).map(|()| true)
}

/// Translates the source port to one that is free.
#[inline(always)]
fn port<T: PacketTables>(
    t: &mut T,
    h: &Headers,
    settings: &Settings,
    value: &mut FlowValue,
    seed: u32,
    table: FlowTable,
) -> Result<(), Counter> {
    let hairpin = value.flags & flow_flags::HAIRPIN != 0;
    let total = ports(settings, hairpin);
    let mut i = 0;
    while i < MAX_PORTS_TRIED {
        let n = hash::below(
            hash::finish(seed.wrapping_add(i.wrapping_mul(0x9e37_79b9))),
            total,
        );
        value.out.src_port = U16::new(nth_port(settings, hairpin, n));
        if try_tuple(t, h, value, table)? {
            return Ok(());
        }
        i += 1;
    }
    Err(Counter::DropNoSourcePort)
}

/// Claims one reverse tuple, if nobody holds it.
#[inline(always)]
fn try_tuple<T: PacketTables>(
    t: &mut T,
    h: &Headers,
    value: &FlowValue,
    table: FlowTable,
) -> Result<bool, Counter> {
    let key = value.out.inverted();
    let reverse = FlowValue {
        out: h.tuple.inverted(),
        half: Half::Reverse as u8,
        fingerprint: key.fingerprint(),
        ..*value
    };
    let mut inserted = t.insert_flow(table, &key, &reverse);
    if inserted == Insert::Exists && abandoned(t, &key, table) && t.remove_flow(table, &key) {
        inserted = t.insert_flow(table, &key, &reverse);
    }
    match inserted {
        Insert::Done => {}
        Insert::Exists => return Ok(false),
        Insert::Full => return Err(Counter::DropFlowTableFull),
    }
    // Asked only now: a holder that is confirmed meanwhile writes FLOWS before it leaves NEW_FLOWS.
    if table == FlowTable::New && t.flow(FlowTable::Confirmed, &key).is_some() {
        t.remove_flow(FlowTable::New, &key);
        return Ok(false);
    }
    Ok(true)
}

/// Whether a claim was never confirmed and is old. A successful removal elects the one who takes it over.
#[inline(always)]
fn abandoned<T: PacketTables>(t: &mut T, key: &FlowKey, table: FlowTable) -> bool {
    let Some(value) = t.flow(table, key).and_then(|entry| entry.load(key)) else {
        return false;
    };
    let now = t.now();
    let hz = t.settings().hz;
    value.flags & flow_flags::CONFIRMED == 0
        && since(now, value.last_seen) > UNCONFIRMED_SECONDS * hz
}

/// Index of the range that hairpin flows take their ports from: the last that is given.
#[inline(always)]
pub(super) fn hairpin_range(settings: &Settings) -> usize {
    let (mut last, mut i) = (0, 0);
    while i < MAX_SNAT_RANGES {
        if settings.snat_ports[i].last != 0 {
            last = i;
        }
        i += 1;
    }
    last
}

#[inline(always)]
const fn size(r: PortRange) -> u32 {
    if r.last == 0 || r.last < r.first {
        0
    } else {
        r.last as u32 - r.first as u32 + 1
    }
}

/// How many ports there are to choose from.
#[inline(always)]
fn ports(settings: &Settings, hairpin: bool) -> u32 {
    let only = hairpin_range(settings);
    let (mut total, mut i) = (0, 0);
    while i < MAX_SNAT_RANGES {
        if !hairpin || i == only {
            total += size(settings.snat_ports[i]);
        }
        i += 1;
    }
    total
}

/// The `n`-th of them, or 0 where there is none.
#[inline(always)]
fn nth_port(settings: &Settings, hairpin: bool, mut n: u32) -> u16 {
    let only = hairpin_range(settings);
    let mut i = 0;
    while i < MAX_SNAT_RANGES {
        let r = settings.snat_ports[i];
        let size = size(r);
        if !hairpin || i == only {
            if n < size {
                return r.first.wrapping_add(n as u16);
            }
            n -= size;
        }
        i += 1;
    }
    0
}
