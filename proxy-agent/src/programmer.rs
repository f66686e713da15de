//! Keeps maps equal to plans: stages, applies, tries again what failed, reclaims what is out of use.
//!
//! The rules that [`Delta`] counts on are kept here. A group of operations that failed midway is finished, from where
//! it failed, before anything else is done for its Services or with its frontends; all other Services go on. What was
//! refused for want of room is tried again when something was freed. Nothing is forgotten: the newest plan of every
//! Service that could not be staged yet is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proxy_common::{
    abi::{device::Device, meta::Name},
    addr::Addr,
};

use crate::{
    delta::{
        Delta, Gone, Reclaim,
        refusal::{Capacities, Reason, Refused, Usage},
    },
    maps::{ApplyError, Maps, NODE_NAME, Op, Snapshot, SnapshotError, codec},
    plan::{ServiceName, ServicePlan},
};

mod groups;
mod retry;
mod review;
mod statistics;
mod table;
mod tables;
mod unplaced;
mod upkeep;

use retry::{Backoff, Stuck};
pub use statistics::Statistics;
use table::Table;
use tables::Preparations;
pub use tables::{TableJob, Ticket};
pub use unplaced::Unplaced;

/// What is out of use is reclaimed this long after the first of it …
const RECLAIM_AFTER: Duration = Duration::from_millis(500);
/// … or when there is this much of it.
const RECLAIM_COUNT: usize = 16_384;

/// What came of a call.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Operations applied.
    pub applied: usize,
    /// Services that have become as planned.
    pub programmed: BTreeSet<ServiceName>,
    /// Services that do not fit, or whose plan makes no sense: those that were not refused for the same reason before.
    pub refused: Vec<Refused>,
    /// Backends that Services have no more. Another Service may still have the same endpoint.
    pub gone: Vec<Gone>,
    /// Entries that are not in a map because it is full, and that were not reported before.
    pub unplaced: Vec<Unplaced>,
    /// Operations that failed; what they are part of is tried again.
    pub failed: Vec<ApplyError>,
}

impl Outcome {
    /// Adds what came of a later call.
    fn append(&mut self, later: Self) {
        let Self {
            applied,
            programmed,
            refused,
            gone,
            unplaced,
            failed,
        } = later;
        self.applied += applied;
        self.programmed.extend(programmed);
        self.refused.extend(refused);
        self.gone.extend(gone);
        self.unplaced.extend(unplaced);
        self.failed.extend(failed);
    }
}

