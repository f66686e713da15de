//! Destination → frontend → target → backend: the one lookup that sockets and packets share.

use crate::{
    abi::{
        device::node_addr,
        frontend::{FrontendKey, FrontendKind, FrontendValue, Scope},
        target::{Backend, BackendState, RangeKey, Slot, TargetState, TargetWord},
    },
    addr::Addr,
    hash,
    tables::Tables,
};
use zerocopy::network_endian::U16;

/// Tries at slots of one list whose backends went away in this moment.
const MAX_STALE_SLOTS: u32 = 3;

/// The frontend of a destination, and where it leads.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Kind.
    pub kind: FrontendKind,
    /// Index in `TARGETS`.
    pub target: u32,
    /// The target's word at this moment.
    pub word: TargetWord,
    /// Set of source ranges that clients must be in; 0: everyone is let in.
    pub ranges: u32,
}

impl Found {
    /// Whether a client is let in (semantics A3).
    #[inline(always)]
    pub fn admits<T: Tables>(&self, t: &mut T, client: &Addr) -> bool {
        self.ranges == 0 || t.in_ranges(&RangeKey::of_client(self.ranges, *client))
    }
}

/// The frontend that listens on a destination for a scope, if one does (semantics S1, S4).
#[inline(always)]
pub fn frontend<T: Tables>(
    t: &mut T,
    addr: &Addr,
    port: U16,
    protocol: u8,
    scope: Scope,
) -> Option<Found> {
    let key = FrontendKey {
        addr: *addr,
        port,
        protocol,
        scope: scope as u8,
    };
    if let Some(found) = resolve(t, &key) {
        return Some(found);
    }
    if t.node_addr(addr)? & node_addr::NODE_PORT == 0 {
        return None;
    }
    node_port(t, addr, port, protocol, scope)
}

/// The node port of a destination that is known to be this node.
#[inline(always)]
pub fn node_port<T: Tables>(
    t: &mut T,
    addr: &Addr,
    port: U16,
    protocol: u8,
    scope: Scope,
) -> Option<Found> {
    let key = FrontendKey {
        addr: Addr::unspecified(addr.family()),
        port,
        protocol,
        scope: scope as u8,
    };
    resolve(t, &key)
}

#[inline(always)]
fn resolve<T: Tables>(t: &mut T, key: &FrontendKey) -> Option<Found> {
    let value: FrontendValue = t.frontend(key)?;
    if !value.belongs_to(key) {
        return None;
    }
    let target = t.target(value.target())?;
    let kind = value.kind();
    match target.word.state() {
        TargetState::Absent => None,
        _ => Some(Found {
            kind,
            target: value.target(),
            word: target.word,
            ranges: if kind == FrontendKind::LoadBalancer {
                target.ranges
            } else {
                0
            },
        }),
    }
}

/// A backend of a frontend: the slot that `hash` names, or a following one if that backend went away just now. Where a
/// whole list was replaced since the frontend was found, the new one is asked.
#[inline(always)]
pub fn select<T: Tables>(t: &mut T, found: &Found, hash: u32) -> Option<(Slot, Backend)> {
    if let Some(selected) = select_in(t, found.word, hash) {
        return Some(selected);
    }
    let word = t.target(found.target)?.word;
    match word.state() {
        TargetState::Serve if word != found.word => select_in(t, word, hash),
        _ => None,
    }
}

#[inline(always)]
fn select_in<T: Tables>(t: &mut T, word: TargetWord, hash: u32) -> Option<(Slot, Backend)> {
    let count = u32::from(word.count());
    let mut index = hash::below(hash, count);
    let mut tries = 0;
    while tries < MAX_STALE_SLOTS {
        let slot = t.slot(word.offset().wrapping_add(index))?;
        if let Some(backend) = serving(t, slot) {
            return Some((slot, backend));
        }
        index = if index + 1 < count { index + 1 } else { 0 };
        tries += 1;
    }
    None
}

/// The backend that an id and generation name, while it serves.
#[inline(always)]
pub fn serving<T: Tables>(t: &mut T, slot: Slot) -> Option<Backend> {
    let backend = t.backend(slot.backend)?;
    if backend.word.generation() == slot.generation && backend.word.state() == BackendState::Serving
    {
        Some(backend)
    } else {
        None
    }
}
