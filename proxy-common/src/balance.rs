//! Destination → frontend → target → backend: the one lookup that sockets and packets share.

use crate::{
    abi::{
        device::node_addr,
        frontend::{FrontendKey, FrontendKind, Scope},
        target::{
            Algorithm, Backend, BackendState, RangeKey, Slot, TargetState, TargetWord, target_flags,
        },
    },
    addr::Addr,
    hash, load,
    tables::Tables,
};
use zerocopy::network_endian::U16;

/// Tries at slots of one list whose backends went away in this moment.
const MAX_STALE_SLOTS: u32 = 3;

/// The frontend of a destination, and where it leads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Kind.
    pub kind: FrontendKind,
    /// Index in `TARGETS`.
    pub target: u32,
    /// The target's word at this moment.
    pub word: TargetWord,
    /// Set of source ranges that clients must be in; 0: everyone is let in.
    pub ranges: u32,
    /// The Service port that clients have affinity under.
    pub service: u32,
    /// Timeout of that affinity in seconds; 0: none.
    pub affinity_seconds: u32,
    /// The target's [`flags`](crate::abi::target::Target::flags).
    pub flags: u8,
    /// Seconds for which a backend is new; 0: none ever is.
    pub slow_start: u16,
}

/// What a choice is drawn by.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Unknown to clients.
    pub random: u32,
    /// The same for a client on every node, for Maglev; any number where no node but this one will ever choose for it.
    pub shared: u32,
}

impl Draw {
    /// Another one, made of this one, for a choice that came to nothing.
    #[inline(always)]
    #[must_use]
    pub const fn again(self, tried: u32) -> Self {
        Self {
            random: hash::finish(self.random ^ tried),
            shared: hash::finish(self.shared ^ tried),
        }
    }
}

impl Found {
    /// Whether a client is let in (semantics A3).
    #[inline(always)]
    pub fn admits<T: Tables>(&self, t: &mut T, client: &Addr) -> bool {
        self.ranges == 0 || t.in_ranges(&RangeKey::of_client(self.ranges, *client))
    }

    /// Whether the node's own processes are let in (semantics A3).
    #[inline(always)]
    pub const fn admits_node(&self) -> bool {
        self.ranges == 0 || self.flags & target_flags::REFUSES_NODE == 0
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
    let mut found = Found::default();
    find(t, addr, port, protocol, scope, &mut found).then_some(found)
}

/// [`frontend`], written in place; says whether there is one.
#[inline(always)]
pub fn find<T: Tables>(
    t: &mut T,
    addr: &Addr,
    port: U16,
    protocol: u8,
    scope: Scope,
    found: &mut Found,
) -> bool {
    let mut key = FrontendKey {
        addr: *addr,
        port,
        protocol,
        scope: scope as u8,
    };
    if resolve(t, &key, found) {
        return true;
    }
    match t.node_addr(addr) {
        Some(flags) if flags & node_addr::NODE_PORT != 0 => {
            key.addr = Addr::unspecified(addr.family());
            resolve(t, &key, found)
        }
        _ => false,
    }
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
    let mut found = Found::default();
    resolve(t, &key, &mut found).then_some(found)
}

#[inline(always)]
fn resolve<T: Tables>(t: &mut T, key: &FrontendKey, found: &mut Found) -> bool {
    let Some(value) = t.frontend(key) else {
        return false;
    };
    if !value.belongs_to(key) {
        return false;
    }
    let Some(target) = t.target(value.target()) else {
        return false;
    };
    found.kind = value.kind();
    found.target = value.target();
    found.word = target.word;
    found.ranges = if target.filters(found.kind) {
        target.ranges
    } else {
        0
    };
    found.service = target.service;
    found.affinity_seconds = target.affinity_seconds;
    found.flags = target.flags;
    found.slow_start = target.slow_start;
    !matches!(target.word.state(), TargetState::Absent)
}

/// A backend of a frontend, as its algorithm has it (semantics L1); or that of a following slot, if that backend went
/// away just now. Where a whole list was replaced since the frontend was found, the new one is asked. With slow start, what
/// comes of it is to be [reconsidered](crate::slow_start::reconsider).
#[inline(always)]
pub fn select<T: Tables>(t: &mut T, found: &Found, draw: Draw) -> Option<(Slot, Backend)> {
    if let Some(selected) = select_in(t, found.target, found.word, draw) {
        return Some(selected);
    }
    let word = t.target(found.target)?.word;
    match word.state() {
        TargetState::Serve if word != found.word => select_in(t, found.target, word, draw),
        _ => None,
    }
}

#[inline(always)]
fn select_in<T: Tables>(
    t: &mut T,
    target: u32,
    word: TargetWord,
    draw: Draw,
) -> Option<(Slot, Backend)> {
    let count = u32::from(word.count());
    let mut index = match word.algorithm() {
        Algorithm::Random => hash::below(draw.random, count),
        Algorithm::RoundRobin => t.turn(target).checked_rem(count)?,
        Algorithm::Maglev => hash::below(draw.shared, count),
        Algorithm::LeastConnections => load::by_weight(t, word, draw.random)?.0,
    };
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

/// Whether the backend that an id and generation name was deleted.
#[inline(always)]
pub fn is_deleted<T: Tables>(t: &mut T, slot: Slot) -> bool {
    t.backend(slot.backend).is_none_or(|backend| {
        backend.word.generation() != slot.generation
            || matches!(backend.word.state(), BackendState::Gone)
    })
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
