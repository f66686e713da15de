//! Services: from waiting plans to groups of operations, and to groups that are applied.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use proxy_common::abi::frontend::FrontendKey;

use super::{
    Outcome, Programmer, RECLAIM_AFTER,
    retry::{Backoff, Stuck},
};
use crate::{
    delta::{Group, Staged, merge, put_back},
    maps::{Maps, codec},
    plan::{ServiceName, ServicePlan},
};

/// When this many groups in a row fail, it is not their fault.
const MAX_FAILURES: usize = 8;

impl<M: Maps> Programmer<M> {
    /// Tries again what is stuck and due.
    pub(super) fn retry(&mut self, now: Instant, outcome: &mut Outcome) {
        let (due, later) = std::mem::take(&mut self.stuck)
            .into_iter()
            .partition(|stuck| stuck.backoff.is_due(now));
        self.stuck = later;
        self.attempt(due, now, outcome);
    }

    /// Applies what is left of groups, each for itself. When several in a row fail, the rest is left for later, and comes first
    /// then: those that failed do not keep it from being tried.
    fn attempt(&mut self, groups: Vec<Stuck>, now: Instant, outcome: &mut Outcome) {
        let mut failures_in_a_row = 0;
        let mut failed = Vec::new();
        for mut stuck in groups {
            if failures_in_a_row < MAX_FAILURES {
                match self.write(&stuck.group.ops, outcome) {
                    Ok(()) => {
                        failures_in_a_row = 0;
                        self.commit(stuck.group, now, outcome);
                        continue;
                    }
                    Err(applied) => {
                        failures_in_a_row += 1;
                        stuck.group.ops.drain(..applied);
                        stuck.backoff.failed(now);
                        failed.push(stuck);
                        continue;
                    }
                }
            }
            stuck.backoff.failed(now);
            self.stuck.push(stuck);
        }
        self.stuck.append(&mut failed);
    }

    fn commit(&mut self, group: Group, now: Instant, outcome: &mut Outcome) {
        let done = group
            .services
            .iter()
            .filter(|service| !self.waiting.contains_key(service));
        outcome.programmed.extend(done.cloned());
        outcome.gone.extend(&group.gone);
        self.delta.commit(group);
        if self.delta.reclaimable() > 0 && self.reclaim_at.is_none() {
            self.reclaim_at = Some(now + RECLAIM_AFTER);
        }
    }

    /// Stages and applies waiting plans; those refused before only if there may be room now. Says whether names could
    /// be written.
    pub(super) fn program(
        &mut self,
        refused_too: bool,
        now: Instant,
        outcome: &mut Outcome,
    ) -> bool {
        let mut ready = self.ready(refused_too);
        if self.put_off(&mut ready, now) && refused_too {
            // They are tried now, though it takes until their tables are there. Else they would be tried for ever.
            self.tried_at = self.delta.usage();
        }
        self.refused
            .retain(|service, _| !ready.contains_key(service));
        if ready.is_empty() {
            return true;
        }
        let Staged { groups, refused } = self.delta.stage(&ready, self.maps.now());
        if !refused.is_empty() {
            let usage = self.delta.usage();
            self.tried_at = if refused_too {
                usage
            } else {
                self.tried_at.max(&usage)
            };
        }
        for refused in refused {
            if let Some(plan) = ready.get(&refused.service) {
                self.waiting.insert(refused.service.clone(), plan.clone());
            }
            self.refused.insert(refused.service, refused.reason);
        }
        let named = self.names(outcome);
        let changed: BTreeSet<_> = groups
            .iter()
            .flat_map(|group| &group.services)
            .cloned()
            .collect();
        let as_they_are = ready
            .into_keys()
            .filter(|service| !changed.contains(service) && !self.waiting.contains_key(service));
        outcome.programmed.extend(as_they_are);
        self.apply(groups, now, outcome);
        named
    }

    /// Takes the waiting plans that nothing stands in the way of.
    fn ready(&mut self, refused_too: bool) -> BTreeMap<ServiceName, ServicePlan> {
        let busy: BTreeSet<&ServiceName> = self
            .stuck
            .iter()
            .flat_map(|stuck| &stuck.group.services)
            .collect();
        let held: BTreeSet<&FrontendKey> = self
            .stuck
            .iter()
            .flat_map(|stuck| stuck.group.frontends())
            .collect();
        let is_ready = |service: &ServiceName, plan: &ServicePlan| {
            (refused_too || !self.refused.contains_key(service))
                && !busy.contains(service)
                && (held.is_empty()
                    || !self
                        .delta
                        .frontends_of(service)
                        .any(|key| held.contains(key))
                        && !plan
                            .frontends
                            .iter()
                            .any(|frontend| held.contains(&codec::frontend_key(frontend))))
        };
        let (ready, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(service, plan)| is_ready(service, plan));
        self.waiting = waiting;
        ready
    }

    /// Applies groups, all in one sequence; if that fails, each group that is not finished for itself.
    fn apply(&mut self, mut groups: Vec<Group>, now: Instant, outcome: &mut Outcome) {
        let (ops, owners) = merge(&mut groups);
        let applied = self
            .write(&ops, outcome)
            .map_or_else(|applied| applied, |()| ops.len());
        put_back(&mut groups, ops, &owners, applied);
        let (done, left): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|group| group.ops.is_empty());
        for group in done {
            self.commit(group, now, outcome);
        }
        let backoff = Backoff::default();
        let left = left.into_iter().map(|group| Stuck { group, backoff });
        self.attempt(left.collect(), now, outcome);
    }
}
