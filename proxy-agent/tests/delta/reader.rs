//! Readers that are in the middle of a lookup, all that there can be, while operations are applied.
//!
//! A lookup is four reads: frontend, target, slot, backend. Between any two of them any number of operations may be
//! applied, but no grace period may end. The readers here stand for every way to do that: whenever an operation
//! changes what one of them would read next, the reader that reads it now joins those that read it before.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    rc::Rc,
};

use proxy_agent::{
    maps::{ApplyError, Maps, Op, Snapshot, SnapshotError, codec, lint, memory::MemoryMaps},
    plan::{ServiceName, ServicePlan},
};
use proxy_common::{
    abi::{
        frontend::FrontendKey,
        target::{BackendState, Slot, Target, TargetState, TargetWord},
    },
    addr::Addr,
};

use super::planned::{Place, Planned, Terms, Version};

/// Plans of all Services.
pub type Plans = BTreeMap<ServiceName, ServicePlan>;

/// Maps, with readers.
#[derive(Debug, Default)]
pub struct Readers {
    maps: MemoryMaps,
    /// The plans before the change that is under way, and after.
    before: Rc<Planned>,
    after: Rc<Planned>,
    /// Whose each target id is, or was last.
    targets: HashMap<u32, Place>,
    /// What each target has been since the last grace period, and may become in the change that is under way.
    allowed: HashMap<Place, Vec<Rc<Version>>>,
    /// Target ids that readers have from a frontend, …
    after_frontend: HashSet<u32>,
    /// … words that they have from a target, …
    after_target: HashSet<(u32, TargetWord)>,
    /// … slots that they have from a range, …
    after_slot: HashSet<(u32, Slot)>,
    /// … and sets of source ranges, by which they judge clients.
    after_set: HashSet<u32>,
    /// Whom each (backend id, generation) has ever named.
    named: HashMap<(u32, u32), (Addr, u16, u8)>,
    /// Whether to check all invariants after each operation.
    pub thorough: bool,
    /// Whether nobody can say which plan is in force: then a lookup may lead to any that ever was.
    pub relaxed: bool,
}

impl Readers {
    pub fn contents(&self) -> &Snapshot {
        &self.maps.contents
    }

    /// A change begins that ends in `after`. While it lasts, a lookup leads to the old or to the new. A frontend that
    /// moves from one target to another may show what becomes of the one that it leaves.
    pub fn begin(&mut self, after: &Plans) {
        self.after = Rc::new(Planned::new(after));
        self.allow(&self.after.clone());
    }

    fn allow(&mut self, planned: &Planned) {
        for (place, version) in &planned.targets {
            let versions = self.allowed.entry(place.clone()).or_default();
            if !versions.contains(version) {
                versions.push(version.clone());
            }
        }
    }