/// The maps could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The grace period before reading could not be waited for.
    #[error("the readers of the maps could not be waited for")]
    Settle(#[source] ApplyError),
    /// The maps could not be read.
    #[error("the maps could not be read back")]
    Read(#[source] SnapshotError),
}

/// Keeps maps equal to plans.
#[derive(Debug)]
pub struct Programmer<M> {
    maps: M,
    delta: Delta,
    /// Groups that failed midway.
    stuck: Vec<Stuck>,
    /// Newest plans that are not staged yet.
    waiting: BTreeMap<ServiceName, ServicePlan>,
    /// Plans that wait for tables. A newer plan for the same Service is in `waiting`.
    preparations: Preparations,
    /// Tables of one Service that are made here have no more entries than this.
    table_entries: usize,
    /// Why those of `waiting` that were refused were.
    refused: BTreeMap<ServiceName, Reason>,
    node_name: Table<u32, Name>,
    node_addrs: Table<Addr, u32>,
    devices: Table<u32, Device>,
    /// What was in use when the refused were tried last: less means that there may be room.
    tried_at: Usage,
    /// What could not be reclaimed yet.
    reclaiming: Option<Reclaim>,
    /// When what is out of use is reclaimed.
    reclaim_at: Option<Instant>,
    /// Failures of all but groups: names, addresses, devices, reclaiming.
    backoff: Backoff,
    statistics: Statistics,
    /// How many failures there were when the maps were read last.
    failures_reviewed: u64,
    capacities: Capacities,
}

impl<M: Maps> Programmer<M> {
    /// Takes over what stands in the maps. What nothing reaches is swept at the first [`Programmer::tick`]; nothing that
    /// serves is removed before [`Programmer::retain`].
    pub fn open(mut maps: M, capacities: Capacities) -> Result<Self, OpenError> {
        maps.apply(&[Op::AwaitReaders]).map_err(OpenError::Settle)?;
        let snapshot = maps.snapshot().map_err(OpenError::Read)?;
        let (delta, sweep) = Delta::restore(capacities, &snapshot);
        let stuck = Stuck {
            group: sweep,
            backoff: Backoff::default(),
        };
        Ok(Self {
            maps,
            delta,
            stuck: Some(stuck)
                .filter(|stuck| !stuck.group.is_empty())
                .into_iter()
                .collect(),
            waiting: BTreeMap::new(),
            preparations: Preparations::default(),
            table_entries: usize::MAX,
            refused: BTreeMap::new(),
            node_name: Table::new(
                snapshot
                    .names
                    .get(&NODE_NAME)
                    .map(|name| (NODE_NAME, *name))
                    .into_iter()
                    .collect(),
            ),
            node_addrs: Table::new(snapshot.node_addrs),
            devices: Table::new(snapshot.devices),
            tried_at: Usage::default(),
            reclaiming: None,
            reclaim_at: None,
            backoff: Backoff::default(),
            statistics: Statistics::default(),
            failures_reviewed: 0,
            capacities,
        })
    }

    /// Makes Services as planned; a plan without frontends removes the Service. Changes that belong together (a frontend
    /// changes hands) come in one call.
    pub fn sync(
        &mut self,
        changes: impl IntoIterator<Item = (ServiceName, ServicePlan)>,
        now: Instant,
    ) -> Outcome {
        for (service, plan) in changes {
            self.refused.remove(&service);
            self.waiting.insert(service, plan);
        }
        self.tick(now)
    }

    /// Removes all Services but these. To be called once the first full list is there, with [`Programmer::sync`] before.
    pub fn retain(&mut self, wanted: &BTreeSet<ServiceName>, now: Instant) -> Outcome {
        let waiting = self
            .waiting
            .keys()
            .chain(self.preparations.services())
            .filter(|service| !wanted.contains(service))
            .cloned();
        let unwanted: BTreeSet<_> = waiting.chain(self.delta.unwanted(wanted)).collect();
        self.sync(
            unwanted
                .into_iter()
                .map(|service| (service, ServicePlan::default())),
            now,
        )
    }

    /// Says how this node is called, for those who read the maps. A name that is too long is not written.
    pub fn set_node_name(&mut self, name: &str, now: Instant) -> Outcome {
        let name = codec::name(name).map(|name| (NODE_NAME, name));
        let is_news = self.node_name.set(name.into_iter().collect());
        self.tick_with_news(is_news, now)
    }

    /// Says which addresses this node has, with their `abi::device::node_addr` bits.
    pub fn set_node_addrs(&mut self, addrs: BTreeMap<Addr, u32>, now: Instant) -> Outcome {
        let is_news = self.node_addrs.set(addrs);
        self.tick_with_news(is_news, now)
    }

    /// Says which devices there are.
    pub fn set_devices(&mut self, devices: BTreeMap<u32, Device>, now: Instant) -> Outcome {
        let is_news = self.devices.set(devices);
        self.tick_with_news(is_news, now)
    }

    /// News are written at once, whatever failed before. What was said before changes nothing: it is said every few seconds.
    fn tick_with_news(&mut self, is_news: bool, now: Instant) -> Outcome {
        if is_news {
            self.backoff = Backoff::default();
        }
        self.tick(now)
    }

    /// Does what is due: retries, waiting plans, reclaiming.
    pub fn tick(&mut self, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let due = self.backoff.is_due(now);
        let mut before = self.refused.clone();
        before.extend(self.preparations.take_told());
        self.retry(now, &mut outcome);
        let mut healthy = !due || self.tables(&mut outcome);
        healthy &= self.program(false, now, &mut outcome);
        let is_new =
            |(service, reason): &(&ServiceName, &Reason)| before.get(*service) != Some(*reason);
        let mut new = self.refused.iter().filter(is_new);
        let crowded = new.any(|(_, reason)| matches!(reason, Reason::Full(_)));
        // Room is made at once for those who need it.
        if due && self.is_reclaimable() && (crowded || self.reclaim_is_due(now)) {
            healthy &= self.reclaim(&mut outcome);
        }
        if self.has_room() {
            healthy &= self.program(true, now, &mut outcome);
        }
        let new = self.refused.iter().filter(is_new);
        outcome.refused = new
            .map(|(service, reason)| Refused {
                service: service.clone(),
                reason: reason.clone(),
            })
            .collect();
        match (due, healthy) {
            (_, false) => self.backoff.failed(now),
            (true, true) => self.backoff.succeeded(),
            (false, true) => {}
        }
        outcome
    }

    /// When [`Programmer::tick`] has something to do, if nothing else is asked for before.
    pub fn deadline(&self) -> Option<Instant> {
        let stuck = self.stuck.iter().filter_map(|stuck| stuck.backoff.next());
        let failed = self.backoff.next();
        let reclaim = self
            .reclaim_at
            .map(|at| failed.map_or(at, |failed| failed.max(at)));
        stuck.chain(failed).chain(reclaim).min()
    }

    /// Whether everything is as planned and nothing waits, be it for room, for a retry or to be reclaimed.
    pub fn is_settled(&self) -> bool {
        self.stuck.is_empty()
            && self.waiting.is_empty()
            && self.preparations.is_empty()
            && !self.is_reclaimable()
            && self.delta.name_writes().is_empty()
            && self.node_name.is_settled()
            && self.node_addrs.is_settled()
            && self.devices.is_settled()
    }

    /// Whether something that could be in the maps is not: a write failed, or something waits for one that did. What was
    /// refused does not count, and neither does what is out of use, nor what waits for
    /// [tables](Self::waits_for_tables_since).
    pub fn is_behind(&self) -> bool {
        let refused = |service| self.refused.contains_key(service);
        self.backoff.next().is_some()
            || !self.stuck.is_empty()
            || self.preparations.is_empty() && self.waiting.keys().any(|service| !refused(service))
    }

    /// Services that are not as planned for want of room, or because their plan makes no sense.
    pub fn refused(&self) -> &BTreeMap<ServiceName, Reason> {
        &self.refused
    }

    /// Services that are not as planned, for whatever reason.
    pub fn pending(&self) -> impl Iterator<Item = &ServiceName> {
        self.waiting
            .keys()
            .chain(self.preparations.services())
            .chain(self.stuck.iter().flat_map(|stuck| &stuck.group.services))
    }

    /// How much of the maps is in use.
    pub fn usage(&self) -> Usage {
        self.delta.usage()
    }

    /// What was written so far.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Reads the maps back.
    pub fn snapshot(&self) -> Result<Snapshot, SnapshotError> {
        self.maps.snapshot()
    }

    /// The maps.
    pub fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
    }

    /// Lets go of the maps, as they are.
    pub fn into_maps(self) -> M {
        self.maps
    }

    fn write(&mut self, ops: &[Op], outcome: &mut Outcome) -> Result<(), usize> {
        write(&mut self.maps, &mut self.statistics, ops, outcome).map_err(|error| {
            let index = error.index;
            self.statistics.failures += 1;
            outcome.failed.push(error);
            index
        })
    }
}

/// Applies operations. Whether an error is a failure, the caller knows and counts.
fn write<M: Maps>(
    maps: &mut M,
    statistics: &mut Statistics,
    ops: &[Op],
    outcome: &mut Outcome,
) -> Result<(), ApplyError> {
    if ops.is_empty() {
        return Ok(());
    }
    let start = Instant::now();
    let result = maps.apply(ops);
    let applied = result
        .as_ref()
        .map_or_else(|error| error.index, |()| ops.len());
    statistics.note(&ops[..applied], start.elapsed());
    outcome.applied += applied;
    result
}

/// Applies operations that do not depend on each other. One that fails keeps no other from being applied; all that fail are
/// returned, and not counted as failures yet.
fn write_each<M: Maps>(
    maps: &mut M,
    statistics: &mut Statistics,
    ops: &[Op],
    outcome: &mut Outcome,
) -> Vec<ApplyError> {
    let mut errors = Vec::new();
    let mut next = 0;
    while next < ops.len() {
        match write(maps, statistics, &ops[next..], outcome) {
            Ok(()) => break,
            Err(error) => {
                let index = next + error.index;
                errors.push(ApplyError { index, ..error });
                next = index + 1;
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests;
