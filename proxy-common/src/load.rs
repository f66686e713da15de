//! Least connections: counts the connections from this node to each backend, and compares two backends.
//!
//! Each counted connection has a record of its own, keyed by its socket's cookie or its flow's key. Whoever
//! inserts the record increments the count, and whoever removes it decrements the count. So each happens once,
//! no matter how many packets end the connection.

use crate::{
    abi::target::{Slot, TargetWord},
    balance,
    datapath::Work,
    hash,
    tables::{PacketTables, SocketTables, Tables},
};

/// Derives the second random number of a choice from the first.
const SECOND: u32 = 0x9e37_79b9;

/// Two random slots, the one with fewer connections relative to its weight first: the power of two choices
/// (Mitzenmacher 2001). Weights count twice on purpose. Slots are repeated by weight, which gives idle backends
/// their shares; loads are compared by weight, which does the same for busy ones.
#[inline(always)]
pub(crate) fn by_weight<T: Tables>(t: &mut T, word: TargetWord, random: u32) -> Option<(u32, u32)> {
    let count = u32::from(word.count());
    let first = hash::below(random, count);
    if count < 2 {
        return Some((first, first));
    }
    // A step of 1 to `count - 1`, so that the two slots differ.
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

/// Connections and weight of a slot's backend. A backend that does not serve gets the maximum load.
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

/// A socket connects: count its connection for backend `to`, or for none. Its previous connection, which failed
/// or is replaced, no longer counts.
#[inline(always)]
pub fn socket_connects<T: SocketTables>(t: &mut T, cookie: u64, to: Option<Slot>) {
    socket_ends(t, cookie);
    if let Some(slot) = to
        && t.put_socket_load(cookie, slot)
    {
        t.add_load(slot);
    }
}

/// A socket is closed: its connection no longer counts.
#[inline(always)]
pub fn socket_ends<T: SocketTables>(t: &mut T, cookie: u64) {
    if let Some(slot) = t.socket_load(cookie)
        && t.remove_socket_load(cookie)
    {
        t.take_load(slot);
    }
}

/// Argument of [`count_flow`]: the flow was confirmed.
pub(crate) const BEGINS: u32 = 1;
/// Argument of [`count_flow`]: one side closed the flow, or it was removed.
pub(crate) const ENDS: u32 = 0;

/// Counts a flow when it `BEGINS` or `ENDS`. `Work::value` is one of its halves, and `Work::key` is the key of
/// its forward half. Only for flows with the flag `COUNTED`. Returns 0; BPF functions must return a number.
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