    /// The change is over: from here on, every lookup that begins leads to its outcome.
    pub fn end(&mut self) {
        self.before = self.after.clone();
        let keys: BTreeSet<_> = self
            .after
            .frontends
            .keys()
            .chain(self.contents().frontends.keys())
            .collect();
        for key in keys {
            self.look_up(*key);
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
        match op {
            Op::PutBackend { id, value, .. } => {
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
            Op::PutTarget { id, meta, .. } => {
                assert!(
                    !self.after_frontend.contains(id),
                    "{op:?}: a reader holds this target"
                );
                self.targets
                    .insert(*id, Rc::new(codec::target_identity(meta).unwrap()));
            }
            Op::PutRange { key } | Op::DeleteRange { key } => assert!(
                !self.after_set.contains(&key.set),
                "{op:?}: a reader judges clients by this set"
            ),
            _ => {}
        }
        self.maps.apply_one(op);
        match op {
            Op::PutFrontend { key, .. } | Op::DeleteFrontend { key } => self.read_frontend(*key),
            Op::PutTarget { id, .. }
            | Op::FlipTarget { id, .. }
            | Op::SetAffinity { id, .. }
            | Op::SetSlowStart { id, .. }
            | Op::SetRanges { id, .. }
            | Op::ClearTarget { id } => {
                self.target_changed(*id);
            }
            Op::WriteSlots { offset, slots } => self.slots_changed(*offset, slots.len() as u32),
            Op::PutBackend { id, .. }
            | Op::FlipBackend { id, .. }
            | Op::ClearBackend { id, .. } => {
                self.backend_changed(*id);
            }
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
        self.after_set.clear();
        if !self.relaxed {
            self.allowed.clear();
            self.allow(&self.before.clone());
            self.allow(&self.after.clone());
        }
        let keys: Vec<_> = self.contents().frontends.keys().copied().collect();
        for key in keys {
            self.read_frontend(key);
        }
    }

    fn may(&self, target: u32, allows: impl Fn(&Version) -> bool) -> bool {
        let versions = self
            .targets
            .get(&target)
            .and_then(|place| self.allowed.get(place));
        versions.is_some_and(|versions| versions.iter().any(|version| allows(version)))
    }

    fn read_frontend(&mut self, key: FrontendKey) {
        self.look_up(key);
        if let Some(&value) = self.contents().frontends.get(&key) {
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
        let frontends = self.contents().frontends.iter();
        frontends
            .filter(|(_, value)| value.target() == id)
            .for_each(|(key, _)| self.look_up(*key));
        if self.after_frontend.contains(&id) {
            self.read_target(id);
        }
    }

    fn read_target(&mut self, id: u32) {
        let Target { word, ranges, .. } = self.contents().target(id);
        if ranges != 0 {
            self.after_set.insert(ranges);
        }
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
        let slots: Vec<_> = self.contents().slots_of(word).collect();
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
        let backend = self.contents().backend(slot.backend);
        assert!(
            slot.generation != 0 && backend.word.generation() == slot.generation,
            "a reader of target {id} finds {slot:?}, but {backend:?}"
        );
        let place = (backend.addr, backend.port.get());
        assert!(
            self.may(
                id,
                |version| matches!(version, Version::Serve(list, _) if list.contains(&place))
            ),
            "a reader of target {id} finds {backend:?}, which was never in its list"
        );
    }

    /// A lookup without interruption: it leads to the old or to the new, as a whole.
    fn look_up(&self, key: FrontendKey) {
        let maps = self.contents();
        let target = maps.frontends.get(&key);
        let target = target.map_or_else(Target::default, |value| maps.target(value.target()));
        let word = target.word;
        let found = match word.state() {
            TargetState::Absent => Version::NotOurs,
            TargetState::Reject => Version::Reject,
            TargetState::Drop => Version::Drop,
            TargetState::Serve => {
                let slots: HashSet<Slot> = maps.slots_of(word).collect();
                let backends = slots.into_iter().map(|slot| self.choose(slot));
                Version::serve(backends.collect(), word.algorithm())
            }
        };
        if self.relaxed {
            return;
        }
        let moving = self
            .before
            .frontends
            .get(&key)
            .filter(|_| self.after.frontends.contains_key(&key));
        let left = moving.filter(|place| self.after.targets.contains_key(*place));
        let planned = [self.before.of(&key), self.after.of(&key)];
        let planned = planned
            .into_iter()
            .chain(left.map(|place| self.after.at(place)));
        let planned: Vec<_> = planned.collect();
        assert!(
            planned.iter().any(|(version, _)| **version == found),
            "{key:?} leads to {found:?}, not to one of {planned:?}"
        );
        if found == Version::NotOurs {
            return;
        }
        // Each of these is one store of its own.
        let terms = Terms::written(&target, maps);
        let mut known = planned.iter().filter_map(|(_, terms)| *terms);
        assert!(
            known
                .clone()
                .any(|known| known.affinity_seconds == terms.affinity_seconds)
                && known
                    .clone()
                    .any(|known| known.slow_start == terms.slow_start)
                && known.any(|known| known.ranges == terms.ranges),
            "{key:?} goes by {terms:?}, not by one of {planned:?}"
        );
    }

    /// The backend of a slot, for a new connection.
    fn choose(&self, slot: Slot) -> (Addr, u16) {
        let backend = self.contents().backend(slot.backend);
        assert_eq!(backend.word.generation(), slot.generation, "{backend:?}");
        assert_eq!(backend.word.state(), BackendState::Serving, "{backend:?}");
        (backend.addr, backend.port.get())
    }
}

impl Maps for Readers {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        for op in ops {
            self.apply(op);
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, SnapshotError> {
        self.maps.snapshot()
    }

    fn now(&self) -> u64 {
        self.maps.now()
    }
}
