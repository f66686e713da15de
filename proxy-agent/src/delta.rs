//! From plans to operations: what has to be written, in an order that is safe at every step (semantics B6).
//!
//! [`Delta`] knows what is written for each Service. [`Delta::stage`] takes new plans and hands out, for each Service,
//! the operations of the difference: backends, then slots in a range of their own, then targets (one 8-byte store
//! turns each to its new range), then frontends. Frontends that go are deleted just before targets change, and backends
//! that go are marked last. Whatever a packet has read of the old state stays as it was: ids, slots and the words of targets that are
//! no longer reached wait in quarantine until [`Delta::reclaim`]'s operations have waited for every reader.
//!
//! `Delta` is pure and believes that what it hands out will be applied, in order, if need be after some retries. Only
//! then, by [`Delta::commit`] and [`Delta::reclaimed`], does it free anything. [`crate::programmer`] keeps that rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    maps::Op,
    plan::{ServiceName, ServicePlan},
};
use proxy_common::abi::frontend::FrontendKey;

mod draft;
mod extents;
mod group;
mod ids;
mod maglev;
mod names;
mod reclaim;
pub mod refusal;
mod resources;
mod restore;
mod service;
mod slots;
pub mod tables;

use draft::Draft;
pub use draft::Gone;
pub use group::{Group, merge, put_back};
pub use reclaim::Reclaim;
use refusal::{Capacities, Refused, Usage};
use resources::{Resources, Retired};
use service::Service;
use tables::{List, Table};

/// What is written, and what is written next.
#[derive(Clone, Debug)]
pub struct Delta {
    services: BTreeMap<ServiceName, Service>,
    resources: Resources,
    /// Not reachable any more, but perhaps still held by a reader.
    quarantine: Retired,
}

/// The way from what is written to some new plans.
#[derive(Debug, Default)]
pub struct Staged {
    /// Independent parts, each to be applied as a whole.
    pub groups: Vec<Group>,
    /// Services that are left as they were.
    pub refused: Vec<Refused>,
}

impl Delta {
    /// Nothing is written yet.
    pub fn new(capacities: Capacities) -> Self {
        Self {
            services: BTreeMap::new(),
            resources: Resources::new(capacities),
            quarantine: Retired::default(),
        }
    }

