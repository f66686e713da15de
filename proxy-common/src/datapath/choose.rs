//! The backend of a new flow.

use super::Work;
use crate::{
    abi::affinity::AffinityKey,
    affinity,
    balance::{self, Draw},
    slow_start,
    tables::Tables,
};

/// For [`choose`]: there is none.
pub(super) const NONE: u32 = 0;
/// For [`choose`]: the client's own, and no other will do.
pub(super) const KEPT: u32 = 2;
pub(super) const CHOSEN: u32 = 1;

/// Chooses a backend at the frontend in `Work::found` for the packet there, after so many others were tried; it is in
/// `Work` afterwards. What came of it is a number, since a shell may make this a function of its own.
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

/// What [`choose`] has chosen, not kept, of a target with slow start is in `Work`: afterwards, what is chosen in the end. The
/// number says nothing, and is there for the same reason.
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

/// Notes that the flow in `Work` exists.
#[inline(always)]
pub(super) fn keep<T: Tables>(t: &mut T, w: &Work) {
    affinity::keep(t, &w.found, &client(w), w.slot);
}

#[inline(always)]
const fn client(w: &Work) -> AffinityKey {
    AffinityKey::of_address(w.found.service, w.h.tuple.src)
}
