//! From what is programmed for one Service to what is planned: everything that is needed is reserved first, so that a
//! Service that does not fit is refused before anything of it is written.

use std::collections::{BTreeSet, HashMap};

use proxy_common::{
    abi::{
        frontend::{FrontendKey, FrontendValue},
        meta::{BackendMeta, backend_meta_flags},
        target::{
            self as abi, Algorithm, BackendState, BackendWord, Slot, TargetState, TargetWord,
            backend_flags,
        },
    },
    addr::Addr,
};

use super::{
    extents::Extent,
    refusal::Reason,
    resources::{Resources, Retired},
    service::{Backend, BackendKey, PortKey, Service, Target},
    slots,
};
use crate::{
    maps::{Op, codec},
    plan::{BackendPlan, Empty, Protocol, ServiceName, ServicePlan, TargetKey, TargetPlan},
};

/// A Service's way from what is to what is planned.
#[derive(Debug)]
pub(super) struct Draft {
    /// What is written when all is done.
    pub next: Service,
    /// Writes of backends, slots and targets.
    pub ops: Vec<Op>,
    /// What is in use no more when all is done.
    pub retired: Retired,
}

/// A draft in the making: what it has taken is given back if it comes to nothing.
struct Drafting<'a> {
    resources: &'a mut Resources,
    name: &'a ServiceName,
    old: &'a Service,
    next: Service,
    ops: Vec<Op>,
    retired: Retired,
    taken: Retired,
}

/// Drafts the way from `old` to `plan`.
pub(super) fn draft(
    resources: &mut Resources,
    name: &ServiceName,
    old: &Service,
    plan: &ServicePlan,
) -> Result<Draft, Reason> {
    let mut drafting = Drafting {
        resources,
        name,
        old,
        next: Service::default(),
        ops: Vec::new(),
        retired: Retired::default(),
        taken: Retired::default(),
    };
    match drafting.all(plan) {
        Ok(()) => {
            drafting.retire_the_rest();
            let Drafting {
                next, ops, retired, ..
            } = drafting;
            Ok(Draft { next, ops, retired })
        }
        Err(reason) => {
            let taken = std::mem::take(&mut drafting.taken);
            for &id in &taken.names {
                resources.names.release(id);
            }
            let buried = resources.names.bury(taken.names.iter().copied());
            resources.names.give(buried);
            resources.free(taken);
            Err(reason)
        }
    }
}

