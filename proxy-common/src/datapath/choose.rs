//! The backend of a new flow.

use super::Work;
use crate::{
    abi::affinity::AffinityKey,
    affinity,
    balance::{self, Draw},
    slow_start,
    tables::Tables,
};

/// Result of [`choose`]: no backend.
pub(super) const NONE: u32 = 0;
/// Result of [`choose`]: the backend to which the client has affinity. No other may replace it.
pub(super) const KEPT: u32 = 2;
/// Result of [`choose`]: a backend chosen by the algorithm.
pub(super) const CHOSEN: u32 = 1;

/// Chooses a backend at the frontend in `Work::found` for the packet in `Work`, after `tried` failed attempts,
/// and stores it in `Work`. Returns a number, because `proxy-ebpf` compiles this as a separate BPF function.
#[inline(always)]
pub fn choose<T: Tables>(t: &mut T, w: &mut Work, tried: u32) -> u32 {
    if tried == 0
        && let Some((slot, backend)) = affinity::kept(t, &w.found, &client(w))
    {
        (w.slot, w.backend) = (slot, backend);
        return KEPT;
    }
    let draw = draw(t, w, tried);
    let Some((slot, backend)) = balance::select(t, &w.found, draw) else {
        return NONE;
    };
    (w.slot, w.backend) = (slot, backend);
    CHOSEN
}

/// Applies slow start to the backend that [`choose`] stored in `Work` with result `CHOSEN`: may replace it by
/// another. Returns 0; BPF functions must return a number.
#[inline(always)]
pub fn reconsider<T: Tables>(t: &mut T, w: &mut Work, tried: u32) -> u32 {
    let draw = draw(t, w, tried);
    let slot = slow_start::reconsider(t, &w.found, draw, w.slot);
    if let Some(backend) = balance::serving(t, slot) {
        (w.slot, w.backend) = (slot, backend);
    }
    0
}

#[inline(always)]
fn draw<T: Tables>(t: &mut T, w: &Work, tried: u32) -> Draw {
    let settings = t.settings();
    let draw = Draw {
        random: w.h.tuple.keyed_hash(settings.hash_key),
        shared: w.h.tuple.client_hash(settings.maglev_seed),
    };
    if tried == 0 { draw } else { draw.again(tried) }
}

/// Records the affinity of the client of the new flow in `Work`.
#[inline(always)]
pub(super) fn keep<T: Tables>(t: &mut T, w: &Work) {
    affinity::keep(t, &w.found, &client(w), w.slot);
}

#[inline(always)]
const fn client(w: &Work) -> AffinityKey {
    AffinityKey::of_address(w.found.service, w.h.tuple.src)
}
