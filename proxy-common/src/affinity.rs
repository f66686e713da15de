//! `sessionAffinity: ClientIP`: a client that returns within the timeout gets the same backend, at any frontend
//! of the Service port (semantics L2).

use crate::{
    abi::{
        affinity::{AffinityKey, AffinityValue},
        target::{Backend, Slot},
    },
    balance::{self, Found},
    tables::Tables,
};

/// The client's previous backend, if the client returns within the timeout and the frontend's list still
/// contains the backend.
#[inline(always)]
pub fn kept<T: Tables>(t: &mut T, found: &Found, client: &AffinityKey) -> Option<(Slot, Backend)> {
    if found.affinity_seconds == 0 {
        return None;
    }
    let had = t.affinity(client)?;
    let slot = Slot {
        backend: had.backend,
        generation: had.generation,
    };
    let backend = balance::serving(t, slot)?;
    let idle = t.now().wrapping_sub(had.last_used);
    let timeout = found.affinity_seconds.wrapping_mul(t.settings().hz);
    (backend.word.lists() & found.flags != 0 && idle <= timeout).then_some((slot, backend))
}

/// Records the backend of a client's new connection, which restarts the timeout.
#[inline(always)]
pub fn keep<T: Tables>(t: &mut T, found: &Found, client: &AffinityKey, slot: Slot) {
    if found.affinity_seconds == 0 {
        return;
    }
    let last_used = t.now();
    t.put_affinity(
        client,
        &AffinityValue {
            backend: slot.backend,
            generation: slot.generation,
            last_used,
            pad: 0,
        },
    );
}
