//! What must be true of the maps at every moment, and what must be true when nothing is under way.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use proxy_common::abi::{
    frontend::FrontendKey,
    target::{Backend, BackendState, BackendWord, Target, TargetState, backend_lists},
};

use super::{NODE_NAME, Snapshot, codec};

/// Something that must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// The value of a frontend was written for another key.
    Fingerprint(FrontendKey),
    /// A frontend's target is absent, or nobody's.
    MissingTarget(FrontendKey, u32),
    /// A frontend and its target are of different protocols or families.
    WrongTarget(FrontendKey, u32),
    /// A target serves without slots, or has slots and does not serve.
    CountAndState(u32),
    /// Two targets' slots overlap.
    Overlap(u32, u32),
    /// A slot of a target names a backend that is free, or was given to another use.
    MissingBackend {
        /// Target id.
        target: u32,
        /// Backend id.
        backend: u32,
    },
    /// A slot of a target that a frontend reaches names a backend that is gone.
    GoneBackend {
        /// Target id.
        target: u32,
        /// Backend id.
        backend: u32,
    },
    /// A slot of a target names a backend of another Service port.
    ForeignBackend {
        /// Target id.
        target: u32,
        /// Backend id.
        backend: u32,
    },
    /// A target is in use that no frontend reaches. No violation while an update is under way.
    UnreachedTarget(u32),
    /// A backend is not free and has no living owner. No violation while an update is under way.
    LostBackend(u32),
    /// A backend's word does not name just the lists that it is in. No violation while an update is under way.
    WrongLists(u32),
    /// A source range is of a set that no target names. No violation while an update is under way.
    LostRange(u32),
    /// A backend's node or zone has no name. No violation while an update is under way.
    MissingName(u32),
    /// A name is used by no backend. No violation while an update is under way.
    LostName(u32),
    /// Names are there of a target or backend that is not. No violation while an update is under way.
    LostMeta(u32),
}

impl Violation {
    /// Whether this may be seen while an update, or the reclaiming after it, is under way.
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::UnreachedTarget(_)
                | Self::LostBackend(_)
                | Self::WrongLists(_)
                | Self::LostRange(_)
                | Self::MissingName(_)
                | Self::LostName(_)
                | Self::LostMeta(_)
        )
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// All violations, sorted.
pub fn lint(maps: &Snapshot) -> Vec<Violation> {
    let mut found = Vec::new();
    let reached = frontends(maps, &mut found);
    targets(maps, &reached, &mut found);
    backends(maps, &mut found);
    rest(maps, &mut found);
    found.sort_unstable();
    found.dedup();
    found
}

/// Elements of `TARGETS` in use.
fn live(maps: &Snapshot) -> impl Iterator<Item = (u32, &Target)> {
    (0..)
        .zip(&maps.targets)
        .filter(|(_, target)| target.word.state() != TargetState::Absent)
}

fn frontends(maps: &Snapshot, found: &mut Vec<Violation>) -> BTreeSet<u32> {
    let mut reached = BTreeSet::new();
    for (&key, &value) in &maps.frontends {
        let id = value.target();
        if !value.belongs_to(&key) {
            found.push(Violation::Fingerprint(key));
            continue;
        }
        reached.insert(id);
        let identity = maps.meta_targets.get(&id).and_then(codec::target_identity);
        match identity {
            Some((_, target)) if maps.target(id).word.state() != TargetState::Absent => {
                if target.protocol as u8 != key.protocol || target.family != key.addr.family() {
                    found.push(Violation::WrongTarget(key, id));
                }
            }
            _ => found.push(Violation::MissingTarget(key, id)),
        }
    }
    reached
}

fn targets(maps: &Snapshot, reached: &BTreeSet<u32>, found: &mut Vec<Violation>) {
    let mut extents: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    for (id, target) in live(maps) {
        let word = target.word;
        if (word.count() > 0) != (word.state() == TargetState::Serve) {
            found.push(Violation::CountAndState(id));
        }
        if !reached.contains(&id) {
            found.push(Violation::UnreachedTarget(id));
        }
        if word.count() > 0 {
            let end = word.offset().saturating_add(word.count().into());
            if let Some((_, other)) = extents.insert(word.offset(), (end, id)) {
                found.push(Violation::Overlap(other, id));
            }
        }
        for slot in maps.slots_of(word) {
            let (target_id, backend) = (id, maps.backend(slot.backend));
            let meta = maps.meta_backends.get(&slot.backend);
            let place = slot.backend;
            if slot.generation == 0
                || backend.word.generation() != slot.generation
                || meta.is_none()
            {
                found.push(Violation::MissingBackend {
                    target: target_id,
                    backend: place,
                });
            } else if meta.is_some_and(|meta| meta.owner != target.service) {
                found.push(Violation::ForeignBackend {
                    target: target_id,
                    backend: place,
                });
            } else if reached.contains(&id) && backend.word.state() != BackendState::Serving {
                found.push(Violation::GoneBackend {
                    target: target_id,
                    backend: place,
                });
            }
        }
    }
    for (a, b) in extents.values().zip(extents.iter().skip(1)) {
        let ((end, id), (offset, (_, other))) = (a, b);
        if end > offset {
            found.push(Violation::Overlap(*id, *other));
        }
    }
}

fn backends(maps: &Snapshot, found: &mut Vec<Violation>) {
    let owners: BTreeSet<u32> = live(maps).map(|(_, target)| target.service).collect();
    let mut lists: BTreeMap<u32, u8> = BTreeMap::new();
    for (_, target) in live(maps) {
        for slot in maps.slots_of(target.word) {
            *lists.entry(slot.backend).or_default() |= target.flags & backend_lists::ALL;
        }
    }
    for (id, backend) in (0..).zip(&maps.backends) {
        let cleared = Backend {
            word: BackendWord::new(backend.word.generation(), BackendState::Gone),
            ..Backend::default()
        };
        let meta = maps.meta_backends.get(&id);
        let owned = backend.word.state() != BackendState::Gone
            && meta.is_some_and(|meta| owners.contains(&meta.owner));
        if *backend != cleared && !owned {
            found.push(Violation::LostBackend(id));
        }
        if owned && backend.word.lists() != lists.get(&id).copied().unwrap_or(0) {
            found.push(Violation::WrongLists(id));
        }
    }
}

fn rest(maps: &Snapshot, found: &mut Vec<Violation>) {
    let sets: BTreeSet<u32> = live(maps).map(|(_, target)| target.ranges).collect();
    let lost = maps
        .ranges
        .iter()
        .filter(|range| !sets.contains(&range.set));
    found.extend(lost.map(|range| Violation::LostRange(range.set)));
    let used: BTreeSet<u32> = maps
        .meta_backends
        .values()
        .flat_map(|meta| [meta.node, meta.zone])
        .filter(|id| *id != 0)
        .collect();
    found.extend(
        used.iter()
            .filter(|id| !maps.names.contains_key(id))
            .map(|&id| Violation::MissingName(id)),
    );
    found.extend(
        maps.names
            .keys()
            .filter(|id| **id != NODE_NAME && !used.contains(id))
            .map(|&id| Violation::LostName(id)),
    );
    let without_target = maps
        .meta_targets
        .keys()
        .filter(|&&id| maps.target(id).word.state() == TargetState::Absent);
    let without_backend = maps
        .meta_backends
        .keys()
        .filter(|&&id| maps.backend(id) == Backend::default());
    found.extend(
        without_target
            .chain(without_backend)
            .map(|&id| Violation::LostMeta(id)),
    );
}