impl Drafting<'_> {
    fn all(&mut self, plan: &ServicePlan) -> Result<(), Reason> {
        for key in plan.targets.keys().chain(plan.draining.keys()) {
            self.port(key)?;
        }
        for (key, target) in &plan.targets {
            for backend in &target.backends {
                self.backend(key, backend)?;
            }
        }
        for (key, backends) in &plan.draining {
            for backend in backends {
                self.backend(key, backend)?;
            }
        }
        for (key, target) in &plan.targets {
            self.target(key, target)?;
        }
        self.frontends(plan)
    }

    fn port(&mut self, key: &TargetKey) -> Result<(), Reason> {
        let key = PortKey::from(key);
        if self.next.ports.contains_key(&key) {
            return Ok(());
        }
        let id = if let Some(&id) = self.old.ports.get(&key) {
            id
        } else {
            let id = self.resources.take_port()?;
            self.taken.ports.push(id);
            id
        };
        self.next.ports.insert(key, id);
        Ok(())
    }

    /// Id of a port that [`Self::port`] has seen.
    fn owner(&self, key: &TargetKey) -> u32 {
        self.next
            .ports
            .get(&PortKey::from(key))
            .copied()
            .unwrap_or(0)
    }

    fn name(&mut self, text: Option<&str>) -> Result<u32, Reason> {
        let id = self.resources.names.acquire(text)?;
        if id != 0 {
            self.taken.names.push(id);
        }
        Ok(id)
    }

    fn backend(&mut self, key: &TargetKey, plan: &BackendPlan) -> Result<(), Reason> {
        let owner = self.owner(key);
        let protocol = key.protocol;
        let key = BackendKey::new(owner, plan);
        if self.next.backends.contains_key(&key) {
            return Ok(());
        }
        let old = self.old.backends.get(&key).copied();
        if let Some(old) = old
            && self.describes(&old.meta, plan)
        {
            if old.weight != plan.weight {
                self.ops.push(Op::SetWeight {
                    id: old.id,
                    weight: plan.weight,
                });
            }
            self.next.backends.insert(
                key,
                Backend {
                    weight: plan.weight,
                    ..old
                },
            );
            return Ok(());
        }
        let meta = BackendMeta {
            node: self.name(plan.node.as_deref())?,
            zone: self.name(plan.zone.as_deref())?,
            flags: flags(plan),
            owner,
        };
        let next = if let Some(old) = old {
            self.ops.push(Op::SetBackendMeta { id: old.id, meta });
            if old.weight != plan.weight {
                self.ops.push(Op::SetWeight {
                    id: old.id,
                    weight: plan.weight,
                });
            }
            self.retired.names.extend(names_of(&old.meta));
            Backend {
                weight: plan.weight,
                meta,
                ..old
            }
        } else {
            let (id, generation) = self.resources.take_backend()?;
            self.taken.backends.push((id, generation));
            self.ops.push(Op::PutBackend {
                id,
                value: value(protocol, plan, generation),
                meta,
            });
            Backend {
                id,
                generation,
                weight: plan.weight,
                meta,
            }
        };
        self.next.backends.insert(key, next);
        Ok(())
    }

    /// Whether what is written says the same as the plan.
    fn describes(&self, meta: &BackendMeta, plan: &BackendPlan) -> bool {
        let text = |id| self.resources.names.text(id);
        let given = |name: &'_ Option<String>| name.clone().filter(|name| !name.is_empty());
        text(meta.node) == given(&plan.node).as_deref()
            && text(meta.zone) == given(&plan.zone).as_deref()
            && meta.flags == flags(plan)
    }

    fn target(&mut self, key: &TargetKey, plan: &TargetPlan) -> Result<(), Reason> {
        let old = self.old.targets.get(key);
        let ranges = self.range_set(plan)?;
        let affinity_seconds = plan.affinity_seconds.unwrap_or(0);
        let ids = self.slots(key, plan)?;
        let state = match (ids.is_empty(), plan.empty) {
            (false, _) => TargetState::Serve,
            (true, Some(Empty::Drop)) => TargetState::Drop,
            (true, _) => TargetState::Reject,
        };
        let unchanged = old.filter(|old| old.slots.as_ref() == Some(&ids));
        let extent = match unchanged {
            Some(old) => old.extent,
            None if ids.is_empty() => None,
            None => Some(self.write_slots(&ids)?),
        };
        let word = TargetWord::new(
            extent.map_or(0, |e| e.offset),
            ids.len() as u16,
            state,
            Algorithm::Random,
        );
        let next = match old {
            None => self.new_target(key, word, affinity_seconds, ranges)?,
            Some(old) => {
                let id = old.id;
                if old.affinity_seconds != affinity_seconds {
                    self.ops.push(Op::SetAffinity {
                        id,
                        seconds: affinity_seconds,
                    });
                }
                if old.ranges != ranges {
                    self.ops.push(Op::SetRanges { id, set: ranges });
                }
                if old.word != word {
                    self.ops.push(Op::FlipTarget { id, word });
                }
                if old.extent != extent {
                    self.retired.extents.extend(old.extent);
                }
                id
            }
        };
        let target = Target {
            id: next,
            word,
            slots: Some(ids),
            extent,
            affinity_seconds,
            ranges,
        };
        self.next.targets.insert(key.clone(), target);
        Ok(())
    }

    /// Backend ids of a target, slot by slot.
    fn slots(&self, key: &TargetKey, plan: &TargetPlan) -> Result<Vec<u32>, Reason> {
        let owner = self.owner(key);
        let mut seen = BTreeSet::new();
        let listed: Vec<(u32, u32)> = plan
            .backends
            .iter()
            .filter_map(|backend| {
                let written = self.next.backends.get(&BackendKey::new(owner, backend))?;
                seen.insert(written.id)
                    .then_some((written.id, written.weight))
            })
            .collect();
        let weights: Vec<u32> = listed.iter().map(|(_, weight)| *weight).collect();
        let layout = slots::layout(&weights).ok_or_else(|| Reason::ListTooLong {
            port_name: key.port_name.clone(),
            count: listed.len(),
        })?;
        Ok(layout
            .into_iter()
            .map(|i| listed[usize::from(i)].0)
            .collect())
    }

    fn write_slots(&mut self, ids: &[u32]) -> Result<Extent, Reason> {
        let extent = self.resources.take_slots(ids.len() as u32)?;
        self.taken.extents.push(extent);
        let generations = &self.resources.generations;
        let slot = |&id: &u32| Slot {
            backend: id,
            generation: generations[id as usize],
        };
        self.ops.push(Op::WriteSlots {
            offset: extent.offset,
            slots: ids.iter().map(slot).collect(),
        });
        Ok(extent)
    }

    fn new_target(
        &mut self,
        key: &TargetKey,
        word: TargetWord,
        affinity_seconds: u32,
        ranges: u32,
    ) -> Result<u32, Reason> {
        let Some(meta) = codec::target_meta(self.name, key) else {
            let name = format!("{} {}", self.name, key.port_name);
            return Err(Reason::NameTooLong { name });
        };
        let id = self.resources.take_target()?;
        self.taken.targets.push(id);
        let value = abi::Target {
            word,
            service: self.owner(key),
            affinity_seconds,
            ranges,
            pad: 0,
        };
        self.ops.push(Op::PutTarget {
            id,
            value,
            meta: Box::new(meta),
        });
        Ok(id)
    }

    /// Set of a target's source ranges; 0 if everyone is let in.
    fn range_set(&mut self, plan: &TargetPlan) -> Result<u32, Reason> {
        let Some(ranges) = &plan.source_ranges else {
            return Ok(0);
        };
        let ranges = codec::canonical_ranges(ranges);
        let known = self
            .next
            .sets
            .get(&ranges)
            .or_else(|| self.old.sets.get(&ranges));
        let set = if let Some(&set) = known {
            set
        } else {
            let set = self.resources.take_set(ranges.len())?;
            self.taken.sets.push(set);
            let keys: Vec<_> = ranges
                .iter()
                .map(|range| codec::range_key(set, range))
                .collect();
            self.ops
                .extend(keys.iter().map(|&key| Op::PutRange { key }));
            self.taken.ranges.extend(keys);
            set
        };
        self.next.sets.insert(ranges, set);
        Ok(set)
    }

    fn frontends(&mut self, plan: &ServicePlan) -> Result<(), Reason> {
        for frontend in &plan.frontends {
            let Some(target) = self.next.targets.get(&frontend.target) else {
                return Err(Reason::NoTarget {
                    port: frontend.port,
                });
            };
            let key = codec::frontend_key(frontend);
            let value = FrontendValue::new(&key, target.id, frontend.kind);
            self.next.frontends.insert(key, value);
        }
        let present = &self.resources.frontends;
        let new = self
            .next
            .frontends
            .keys()
            .filter(|key| !present.contains_key(key))
            .count();
        self.resources.promise_frontends(new)
    }

    /// What the Service had and has no more.
    fn retire_the_rest(&mut self) {
        let (old, next, retired) = (self.old, &self.next, &mut self.retired);
        for (key, target) in &old.targets {
            if !next.targets.contains_key(key) {
                retired.targets.push(target.id);
                retired.extents.extend(target.extent);
            }
        }
        for (key, backend) in &old.backends {
            if !next.backends.contains_key(key) {
                retired.backends.push((backend.id, backend.generation));
                retired.names.extend(names_of(&backend.meta));
                self.ops.push(Op::FlipBackend {
                    id: backend.id,
                    word: BackendWord::new(backend.generation, BackendState::Gone),
                });
            }
        }
        for (ranges, &set) in &old.sets {
            if !next.sets.contains_key(ranges) {
                retired.sets.push(set);
                retired
                    .ranges
                    .extend(ranges.iter().map(|range| codec::range_key(set, range)));
            }
        }
        for (key, &id) in &old.ports {
            if !next.ports.contains_key(key) {
                retired.ports.push(id);
            }
        }
    }
}

