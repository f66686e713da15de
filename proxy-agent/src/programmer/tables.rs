//! Plans that wait for Maglev tables which take too long to be made here. The caller makes them elsewhere, while all
//! other Services go on.
//!
//! A Service has one such plan at a time. When its tables come, it is programmed even if there is a newer plan by
//! then: so a Service that changes all the time still gets on. The newer plan is next.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Weak},
    time::Instant,
};

use proxy_common::abi::frontend::FrontendKey;

use super::{Outcome, Programmer};
use crate::{
    delta::{
        refusal::Reason,
        tables::{List, Table},
    },
    maps::{Maps, codec},
    plan::{ServiceName, ServicePlan},
};

/// Tables for one plan, to be made elsewhere and handed to [`Programmer::tables_made`].
#[derive(Debug)]
pub struct TableJob {
    /// What the tables are for.
    pub ticket: Ticket,
    /// The lists.
    pub lists: Vec<List>,
}

/// Which plan tables are for.
#[derive(Clone, Debug)]
pub struct Ticket {
    service: ServiceName,
    /// Gone, once nobody waits any more.
    waits: Weak<()>,
}

impl Ticket {
    /// Whether somebody still waits for the tables.
    pub fn is_valid(&self) -> bool {
        self.waits.strong_count() > 0
    }
}

/// A plan that waits for its tables.
#[derive(Debug)]
struct Preparing {
    plan: ServicePlan,
    since: Instant,
    waits: Arc<()>,
    /// Why it was refused before, if it is tried again.
    refused: Option<Reason>,
}

/// The plans that wait for tables.
#[derive(Debug, Default)]
pub(super) struct Preparations {
    plans: BTreeMap<ServiceName, Preparing>,
    jobs: Vec<TableJob>,
    /// Why Services whose tables are there now were refused before: that was told.
    told: BTreeMap<ServiceName, Reason>,
}

impl Preparations {
    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.plans.keys()
    }

    /// What was told of Services that are tried again now.
    pub fn take_told(&mut self) -> BTreeMap<ServiceName, Reason> {
        std::mem::take(&mut self.told)
    }

    fn begin(&mut self, service: ServiceName, lists: Vec<List>, preparing: Preparing) {
        let ticket = Ticket {
            service: service.clone(),
            waits: Arc::downgrade(&preparing.waits),
        };
        self.jobs.push(TableJob { ticket, lists });
        self.plans.insert(service, preparing);
    }
}

impl<M: Maps> Programmer<M> {
    /// From now on, tables are not made here where those of one Service have more than `entries` in all: see
    /// [`Programmer::take_table_jobs`].
    pub fn make_tables_elsewhere(&mut self, entries: usize) {
        self.table_entries = entries;
    }

    /// The tables that are to be made elsewhere, each once.
    pub fn take_table_jobs(&mut self) -> Vec<TableJob> {
        std::mem::take(&mut self.preparations.jobs)
    }

    /// Takes the tables of a job, and programs the plan that waited for them.
    pub fn tables_made(
        &mut self,
        ticket: &Ticket,
        tables: impl IntoIterator<Item = Table>,
        now: Instant,
    ) -> Outcome {
        let plans = &mut self.preparations.plans;
        let waits =
            |preparing: &Preparing| Weak::ptr_eq(&ticket.waits, &Arc::downgrade(&preparing.waits));
        if !plans.get(&ticket.service).is_some_and(waits) {
            return Outcome::default();
        }
        let Some(Preparing {
            mut plan, refused, ..
        }) = plans.remove(&ticket.service)
        else {
            return Outcome::default();
        };
        let told = refused.map(|reason| (ticket.service.clone(), reason));
        self.preparations.told.extend(told);
        self.delta.give_tables(tables);
        let newer = self.waiting.remove(&ticket.service);
        if let Some(newer) = &newer {
            keep_frontends_of(newer, &mut plan);
        }
        let mut outcome = self.sync([(ticket.service.clone(), plan)], now);
        if let Some(newer) = newer {
            outcome.append(self.sync([(ticket.service.clone(), newer)], now));
        }
        outcome
    }

