//! IP fragments (semantics P3): the first of a packet has the ports, and leaves them for those that follow, which then find
//! its flow as it did. One that comes before the first is left alone.

use super::{Work, since};
use crate::{
    abi::fragment::FragmentValue,
    parse::{Fragment, Headers},
    tables::PacketTables,
};

/// How long a fragment waits for others: Linux's `ipfrag_time`.
const REASSEMBLY_SECONDS: u32 = 30;

/// Gives a later fragment the ports that the first one left. Says no where none did.
#[inline(always)]
pub(super) fn complete<T: PacketTables>(t: &mut T, w: &mut Work) -> bool {
    if w.h.has_transport() {
        return true;
    }
    fill_key(w);
    let Some(first) = t.fragment(&w.fragment) else {
        return false;
    };
    w.h.tuple.src_port = first.src_port;
    w.h.tuple.dst_port = first.dst_port;
    w.h.tuple.protocol = first.protocol as u8;
    since(t.now(), first.seen) <= t.settings().hz * REASSEMBLY_SECONDS
}

/// Leaves the ports of a first fragment, which is ours.
#[inline(always)]
pub(super) fn leave<T: PacketTables>(t: &mut T, w: &mut Work) {
    if !matches!(w.h.fragment, Fragment::First) {
        return;
    }
    fill_key(w);
    let seen = t.now();
    let Headers { tuple, .. } = &w.h;
    t.put_fragment(
        &w.fragment,
        &FragmentValue {
            seen,
            src_port: tuple.src_port,
            dst_port: tuple.dst_port,
            protocol: u32::from(tuple.protocol),
        },
    );
}

/// Field by field: the padding stays zero.
#[inline(always)]
fn fill_key(w: &mut Work) {
    w.fragment.src = w.h.tuple.src;
    w.fragment.dst = w.h.tuple.dst;
    w.fragment.id = w.h.id;
    w.fragment.protocol = if w.h.v6 { 0 } else { w.h.tuple.protocol };
}
