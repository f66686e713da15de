//! From maps that an earlier agent left to the state of [`Delta`].
//!
//! Whatever a frontend reaches is kept with its ids, slots and generations, and so are backends in use that no list
//! names (they drain). All else is what a crash between two operations leaves behind, and is swept.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use proxy_common::abi::{
    frontend::{FrontendKey, FrontendValue},
    meta::BackendMeta,
    target::{self as abi, BackendState, BackendWord, TargetState},
};

use super::{
    Delta, Group,
    extents::Extent,
    ids::Ids,
    names::Names,
    refusal::Capacities,
    resources::{Resources, loose_limit},
    service::{Backend, BackendKey, PortKey, Service, Target},
};
use crate::{
    maps::{NODE_NAME, Op, Snapshot, codec},
    plan::{ServiceName, TargetKey},
};

impl Delta {
    /// Takes over what stands in the maps, and hands out the removal of what nothing reaches.
    ///
    /// Nobody else writes the maps any more, and every program that ran when they were last written has ended
    /// ([`Op::AwaitReaders`] before the snapshot sees to that).
    pub fn restore(capacities: Capacities, snapshot: &Snapshot) -> (Self, Group) {
        let mut restoring = Restoring {
            snapshot,
            limit: loose_limit(&capacities),
            services: BTreeMap::new(),
            ports: BTreeMap::new(),
            kept_targets: BTreeMap::new(),
            kept_backends: BTreeSet::new(),
            kept_sets: BTreeMap::new(),
            resources: Resources::new(capacities),
            sweep: Group::default(),
        };
        restoring.frontends();
        restoring.backends();
        restoring.targets();
        restoring.names();
        restoring.sweep_targets();
        restoring.sweep_backends();
        restoring.sweep_ranges();
        restoring.finish()
    }
}

/// A target that a frontend reaches.
struct Kept {
    service: ServiceName,
    key: TargetKey,
    value: abi::Target,
}

struct Restoring<'a> {
    snapshot: &'a Snapshot,
    /// Limit of the ids of Service ports and sets.
    limit: u32,
    services: BTreeMap<ServiceName, Service>,
    /// Service ports by id.
    ports: BTreeMap<u32, (ServiceName, PortKey)>,
    kept_targets: BTreeMap<u32, Kept>,
    kept_backends: BTreeSet<u32>,
    /// Sets of source ranges, and whose they are.
    kept_sets: BTreeMap<u32, ServiceName>,
    resources: Resources,
    sweep: Group,
}

