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
    abi::{device::Device, frontend::FrontendKey, meta::Name},
    addr::Addr,
};

use crate::{
    delta::{
        Delta, Group, Reclaim, Staged, merge, put_back,
        refusal::{Capacities, Reason, Refused, Usage},
    },
    maps::{ApplyError, Maps, NODE_NAME, Op, Snapshot, SnapshotError, codec},
    plan::{ServiceName, ServicePlan},
};

mod retry;
mod statistics;
mod table;

use retry::{Backoff, Stuck};
pub use statistics::Statistics;
use table::Table;

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
    /// Operations that failed; what they are part of is tried again.
    pub failed: Vec<ApplyError>,
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
        self.node_name.set(name.into_iter().collect());
        self.backoff = Backoff::default();
        self.tick(now)
    }

    /// Says which addresses this node has, with their `abi::device::node_addr` bits.
    pub fn set_node_addrs(&mut self, addrs: BTreeMap<Addr, u32>, now: Instant) -> Outcome {
        self.node_addrs.set(addrs);
        self.backoff = Backoff::default();
        self.tick(now)
    }

    /// Says which devices there are.
    pub fn set_devices(&mut self, devices: BTreeMap<u32, Device>, now: Instant) -> Outcome {
        self.devices.set(devices);
        self.backoff = Backoff::default();
        self.tick(now)
    }

    /// Does what is due: retries, waiting plans, reclaiming.
    pub fn tick(&mut self, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let due = self.backoff.is_due(now);
        let before = self.refused.clone();
        self.retry(now, &mut outcome);
        let mut healthy = !due || self.tables(&mut outcome);
        healthy &= self.program(false, now, &mut outcome);
        let new: Vec<_> = self
            .refused
            .iter()
            .filter(|(service, reason)| before.get(*service) != Some(*reason))
            .collect();
        let crowded = new
            .iter()
            .any(|(_, reason)| matches!(reason, Reason::Full(_)));
        outcome.refused = new
            .into_iter()
            .map(|(service, reason)| Refused {
                service: service.clone(),
                reason: reason.clone(),
            })
            .collect();
        // Room is made at once for those who need it.
        if due && self.is_reclaimable() && (crowded || self.reclaim_is_due(now)) {
            healthy &= self.reclaim(&mut outcome);
        }
        if self.has_room() {
            healthy &= self.program(true, now, &mut outcome);
            outcome
                .refused
                .retain(|refused| self.refused.get(&refused.service) == Some(&refused.reason));
        }
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
            && !self.is_reclaimable()
            && self.delta.name_writes().is_empty()
            && self.node_name.is_settled()
            && self.node_addrs.is_settled()
            && self.devices.is_settled()
    }

    /// Services that are not as planned for want of room, or because their plan makes no sense.
    pub fn refused(&self) -> &BTreeMap<ServiceName, Reason> {
        &self.refused
    }

    /// Services that are not as planned, for whatever reason.
    pub fn pending(&self) -> impl Iterator<Item = &ServiceName> {
        self.waiting
            .keys()
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
            outcome.failed.push(error);
            index
        })
    }

    /// Tries again what is stuck and due.
    fn retry(&mut self, now: Instant, outcome: &mut Outcome) {
        for stuck in std::mem::take(&mut self.stuck) {
            if stuck.backoff.is_due(now) {
                self.attempt(stuck, now, outcome);
            } else {
                self.stuck.push(stuck);
            }
        }
    }

    /// Applies what is left of a group.
    fn attempt(&mut self, mut stuck: Stuck, now: Instant, outcome: &mut Outcome) {
        match self.write(&stuck.group.ops, outcome) {
            Ok(()) => self.commit(stuck.group, now, outcome),
            Err(applied) => {
                stuck.group.ops.drain(..applied);
                stuck.backoff.failed(now);
                self.stuck.push(stuck);
            }
        }
    }

    fn commit(&mut self, group: Group, now: Instant, outcome: &mut Outcome) {
        let done = group
            .services
            .iter()
            .filter(|service| !self.waiting.contains_key(service));
        outcome.programmed.extend(done.cloned());
        self.delta.commit(group);
        if self.delta.reclaimable() > 0 && self.reclaim_at.is_none() {
            self.reclaim_at = Some(now + RECLAIM_AFTER);
        }
    }

    /// Stages and applies waiting plans; those refused before only if there may be room now. Says whether names could
    /// be written.
    fn program(&mut self, refused_too: bool, now: Instant, outcome: &mut Outcome) -> bool {
        let ready = self.ready(refused_too);
        if ready.is_empty() {
            return true;
        }
        let Staged { groups, refused } = self.delta.stage(&ready);
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
        let ready: BTreeMap<ServiceName, ServicePlan> = ready;
        self.refused
            .retain(|service, _| !ready.contains_key(service));
        ready
    }

    /// Applies groups, all in one sequence; if that fails, each group that is not finished for itself.
    fn apply(&mut self, mut groups: Vec<Group>, now: Instant, outcome: &mut Outcome) {
        let (ops, owners) = merge(&mut groups);
        let applied = self
            .write(&ops, outcome)
            .map_or_else(|applied| applied, |()| ops.len());
        put_back(&mut groups, ops, &owners, applied);
        for group in groups {
            if group.ops.is_empty() {
                self.commit(group, now, outcome);
            } else {
                let backoff = Backoff::default();
                self.attempt(Stuck { group, backoff }, now, outcome);
            }
        }
    }

    /// Writes names that are not written; says whether that worked.
    fn names(&mut self, outcome: &mut Outcome) -> bool {
        let names = self.delta.name_writes();
        let result = self.write(&names, outcome);
        let applied = result.err().unwrap_or(names.len());
        self.delta.names_written(&names[..applied]);
        result.is_ok()
    }

    /// Writes node addresses, devices and names that are not as they should be; says whether that worked.
    fn tables(&mut self, outcome: &mut Outcome) -> bool {
        let named = self.names(outcome);
        let (maps, statistics) = (&mut self.maps, &mut self.statistics);
        let name = self.node_name.flush(
            |id, name| {
                name.map_or(Op::DeleteName { id }, |name| Op::PutName {
                    id,
                    name: Box::new(name),
                })
            },
            |ops| write(maps, statistics, ops, outcome),
        );
        let addrs = self.node_addrs.flush(
            |addr, flags| {
                flags.map_or(Op::DeleteNodeAddr { addr }, |flags| Op::PutNodeAddr {
                    addr,
                    flags,
                })
            },
            |ops| write(maps, statistics, ops, outcome),
        );
        let devices = self.devices.flush(
            |ifindex, device| {
                device.map_or(Op::DeleteDevice { ifindex }, |device| Op::PutDevice {
                    ifindex,
                    device,
                })
            },
            |ops| write(maps, statistics, ops, outcome),
        );
        let worked = named && name.is_ok() && addrs.is_ok() && devices.is_ok();
        outcome
            .failed
            .extend([name, addrs, devices].into_iter().filter_map(Result::err));
        worked
    }

    fn is_reclaimable(&self) -> bool {
        self.reclaiming.is_some() || self.delta.reclaimable() > 0
    }

    fn reclaim_is_due(&self, now: Instant) -> bool {
        self.reclaim_at.is_some_and(|at| at <= now) || self.delta.reclaimable() >= RECLAIM_COUNT
    }

    /// Reclaims what is out of use; says whether that worked.
    fn reclaim(&mut self, outcome: &mut Outcome) -> bool {
        let mut reclaim = self
            .reclaiming
            .take()
            .unwrap_or_else(|| self.delta.reclaim());
        if let Err(applied) = self.write(&reclaim.ops, outcome) {
            reclaim.ops.drain(..applied);
            self.reclaiming = Some(reclaim);
            return false;
        }
        self.delta.reclaimed(reclaim);
        if self.delta.reclaimable() == 0 {
            self.reclaim_at = None;
        }
        true
    }

    /// Whether Services were refused for want of room, and something was freed since.
    fn has_room(&self) -> bool {
        let crowded = self
            .refused
            .values()
            .any(|reason| matches!(reason, Reason::Full(_)));
        crowded && self.delta.usage().is_less_in_part(&self.tried_at)
    }
}

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
    statistics.note(&ops[..applied], result.is_err(), start.elapsed());
    outcome.applied += applied;
    result
}