impl Draft {
    /// Keys of `FRONTENDS` that this draft writes or deletes.
    pub fn touches<'a>(
        &'a self,
        old: &'a Service,
        present: &'a HashMap<FrontendKey, FrontendValue>,
    ) -> impl Iterator<Item = FrontendKey> + 'a {
        let claims = self
            .next
            .frontends
            .iter()
            .filter(|(key, value)| present.get(*key) != Some(*value));
        claims
            .map(|(key, _)| *key)
            .chain(released(old, &self.next, present))
    }
}

/// Frontends that a Service has and is to have no more, unless another Service has taken them over.
pub(super) fn released<'a>(
    old: &'a Service,
    next: &'a Service,
    present: &'a HashMap<FrontendKey, FrontendValue>,
) -> impl Iterator<Item = FrontendKey> + 'a {
    let gone = old
        .frontends
        .iter()
        .filter(|(key, _)| !next.frontends.contains_key(key));
    gone.filter(|(key, value)| present.get(*key) == Some(*value))
        .map(|(key, _)| *key)
}

fn flags(plan: &BackendPlan) -> u32 {
    if plan.terminating {
        backend_meta_flags::TERMINATING
    } else {
        0
    }
}

fn names_of(meta: &BackendMeta) -> impl Iterator<Item = u32> {
    [meta.node, meta.zone].into_iter().filter(|&id| id != 0)
}

fn value(protocol: Protocol, plan: &BackendPlan, generation: u32) -> abi::Backend {
    abi::Backend {
        addr: Addr::from(plan.address),
        port: plan.port.into(),
        protocol: protocol as u8,
        flags: if plan.local { backend_flags::LOCAL } else { 0 },
        weight: plan.weight,
        word: BackendWord::new(generation, BackendState::Serving),
    }
}