    /// Works out what has to be written so that Services become as planned. Of several plans for one Service the last
    /// counts; a plan without frontends removes the Service.
    ///
    /// Services among which a frontend changes hands come in one group. All groups of one call may be applied
    /// [merged](merge). Backends that are new begin to serve `now`, by [`Maps::now`](crate::maps::Maps::now).
    pub fn stage<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a ServiceName, &'a ServicePlan)>,
        now: u64,
    ) -> Staged {
        let changes: BTreeMap<_, _> = changes.into_iter().collect();
        let mut refused = Vec::new();
        let mut drafts = Vec::new();
        for (name, plan) in changes {
            let old = self.services.remove(name).unwrap_or_default();
            match draft::draft(&mut self.resources, name, &old, plan, now) {
                Ok(draft) => drafts.push((name.clone(), old, draft)),
                Err(reason) => {
                    if !old.is_empty() {
                        self.services.insert(name.clone(), old);
                    }
                    refused.push(Refused {
                        service: name.clone(),
                        reason,
                    });
                }
            }
        }
        self.resources.promised_frontends = 0;
        self.resources.tables.clear();
        let linked = group::linked(
            drafts
                .iter()
                .map(|(_, old, draft)| draft.touches(old, &self.resources.frontends)),
        );
        let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
        for ((name, _, draft), link) in drafts.iter_mut().zip(&linked) {
            let group = groups.entry(*link).or_default();
            group.services.insert(name.clone());
            group.ops.append(&mut draft.ops);
            group.retired.append(std::mem::take(&mut draft.retired));
            group.gone.append(&mut draft.gone);
            self.claim(draft, &mut group.ops);
        }
        for ((name, old, draft), link) in drafts.into_iter().zip(&linked) {
            let group = groups.entry(*link).or_default();
            self.release(&old, &draft.next, &mut group.ops);
            if !draft.next.is_empty() {
                self.services.insert(name, draft.next);
            }
        }
        let groups = groups
            .into_values()
            .filter(|group| !group.is_empty())
            .map(Group::ordered)
            .collect();
        Staged { groups, refused }
    }

    /// The lists for which [`Delta::stage`] would have to make a Maglev table, each once; none, if there is no room for the
    /// tables in any case.
    pub fn missing_tables(&self, service: &ServiceName, plan: &ServicePlan) -> Vec<List> {
        let nothing = Service::default();
        let old = self.services.get(service).unwrap_or(&nothing);
        let mut lists = old.without_table(plan);
        if !lists.is_empty() && !self.resources.fits(&old.without_slots(plan)) {
            return Vec::new();
        }
        lists.retain(|list| !self.resources.tables.has(list) && list.entries().is_some());
        lists.into_iter().collect()
    }

    /// Hands in tables for the next call of [`Delta::stage`], which makes those that it needs and has not got.
    pub fn give_tables(&mut self, tables: impl IntoIterator<Item = Table>) {
        for table in tables {
            self.resources.tables.put(Arc::new(table));
        }
    }

    /// How many tables [`Delta::stage`] has made.
    pub const fn tables_made(&self) -> u64 {
        self.resources.tables.made
    }

    /// Writes of the frontends that a draft has and the table has not, or otherwise.
    fn claim(&mut self, draft: &Draft, ops: &mut Vec<Op>) {
        for (&key, &value) in &draft.next.frontends {
            if self.resources.frontends.insert(key, value) != Some(value) {
                ops.push(Op::PutFrontend { key, value });
            }
        }
    }

    /// Deletes of the frontends that a Service gives up and no other has claimed.
    fn release(&mut self, old: &Service, next: &Service, ops: &mut Vec<Op>) {
        let released: Vec<_> = draft::released(old, next, &self.resources.frontends).collect();
        for key in released {
            self.resources.frontends.remove(&key);
            ops.push(Op::DeleteFrontend { key });
        }
    }

    /// Writes of the names of nodes and zones that are not written yet. They hold nobody up, and are best applied
    /// before the groups that use them; then, [`Delta::names_written`] is to be called.
    pub fn name_writes(&self) -> Vec<Op> {
        self.resources.names.writes()
    }

    /// These of [`Delta::name_writes`] are applied.
    pub fn names_written(&mut self, ops: &[Op]) {
        for op in ops {
            if let Op::PutName { id, .. } = op {
                self.resources.names.written(*id);
            }
        }
    }

    /// All operations of a group are applied: what they put out of use may be reclaimed.
    pub fn commit(&mut self, group: Group) {
        self.quarantine.append(group.retired);
    }

    /// How much waits to be reclaimed.
    pub fn reclaimable(&self) -> usize {
        self.quarantine.len()
    }

    /// Hands out what is out of use: operations that wait for every reader, then clear it.
    pub fn reclaim(&mut self) -> Reclaim {
        let mut retired = std::mem::take(&mut self.quarantine);
        for &id in &retired.names {
            self.resources.names.release(id);
        }
        let names = std::mem::take(&mut retired.names);
        let buried = self.resources.names.bury(names);
        retired.buried.extend(buried);
        Reclaim::new(retired)
    }

    /// All operations of [`Delta::reclaim`] are applied: what was out of use is free.
    pub fn reclaimed(&mut self, reclaim: Reclaim) {
        self.resources.free(reclaim.retired);
    }

    /// How much is in use.
    pub fn usage(&self) -> Usage {
        let r = &self.resources;
        Usage {
            services: self.services.len(),
            frontends: r.frontends.len(),
            targets: r.targets.used(),
            slots: r.extents.used(),
            backends: r.backends.used(),
            source_ranges: r.ranges,
            names: r.names.used(),
        }
    }

    /// Names of all Services of which something is written.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// Services of which something is written and that are not wanted. Nothing may be removed before the first full
    /// list of Services is there: from then on, this says what to remove.
    pub fn unwanted(&self, wanted: &BTreeSet<ServiceName>) -> Vec<ServiceName> {
        self.services
            .keys()
            .filter(|name| !wanted.contains(name))
            .cloned()
            .collect()
    }

    /// Keys in `FRONTENDS` of a Service.
    pub fn frontends_of(&self, service: &ServiceName) -> impl Iterator<Item = &FrontendKey> {
        self.services
            .get(service)
            .into_iter()
            .flat_map(|service| service.frontends.keys())
    }
}

#[cfg(test)]
mod tests;