impl Restoring<'_> {
    /// Frontends, and which targets they reach.
    fn frontends(&mut self) {
        let snapshot = self.snapshot;
        for (&key, &value) in &snapshot.frontends {
            let id = value.target();
            if value.belongs_to(&key) && self.keep_target(id) && self.agrees(&key, id) {
                self.keep_frontend(id, key, value);
            } else {
                self.sweep.ops.push(Op::DeleteFrontend { key });
            }
            self.resources.frontends.insert(key, value);
        }
        for op in &self.sweep.ops {
            if let Op::DeleteFrontend { key } = op {
                self.resources.frontends.remove(key);
            }
        }
    }

    /// Whether a target is whole, and the only one with its identity.
    fn keep_target(&mut self, id: u32) -> bool {
        if self.kept_targets.contains_key(&id) {
            return true;
        }
        let value = self.snapshot.target(id);
        let identity = self
            .snapshot
            .meta_targets
            .get(&id)
            .and_then(codec::target_identity);
        let Some((service, key)) = identity else {
            return false;
        };
        let valid = id > 0
            && id < self.resources.capacities.targets
            && value.word.state() != TargetState::Absent;
        if !valid || value.service == 0 || value.service >= self.limit {
            return false;
        }
        let port = PortKey::from(&key);
        let whose = (service.clone(), port.clone());
        let known = self.services.entry(service.clone()).or_default();
        let other_id = known
            .ports
            .get(&port)
            .is_some_and(|&id| id != value.service);
        let other_port = self
            .ports
            .get(&value.service)
            .is_some_and(|port| *port != whose);
        if other_id || other_port || known.targets.contains_key(&key) {
            return false;
        }
        known.ports.insert(port, value.service);
        self.ports.insert(value.service, whose);
        let target = Target {
            id,
            word: value.word,
            slots: None,
            table: None,
            extent: None,
            affinity_seconds: value.affinity_seconds,
            slow_start: value.slow_start,
            ranges: value.ranges,
            flags: value.flags,
        };
        known.targets.insert(key.clone(), target);
        self.kept_targets.insert(
            id,
            Kept {
                service,
                key,
                value,
            },
        );
        true
    }

    /// Whether a frontend is one that its target can serve.
    fn agrees(&self, key: &FrontendKey, target: u32) -> bool {
        self.kept_targets.get(&target).is_some_and(|kept| {
            kept.key.protocol as u8 == key.protocol && kept.key.family == key.addr.family()
        })
    }

    fn keep_frontend(&mut self, target: u32, key: FrontendKey, value: FrontendValue) {
        if let Some(kept) = self.kept_targets.get(&target)
            && let Some(service) = self.services.get_mut(&kept.service)
        {
            service.frontends.insert(key, value);
        }
    }

    /// Backends that are of a Service port that is kept; those that slots name come first.
    fn backends(&mut self) {
        let snapshot = self.snapshot;
        let listed: BTreeSet<u32> = self
            .kept_targets
            .values()
            .flat_map(|kept| snapshot.slots_of(kept.value.word))
            .map(|slot| slot.backend)
            .collect();
        let (first, then): (Vec<_>, Vec<_>) = snapshot
            .meta_backends
            .iter()
            .partition(|(id, _)| listed.contains(id));
        for (&id, &meta) in first.into_iter().chain(then) {
            self.keep_backend(id, meta);
        }
        self.resources.generations = snapshot
            .backends
            .iter()
            .map(|backend| backend.word.generation())
            .collect();
    }

    fn keep_backend(&mut self, id: u32, meta: BackendMeta) {
        let value = self.snapshot.backend(id);
        let Some((name, port)) = self.ports.get(&meta.owner) else {
            return;
        };
        let whole = id > 0
            && id < self.resources.capacities.backends
            && value.word.state() != BackendState::Gone
            && value.word.generation() != 0
            && value.protocol == port.protocol as u8
            && value.addr.family() == port.family;
        let Some(service) = self.services.get_mut(name).filter(|_| whole) else {
            return;
        };
        let key = BackendKey {
            owner: meta.owner,
            address: value.addr.to_ip(),
            port: value.port.get(),
            local: value.is_local(),
        };
        service.backends.entry(key).or_insert_with(|| {
            self.kept_backends.insert(id);
            Backend {
                id,
                generation: value.word.generation(),
                weight: value.weight,
                serving: value.word.state() == BackendState::Serving,
                lists: value.word.lists(),
                since: value.since,
                meta,
            }
        });
    }

    /// What the kept targets hold: slots and source ranges.
    fn targets(&mut self) {
        let snapshot = self.snapshot;
        let mut sets: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
        for key in &snapshot.ranges {
            sets.entry(key.set).or_default().extend(codec::range(key));
        }
        for (&id, kept) in &self.kept_targets {
            let slots = self.slots(kept);
            let Some(service) = self.services.get_mut(&kept.service) else {
                continue;
            };
            let Some(target) = service.targets.get_mut(&kept.key) else {
                continue;
            };
            debug_assert_eq!(target.id, id);
            target.extent = claim(&mut self.resources, kept.value);
            target.slots = slots.filter(|ids| ids.is_empty() || target.extent.is_some());
            let set = kept.value.ranges;
            let owner = self
                .kept_sets
                .entry(set)
                .or_insert_with(|| kept.service.clone());
            if set != 0 && set < self.limit && *owner == kept.service {
                let ranges = codec::canonical_ranges(sets.get(&set).map_or(&[], Vec::as_slice));
                service.sets.entry(ranges).or_insert(set);
            }
        }
        self.kept_sets
            .retain(|&set, _| set != 0 && set < self.limit);
    }

    /// Backends of a target, slot by slot; `None` if one of them is not what it should be.
    fn slots(&self, kept: &Kept) -> Option<Vec<u32>> {
        let word = kept.value.word;
        if (word.count() > 0) != (word.state() == TargetState::Serve) {
            return None;
        }
        self.snapshot
            .slots_of(word)
            .map(|slot| {
                let owner = self.snapshot.meta_backends.get(&slot.backend)?.owner;
                let word = self.snapshot.backend(slot.backend).word;
                let right = self.kept_backends.contains(&slot.backend)
                    && owner == kept.value.service
                    && word.state() == BackendState::Serving
                    && word.generation() == slot.generation;
                right.then_some(slot.backend)
            })
            .collect()
    }

    /// Names that kept backends use; the others are garbage.
    fn names(&mut self) {
        let limit = self.resources.capacities.names;
        let backends = self
            .services
            .values()
            .flat_map(|service| service.backends.values());
        let used: BTreeSet<u32> = backends
            .flat_map(|backend| [backend.meta.node, backend.meta.zone])
            .collect();
        let (valid, invalid): (BTreeMap<_, _>, BTreeMap<_, _>) = self
            .snapshot
            .names
            .iter()
            .partition(|(id, _)| **id > 0 && **id < limit);
        let invalid = invalid.into_keys().filter(|id: &&u32| **id != NODE_NAME);
        self.sweep
            .ops
            .extend(invalid.map(|&id| Op::DeleteName { id }));
        let (names, buried) = Names::restore(limit, &valid, &used);
        self.resources.names = names;
        self.sweep.retired.buried = buried;
        for backend in self
            .services
            .values_mut()
            .flat_map(|service| service.backends.values_mut())
        {
            for id in [&mut backend.meta.node, &mut backend.meta.zone] {
                if !self.resources.names.add_user(*id) {
                    *id = 0;
                }
            }
        }
    }

    fn sweep_targets(&mut self) {
        let snapshot = self.snapshot;
        let written = (0..)
            .zip(&snapshot.targets)
            .filter(|(_, value)| **value != abi::Target::default());
        let ids: BTreeSet<u32> = written
            .map(|(id, _)| id)
            .chain(snapshot.meta_targets.keys().copied())
            .collect();
        let mut used: BTreeSet<u32> = self.kept_targets.keys().copied().collect();
        for id in ids {
            if id > 0 && id < self.resources.capacities.targets && used.insert(id) {
                self.sweep.retired.targets.push(id);
                let extent = claim(&mut self.resources, snapshot.target(id));
                self.sweep.retired.extents.extend(extent);
            }
        }
        self.resources.targets = Ids::with_used(self.resources.capacities.targets, &used);
        // A Service port whose only target came to nothing has no frontends either.
        self.resources.ports = Ids::with_used(self.limit, &self.ports.keys().copied().collect());
    }

    fn sweep_backends(&mut self) {
        let snapshot = self.snapshot;
        let free = |value: &abi::Backend| {
            let cleared = abi::Backend {
                word: BackendWord::new(value.word.generation(), BackendState::Gone),
                ..abi::Backend::default()
            };
            *value == cleared
        };
        let written = (0..)
            .zip(&snapshot.backends)
            .filter(|(_, value)| !free(value));
        let ids: BTreeSet<u32> = written
            .map(|(id, _)| id)
            .chain(snapshot.meta_backends.keys().copied())
            .collect();
        let mut used = self.kept_backends.clone();
        for id in ids {
            if id > 0 && id < self.resources.capacities.backends && used.insert(id) {
                let word = snapshot.backend(id).word;
                let generation = word.generation();
                if word.state() != BackendState::Gone {
                    let word = BackendWord::new(generation, BackendState::Gone);
                    self.sweep.ops.push(Op::FlipBackend { id, word });
                }
                self.sweep.retired.backends.push((id, generation));
            }
        }
        self.resources.backends = Ids::with_used(self.resources.capacities.backends, &used);
    }

    fn sweep_ranges(&mut self) {
        let mut used: BTreeSet<u32> = self.kept_sets.keys().copied().collect();
        for &key in &self.snapshot.ranges {
            if self.kept_sets.contains_key(&key.set) && codec::range(&key).is_some() {
                continue;
            }
            self.sweep.retired.ranges.push(key);
            if key.set > 0 && key.set < self.limit && used.insert(key.set) {
                self.sweep.retired.sets.push(key.set);
            }
        }
        self.resources.ranges = self.snapshot.ranges.len();
        self.resources.sets = Ids::with_used(self.limit, &used);
    }

    fn finish(self) -> (Delta, Group) {
        let mut services = self.services;
        services.retain(|_, service| !service.is_empty());
        let delta = Delta {
            services,
            resources: self.resources,
            ..Delta::new(Capacities::default())
        };
        (delta, self.sweep.ordered())
    }
}

/// Takes the slots of a target out of the free ones.
fn claim(resources: &mut Resources, value: abi::Target) -> Option<Extent> {
    let extent = Extent {
        offset: value.word.offset(),
        len: u32::from(value.word.count()),
    };
    resources.extents.claim(extent).then_some(extent)
}
