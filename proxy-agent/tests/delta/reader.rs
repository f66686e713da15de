//! Readers that are in the middle of a lookup, all that there can be, while operations are applied.
//!
//! A lookup is four reads: frontend, target, slot, backend. Between any two of them any number of operations may be
//! applied, but no grace period may end. The readers here stand for every way to do that: whenever an operation
//! changes what one of them would read next, the reader that reads it now joins those that read it before.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use proxy_agent::{
    maps::{Maps, Op, Snapshot, codec, lint, memory::MemoryMaps},
    plan::{Empty, ServiceName, ServicePlan, TargetKey},
};
use proxy_common::{
    abi::{
        frontend::{FrontendKey, FrontendValue},
        target::{BackendState, Slot, TargetState, TargetWord},
    },
    addr::Addr,
};

pub type Plans = BTreeMap<ServiceName, ServicePlan>;

/// What a lookup leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    NotOurs,
    Reject,
    Drop,
    Serve(BTreeSet<(Addr, u16)>),
}

/// Where a frontend leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    service: ServiceName,
    target: TargetKey,
}

/// Where each frontend of some plans leads.
fn places(plans: &Plans) -> BTreeMap<FrontendKey, Place> {
    let frontends = plans
        .iter()
        .flat_map(|(name, plan)| plan.frontends.iter().map(move |frontend| (name, frontend)));
    frontends
        .map(|(name, frontend)| {
            let place = Place {
                service: name.clone(),
                target: frontend.target.clone(),
            };
            (codec::frontend_key(frontend), place)
        })
        .collect()
}

/// What a target is in some plans; `None` if it is not in them.
fn version(plans: &Plans, place: &Place) -> Option<Version> {
    let target = plans.get(&place.service)?.targets.get(&place.target)?;
    Some(match target.empty {
        None => Version::Serve(
            target
                .backends
                .iter()
                .map(|b| (Addr::from(b.address), b.port))
                .collect(),
        ),
        Some(Empty::Reject) => Version::Reject,
        Some(Empty::Drop) => Version::Drop,
    })
}

/// Maps, with readers.
#[derive(Debug, Default)]
pub struct Readers {
    maps: MemoryMaps,
    /// The plans before the change that is under way, and after.
    before: Plans,
    after: Plans,
    /// What fresh lookups may lead to.
    fresh: BTreeMap<FrontendKey, BTreeSet<Version>>,
    /// Whose each target id is, or was last.
    targets: HashMap<u32, Place>,
    /// What each target has been since the last grace period, and may become in the change that is under way.
    allowed: HashMap<Place, BTreeSet<Version>>,
    /// Target ids that readers have from a frontend, …
    after_frontend: HashSet<u32>,
    /// … words that they have from a target, …
    after_target: HashSet<(u32, TargetWord)>,
    /// … slots that they have from a range.
    after_slot: HashSet<(u32, Slot)>,
    /// Whom each (backend id, generation) has ever named.
    named: HashMap<(u32, u32), (Addr, u16, u8)>,
    /// Whether to check all invariants after each operation.
    pub thorough: bool,
}

impl Readers {
    pub fn contents(&self) -> &Snapshot {
        &self.maps.contents
    }

    /// A change begins that ends in `after`. While it lasts, a lookup leads to the old or to the new. A frontend that
    /// moves from one target to another may show what becomes of the one that it leaves.
    pub fn begin(&mut self, after: &Plans) {
        self.after = after.clone();
        let (old, new) = (places(&self.before), places(&self.after));
        self.fresh.clear();
        for key in old.keys().chain(new.keys()) {
            let was = old.get(key).and_then(|place| version(&self.before, place));
            let is = new.get(key).and_then(|place| version(&self.after, place));
            let left = old.get(key).and_then(|place| version(&self.after, place));
            let mut fresh = BTreeSet::from([
                was.unwrap_or(Version::NotOurs),
                is.unwrap_or(Version::NotOurs),
            ]);
            fresh.extend(left.filter(|_| new.contains_key(key)));
            self.fresh.insert(*key, fresh);
        }
        for plans in [&self.before, &self.after] {
            for (service, target) in plans
                .iter()
                .flat_map(|(name, plan)| plan.targets.keys().map(move |key| (name, key)))
            {
                let place = Place {
                    service: service.clone(),
                    target: target.clone(),
                };
                let version = version(plans, &place);
                self.allowed.entry(place).or_default().extend(version);
            }
        }
    }

    /// The change is over: from here on, every lookup that begins leads to its outcome.
    pub fn end(&mut self) {
        self.before = std::mem::take(&mut self.after);
        self.begin(&self.before.clone());
        let keys: Vec<_> = self
            .fresh
            .keys()
            .chain(self.maps.contents.frontends.keys())
            .copied()
            .collect();
        for key in keys {
            self.look_up(key);
        }
        self.check("a change");
    }

    fn check(&self, after: impl std::fmt::Debug) {
        let found = lint::lint(self.contents())
            .into_iter()
            .filter(|violation| !violation.is_transient());
        assert_eq!(found.collect::<Vec<_>>(), [], "after {after:?}");
    }

