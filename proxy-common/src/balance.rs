//! Destination → frontend → target → backend: the lookup that socket hooks and packet hooks share.

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

/// Slots tried in one list. A slot is stale if its backend stopped serving after the list was read.
const MAX_STALE_SLOTS: u32 = 3;

/// A frontend that was looked up, with the fields of its target that the datapath needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Kind.
    pub kind: FrontendKind,
    /// Index in `TARGETS`.
    pub target: u32,
    /// The target's word at the time of the lookup.
    pub word: TargetWord,
    /// Set of source ranges, one of which must contain the client; 0: all clients are admitted.
    pub ranges: u32,
    /// Id of the Service port, under which clients have affinity.
    pub service: u32,
    /// Affinity timeout in seconds; 0: no affinity.
    pub affinity_seconds: u32,
    /// The target's [`flags`](crate::abi::target::Target::flags).
    pub flags: u8,
    /// Duration of slow start in seconds; 0: no slow start.
    pub slow_start: u16,
}

/// The random numbers for one choice of a backend.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// A number that clients cannot predict.
    pub random: u32,
    /// For Maglev: a number that every node computes alike for a client. Where only this node ever chooses for
    /// the client (sockets), any number will do.
    pub shared: u32,
}

impl Draw {
    /// Derives another draw, for the next attempt after `tried` failed ones.
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
    /// Whether the source ranges admit the client (semantics A3).
    #[inline(always)]
    pub fn admits<T: Tables>(&self, t: &mut T, client: &Addr) -> bool {
        self.ranges == 0 || t.in_ranges(&RangeKey::of_client(self.ranges, *client))
    }

    /// Whether the source ranges admit the node's own processes (semantics A3).
    #[inline(always)]
    pub const fn admits_node(&self) -> bool {
        self.ranges == 0 || self.flags & target_flags::REFUSES_NODE == 0
    }
}

/// The frontend of a destination in a scope, if there is one (semantics S1, S4).
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

/// [`frontend`], but writes its result to `found`. Returns whether there is a frontend.
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

/// The node port frontend of a destination that is known to be an address of this node.
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

/// Chooses a backend by the target's algorithm (semantics L1). If that backend no longer serves, tries the next
/// slots; if the whole list was replaced since the lookup, tries the new list. With slow start, pass the result
/// to [`reconsider`](crate::slow_start::reconsider).
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

/// Whether the backend with this id and generation was deleted.
#[inline(always)]
pub fn is_deleted<T: Tables>(t: &mut T, slot: Slot) -> bool {
    t.backend(slot.backend).is_none_or(|backend| {
        backend.word.generation() != slot.generation
            || matches!(backend.word.state(), BackendState::Gone)
    })
}

/// The backend with this id and generation, if it serves.
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
