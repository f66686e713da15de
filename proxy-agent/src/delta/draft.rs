//! From what is programmed for one Service to what is planned: everything that is needed is reserved first, so that a
//! Service that does not fit is refused before anything of it is written.

mod backend;
mod target;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use proxy_common::abi::{
    frontend::{FrontendKey, FrontendValue},
    meta::BackendMeta,
    target::{BackendState, BackendWord, backend_lists},
};

use super::{
    refusal::{Reason, Resource},
    resources::{Resources, Retired},
    service::{BackendKey, PortKey, Service},
};
use crate::{
    maps::{Op, codec},
    plan::{Protocol, ServiceName, ServicePlan, TargetKey},
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
    /// Backends that the Service has no more.
    pub gone: Vec<Gone>,
}

/// A backend that a Service has no more: connections to it that cannot end by themselves have to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gone {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// The Service port that had it, as [`Target::service`](proxy_common::abi::target::Target::service) names it.
    pub owner: u32,
    /// Index in `BACKENDS`.
    pub id: u32,
    /// Generation that it had.
    pub generation: u32,
}

/// A draft in the making: what it has taken is given back if it comes to nothing.
struct Drafting<'a> {
    resources: &'a mut Resources,
    name: &'a ServiceName,
    old: &'a Service,
    /// Ids of the Service ports that there were.
    old_owners: HashMap<u32, Protocol>,
    /// When this is. Nanoseconds of `CLOCK_MONOTONIC`.
    now: u64,
    /// The lists that each backend is to be in.
    lists: BTreeMap<BackendKey, u8>,
    next: Service,
    ops: Vec<Op>,
    retired: Retired,
    taken: Retired,
}

/// Drafts the way from `old` to `plan`, at a time in nanoseconds of `CLOCK_MONOTONIC`.
pub(super) fn draft(
    resources: &mut Resources,
    name: &ServiceName,
    old: &Service,
    plan: &ServicePlan,
    now: u64,
) -> Result<Draft, Reason> {
    let mut drafting = Drafting {
        resources,
        name,
        old,
        old_owners: old
            .ports
            .iter()
            .map(|(port, id)| (*id, port.protocol))
            .collect(),
        now,
        lists: BTreeMap::new(),
        next: Service::default(),
        ops: Vec::new(),
        retired: Retired::default(),
        taken: Retired::default(),
    };
    match drafting.all(plan) {
        Ok(()) => {
            drafting.retire_the_rest();
            let gone = drafting.gone();
            let Drafting {
                next, ops, retired, ..
            } = drafting;
            Ok(Draft {
                next,
                ops,
                retired,
                gone,
            })
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
        if !self.fits_backends(plan) {
            return Err(Reason::Full(Resource::Backends));
        }
        if !self.resources.fits(&self.old.without_slots(plan)) {
            return Err(Reason::Full(Resource::Slots));
        }
        let unlisted = plan.draining.keys().chain(plan.not_serving.keys());
        for key in plan.targets.keys().chain(unlisted) {
            self.port(key)?;
        }
        for (key, target) in &plan.targets {
            let owner = self.owner(key);
            for backend in &target.backends {
                *self
                    .lists
                    .entry(BackendKey::new(owner, backend))
                    .or_default() |= backend_lists::bit(key.list);
            }
        }
        for (key, target) in &plan.targets {
            for backend in &target.backends {
                self.backend(key, backend, true)?;
            }
        }
        for (plans, serving) in [(&plan.draining, true), (&plan.not_serving, false)] {
            for (key, backends) in plans {
                for backend in backends {
                    self.backend(key, backend, serving)?;
                }
            }
        }
        for (key, target) in &plan.targets {
            self.target(key, target)?;
        }
        self.frontends(plan)
    }

    /// Whether all backends of a plan may fit, by the length of its lists alone: a plan that is far too big costs next to
    /// nothing, however often it changes.
    fn fits_backends(&self, plan: &ServicePlan) -> bool {
        let mut longest: BTreeMap<PortKey, usize> = BTreeMap::new();
        for (key, target) in &plan.targets {
            let count = longest.entry(key.into()).or_default();
            *count = target.backends.len().max(*count);
        }
        let of_others = self.resources.backends.used() - self.old.backends.len();
        let wanted: usize = longest.values().sum();
        of_others + wanted <= self.resources.capacities.backends as usize
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

    /// Backends that the Service had and has no more under any identity. (Of those that do not serve, plans have TCP's only.)
    fn gone(&self) -> Vec<Gone> {
        let place = |key: &BackendKey| (key.owner, key.address, key.port);
        let kept: BTreeSet<_> = self.next.backends.keys().map(place).collect();
        let gone = self
            .old
            .backends
            .iter()
            .filter(|(key, _)| !kept.contains(&place(key)));
        gone.filter_map(|(key, backend)| {
            Some(Gone {
                address: key.address,
                port: key.port,
                protocol: *self.old_owners.get(&key.owner)?,
                owner: key.owner,
                id: backend.id,
                generation: backend.generation,
            })
        })
        .collect()
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

fn names_of(meta: &BackendMeta) -> impl Iterator<Item = u32> {
    [meta.node, meta.zone].into_iter().filter(|&id| id != 0)
}