    /// Applies an operation in sight of all readers.
    pub fn apply(&mut self, op: &Op) {
        if let Op::PutBackend { id, value, .. } = op {
            let identity = (value.addr, value.port.get(), value.protocol);
            let known = self
                .named
                .entry((*id, value.word.generation()))
                .or_insert(identity);
            assert_eq!(
                *known, identity,
                "{op:?} gives a stranger the name of another backend"
            );
        }
        if let Op::PutTarget { id, meta, .. } = op {
            assert!(
                !self.after_frontend.contains(id),
                "{op:?}: a reader holds this target"
            );
            let (service, target) = codec::target_identity(meta).unwrap();
            self.targets.insert(*id, Place { service, target });
        }
        self.maps.apply_one(op);
        match op {
            Op::PutFrontend { key, .. } | Op::DeleteFrontend { key } => self.read_frontend(*key),
            Op::PutTarget { id, .. } | Op::FlipTarget { id, .. } | Op::ClearTarget { id } => {
                self.target_changed(*id)
            }
            Op::WriteSlots { offset, slots } => self.slots_changed(*offset, slots.len() as u32),
            Op::PutBackend { id, .. }
            | Op::FlipBackend { id, .. }
            | Op::ClearBackend { id, .. } => self.backend_changed(*id),
            Op::AwaitReaders => self.grace_period(),
            _ => {}
        }
        if self.thorough {
            self.check(op);
        }
    }

    /// All readers are through, and new ones begin.
    fn grace_period(&mut self) {
        self.after_frontend.clear();
        self.after_target.clear();
        self.after_slot.clear();
        self.allowed.clear();
        self.begin(&self.after.clone());
        let keys: Vec<_> = self.maps.contents.frontends.keys().copied().collect();
        for key in keys {
            self.read_frontend(key);
        }
    }

    fn may(&self, target: u32, allows: impl Fn(&Version) -> bool) -> bool {
        let versions = self
            .targets
            .get(&target)
            .and_then(|place| self.allowed.get(place));
        versions.is_some_and(|versions| versions.iter().any(allows))
    }

    fn read_frontend(&mut self, key: FrontendKey) {
        self.look_up(key);
        if let Some(&value) = self.maps.contents.frontends.get(&key) {
            assert!(
                value.belongs_to(&key),
                "{key:?} has the value of another key"
            );
            if self.after_frontend.insert(value.target()) {
                self.read_target(value.target());
            }
        }
    }

    fn target_changed(&mut self, id: u32) {
        let frontends = &self.maps.contents.frontends;
        frontends
            .iter()
            .filter(|(_, value)| value.target() == id)
            .for_each(|(key, _)| self.look_up(*key));
        if self.after_frontend.contains(&id) {
            self.read_target(id);
        }
    }

    fn read_target(&mut self, id: u32) {
        let word = self.maps.contents.target(id).word;
        if !self.after_target.insert((id, word)) {
            return;
        }
        let verdict = match word.state() {
            TargetState::Absent => Version::NotOurs,
            TargetState::Reject => Version::Reject,
            TargetState::Drop => Version::Drop,
            TargetState::Serve => return self.read_slots(id, word),
        };
        assert!(
            self.may(id, |version| *version == verdict),
            "a reader of target {id} finds {verdict:?}, which it never was"
        );
    }

    fn slots_changed(&mut self, offset: u32, len: u32) {
        let overlaps = |word: TargetWord| {
            word.state() == TargetState::Serve
                && word.offset() < offset + len
                && offset < word.offset() + u32::from(word.count())
        };
        let holders: Vec<_> = self
            .after_target
            .iter()
            .filter(|(_, word)| overlaps(*word))
            .copied()
            .collect();
        for (id, word) in holders {
            self.read_slots(id, word);
        }
    }

    fn read_slots(&mut self, id: u32, word: TargetWord) {
        let slots: Vec<_> = self.maps.contents.slots_of(word).collect();
        for slot in slots {
            if self.after_slot.insert((id, slot)) {
                self.read_backend(id, slot);
            }
        }
    }

    fn backend_changed(&mut self, backend: u32) {
        let holders = self
            .after_slot
            .iter()
            .filter(|(_, slot)| slot.backend == backend);
        holders.for_each(|(id, slot)| self.read_backend(*id, *slot));
    }

    /// The last read: the backend must be whole, and one of the target's at some time since the reader began.
    fn read_backend(&self, id: u32, slot: Slot) {
        let backend = self.maps.contents.backend(slot.backend);
        assert!(
            slot.generation != 0 && backend.word.generation() == slot.generation,
            "a reader of target {id} finds {slot:?}, but {backend:?}"
        );
        let place = (backend.addr, backend.port.get());
        assert!(
            self.may(
                id,
                |version| matches!(version, Version::Serve(places) if places.contains(&place))
            ),
            "a reader of target {id} finds {backend:?}, which was never in its list"
        );
    }

    /// A lookup without interruption: it leads to the old or to the new, as a whole.
    fn look_up(&self, key: FrontendKey) {
        let maps = &self.maps.contents;
        let found = maps.frontends.get(&key).map_or(Version::NotOurs, |value| {
            let word = maps.target(value.target()).word;
            match word.state() {
                TargetState::Absent => Version::NotOurs,
                TargetState::Reject => Version::Reject,
                TargetState::Drop => Version::Drop,
                TargetState::Serve => Version::Serve(
                    maps.slots_of(word)
                        .map(|slot| {
                            let backend = maps.backend(slot.backend);
                            assert_eq!(backend.word.generation(), slot.generation, "{key:?}");
                            assert_eq!(backend.word.state(), BackendState::Serving, "{key:?}");
                            (backend.addr, backend.port.get())
                        })
                        .collect(),
                ),
            }
        });
        let planned = self.fresh.get(&key);
        let allowed = planned.map_or(found == Version::NotOurs, |planned| {
            planned.contains(&found)
        });
        assert!(
            allowed,
            "{key:?} leads to {found:?}, not to one of {planned:?}"
        );
    }
}

impl Maps for Readers {
    fn apply(&mut self, ops: &[Op]) -> Result<(), proxy_agent::maps::ApplyError> {
        for op in ops {
            Readers::apply(self, op);
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, proxy_agent::maps::SnapshotError> {
        self.maps.snapshot()
    }
}
