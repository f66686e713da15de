//! IP fragments (semantics P3). The first fragment carries the ports and stores them for the later fragments,
//! which then match the same flow. A fragment that arrives before the first passes unchanged.

use super::{Work, since};
use crate::{
    abi::fragment::FragmentValue,
    parse::{Fragment, Headers},
    tables::PacketTables,
};

/// How long stored ports are valid: Linux's default `ipfrag_time`.
const REASSEMBLY_SECONDS: u32 = 30;

/// Sets a later fragment's ports from the stored ones. Returns false if there are none.
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

/// Stores the ports of a first fragment that the proxy handles.
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

/// Writes field by field, so that the padding stays zero.
#[inline(always)]
fn fill_key(w: &mut Work) {
    w.fragment.src = w.h.tuple.src;
    w.fragment.dst = w.h.tuple.dst;
    w.fragment.id = w.h.id;
    w.fragment.protocol = if w.h.v6 { 0 } else { w.h.tuple.protocol };
}
