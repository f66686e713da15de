//! Least connections: how many connections from this node each backend has, and which of two has fewer.
//!
//! Each connection that counts has a record of its own, under its socket's cookie or its flow's key. Whoever writes the
//! record adds one, whoever removes it takes one off; so it happens once, however often a connection ends.

use crate::{
    abi::target::{Slot, TargetWord},
    balance,
    datapath::Work,
    hash,
    tables::{PacketTables, SocketTables, Tables},
};

/// Makes a second draw of a first.
const SECOND: u32 = 0x9e37_79b9;

/// Two random slots, first the one whose backend has fewer connections for its weight: the power of two choices
/// (Mitzenmacher 2001). Weights count twice on purpose: slots are repeated by weight, so that idle backends get their
/// shares, and loads are compared by weight, so that busy ones do.
#[inline(always)]
pub(crate) fn by_weight<T: Tables>(t: &mut T, word: TargetWord, random: u32) -> Option<(u32, u32)> {
    let count = u32::from(word.count());
    let first = hash::below(random, count);
    if count < 2 {
        return Some((first, first));
    }
    // Never the same slot twice.
    let step = 1 + hash::below(hash::finish(random ^ SECOND), count - 1);
    let second = (first + step).checked_rem(count)?;
    let (a, weight_a) = weigh(t, word, first)?;
    let (b, weight_b) = weigh(t, word, second)?;
    Some(if u64::from(b) * weight_a < u64::from(a) * weight_b {
        (second, first)
    } else {
        (first, second)
    })
}

/// Connections and weight of a slot's backend; one that does not serve is heavier than all.
#[inline(always)]
fn weigh<T: Tables>(t: &mut T, word: TargetWord, index: u32) -> Option<(u32, u64)> {
    let slot = t.slot(word.offset().wrapping_add(index))?;
    let weight = match balance::serving(t, slot) {
        Some(backend) if backend.weight != 0 => u64::from(backend.weight),
        Some(_) => 1,
        None => return Some((u32::MAX, 1)),
    };
    Some((t.load(slot), weight))
}

/// A socket connects: from now on it counts for a backend, or for none. What it counted for before, in a connection
/// that failed or that it leaves, is over.
#[inline(always)]
pub fn socket_connects<T: SocketTables>(t: &mut T, cookie: u64, to: Option<Slot>) {
    socket_ends(t, cookie);
    if let Some(slot) = to
        && t.put_socket_load(cookie, slot)
    {
        t.add_load(slot);
    }
}

/// A socket is closed.
#[inline(always)]
pub fn socket_ends<T: SocketTables>(t: &mut T, cookie: u64) {
    if let Some(slot) = t.socket_load(cookie)
        && t.remove_socket_load(cookie)
    {
        t.take_load(slot);
    }
}

/// For [`count_flow`]: the flow is confirmed.
pub(crate) const BEGINS: u32 = 1;
/// For [`count_flow`]: the flow is closed by one of its sides, or removed.
pub(crate) const ENDS: u32 = 0;

/// Counts the flow of which `Work::value` is a half, and the key of whose forward half is in `Work::key`, when it
/// `BEGINS` or `ENDS`. For flows that have `COUNTED` alone. The number says nothing: a shell may make this a function of
/// its own, which returns one.
#[inline(always)]
pub fn count_flow<T: PacketTables>(t: &mut T, w: &mut Work, what: u32) -> u32 {
    let (key, slot) = w.counted();
    if what == BEGINS {
        if t.put_flow_load(key, slot) {
            t.add_load(slot);
        }
    } else if t.remove_flow_load(key) {
        t.take_load(slot);
    }
    0
}