    /// Since when the Service that has waited longest waits for tables. One that changes all the time, and is
    /// programmed every time, has not waited longer than for its last plan.
    pub fn waits_for_tables_since(&self) -> Option<Instant> {
        let plans = self.preparations.plans.values();
        plans.map(|preparing| preparing.since).min()
    }

    /// Of plans that are ready to be staged, puts off those whose tables are to be made elsewhere, and those that give up
    /// a frontend which one of them takes: the frontend is never missing. Says whether some of them were refused before;
    /// they are not any more, so that they are tried as soon as the tables are there.
    pub(super) fn put_off(
        &mut self,
        ready: &mut BTreeMap<ServiceName, ServicePlan>,
        now: Instant,
    ) -> bool {
        if self.table_entries == usize::MAX {
            return false;
        }
        let mut were_refused = false;
        let mut put_off = BTreeMap::new();
        for (service, plan) in std::mem::take(ready) {
            let lists = self.delta.missing_tables(&service, &plan);
            let entries: usize = lists.iter().filter_map(List::entries).sum();
            if entries <= self.table_entries {
                self.preparations.plans.remove(&service);
                ready.insert(service, plan);
            } else if self.preparations.plans.contains_key(&service) {
                put_off.insert(service, plan);
            } else {
                let refused = self.refused.remove(&service);
                were_refused |= refused.is_some();
                let preparing = Preparing {
                    plan,
                    since: now,
                    waits: Arc::new(()),
                    refused,
                };
                self.preparations.begin(service, lists, preparing);
            }
        }
        let preparing = self.preparations.plans.iter().map(|(s, p)| (s, &p.plan));
        let mut taken: HashSet<FrontendKey> = preparing
            .chain(&put_off)
            .flat_map(|(service, plan)| self.takes(service, plan))
            .collect();
        while !taken.is_empty() {
            let gives: Vec<ServiceName> = ready
                .iter()
                .filter(|(service, plan)| self.gives_one_of(service, plan, &taken))
                .map(|(service, _)| service.clone())
                .collect();
            taken.clear();
            for service in gives {
                if let Some(plan) = ready.remove(&service) {
                    taken.extend(self.takes(&service, &plan));
                    if let Some(reason) = self.refused.remove(&service) {
                        were_refused = true;
                        self.preparations.told.insert(service.clone(), reason);
                    }
                    put_off.insert(service, plan);
                }
            }
        }
        self.waiting.extend(put_off);
        were_refused
    }

    /// Keys of frontends that a Service is to have and has not.
    fn takes(&self, service: &ServiceName, plan: &ServicePlan) -> HashSet<FrontendKey> {
        let mut keys: HashSet<_> = plan.frontends.iter().map(codec::frontend_key).collect();
        for key in self.delta.frontends_of(service) {
            keys.remove(key);
        }
        keys
    }

    /// Whether a Service has one of some frontends and is to have it no more.
    fn gives_one_of(
        &self,
        service: &ServiceName,
        plan: &ServicePlan,
        keys: &HashSet<FrontendKey>,
    ) -> bool {
        let mut held = self
            .delta
            .frontends_of(service)
            .filter(|key| keys.contains(key));
        let keeps = |key: &FrontendKey| {
            let mut kept = plan.frontends.iter().map(codec::frontend_key);
            kept.any(|kept| kept == *key)
        };
        held.any(|key| !keeps(key))
    }
}

/// Leaves a plan those frontends alone that a newer one has too: others may be another Service's by now.
fn keep_frontends_of(newer: &ServicePlan, plan: &mut ServicePlan) {
    let kept: HashSet<_> = newer.frontends.iter().collect();
    plan.frontends.retain(|frontend| kept.contains(frontend));
    let named: HashSet<_> = plan.frontends.iter().map(|f| &f.target).collect();
    plan.targets.retain(|key, _| named.contains(key));
}
