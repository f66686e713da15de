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
    /// worth a [review](Self::review).
    pub fn has_recovered(&self) -> bool {
        self.statistics.failures > self.failures_reviewed && self.is_settled()
    }

    /// Reads the maps back and writes what is not as planned, given the plans of all Services. Services without a plan are
    /// removed, except those in `kept`. Does nothing while writes wait to be tried again.
    pub fn review<'a>(
        &mut self,
        mut plans: BTreeMap<ServiceName, ServicePlan>,
        kept: impl IntoIterator<Item = &'a ServiceName>,
        now: Instant,
    ) -> Result<Outcome, OpenError> {
        if !self.stuck.is_empty() || self.is_reclaimable() {
            return Ok(Outcome::default());
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
        Ok(self.tick(now))
    }
}
