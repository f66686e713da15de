//! Comparing what stands in the maps with what was planned.
//!
//! The programmer writes differences, by what it believes of the maps. Its belief is wrong if another process writes them, or if
//! a write was lost. A review does what a restart does: it reads the maps back, takes what stands there for its belief, and stages
//! all plans anew. Nothing is written where the maps are as planned.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{OpenError, Outcome, Programmer, Stuck, retry::Backoff};
use crate::{
    delta::Delta,
    maps::{Maps, NODE_NAME, Op},
    plan::{ServiceName, ServicePlan},
};

impl<M: Maps> Programmer<M> {
    /// Whether writes have failed since the maps were read, and nothing is left to be tried again: what became of these is
    /// worth a [review](Self::review). Services that were refused may wait for ever, and do not count.
    pub fn has_recovered(&self) -> bool {
        self.statistics.failures > self.failures_reviewed && !self.is_behind()
    }

    /// Does at once what is to be done before a [review](Self::review): reclaims what is out of use. On a busy node there is
    /// nearly always something.
    pub fn prepare_review(&mut self, now: Instant) -> Outcome {
        if self.is_reclaimable() {
            self.reclaim_at = Some(now);
        }
        self.tick(now)
    }

    /// Whether a [review](Self::review) would look at the maps. Not while groups that failed midway are unfinished, or
    /// something is out of use: the maps read back do not tell these from mistakes.
    pub fn can_review(&self) -> bool {
        self.stuck.is_empty() && !self.is_reclaimable()
    }

    /// Reads the maps back and writes what is not as planned, given the plans of all Services. Services without a plan are
    /// removed, except those in `kept`. `None`: it [could not](Self::can_review) look at the maps now.
    pub fn review<'a>(
        &mut self,
        mut plans: BTreeMap<ServiceName, ServicePlan>,
        kept: impl IntoIterator<Item = &'a ServiceName>,
        now: Instant,
    ) -> Result<Option<Outcome>, OpenError> {
        if !self.can_review() {
            return Ok(None);
        }
        self.maps
            .apply(&[Op::AwaitReaders])
            .map_err(OpenError::Settle)?;
        let snapshot = self.maps.snapshot().map_err(OpenError::Read)?;
        self.failures_reviewed = self.statistics.failures;
        let (delta, sweep) = Delta::restore(self.capacities, &snapshot);
        let kept = kept.into_iter().cloned();
        let wanted: BTreeSet<_> = plans.keys().cloned().chain(kept).collect();
        for unwanted in delta.unwanted(&wanted) {
            plans.insert(unwanted, ServicePlan::default());
        }
        self.delta = delta;
        let backoff = Backoff::default();
        let swept = (!sweep.is_empty()).then_some(sweep);
        self.stuck
            .extend(swept.map(|group| Stuck { group, backoff }));
        // Those that were refused wait already, and stay so until there is room.
        self.waiting.extend(plans);
        let name = snapshot.names.get(&NODE_NAME);
        self.node_name
            .found(name.map(|name| (NODE_NAME, *name)).into_iter().collect());
        self.node_addrs.found(snapshot.node_addrs);
        self.devices.found(snapshot.devices);
        Ok(Some(self.tick(now)))
    }
}
