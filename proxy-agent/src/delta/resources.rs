//! What all Services draw from: ids, slots, names, and the one table of frontends.

use std::collections::HashMap;

use proxy_common::abi::{
    frontend::{FrontendKey, FrontendValue},
    target::RangeKey,
};

use super::{
    extents::{Extent, Extents},
    ids::Ids,
    names::Names,
    refusal::{Capacities, Reason, Resource},
    tables::{List, Tables},
};

/// Things that were in use and that a reader may still hold: free only after the grace period.
#[derive(Clone, Debug, Default)]
pub(super) struct Retired {
    /// Target ids.
    pub targets: Vec<u32>,
    /// Backend ids and their last generations.
    pub backends: Vec<(u32, u32)>,
    /// Slots.
    pub extents: Vec<Extent>,
    /// Ids of Service ports.
    pub ports: Vec<u32>,
    /// Ids of sets of source ranges.
    pub sets: Vec<u32>,
    /// Elements of `SOURCE_RANGES`.
    pub ranges: Vec<RangeKey>,
    /// Uses of names.
    pub names: Vec<u32>,
    /// Ids of names that stand in the map without a use.
    pub buried: Vec<u32>,
}

impl Retired {
    /// Adds what another holds.
    pub fn append(&mut self, mut other: Self) {
        self.targets.append(&mut other.targets);
        self.backends.append(&mut other.backends);
        self.extents.append(&mut other.extents);
        self.ports.append(&mut other.ports);
        self.sets.append(&mut other.sets);
        self.ranges.append(&mut other.ranges);
        self.names.append(&mut other.names);
        self.buried.append(&mut other.buried);
    }

    /// How many things there are.
    pub fn len(&self) -> usize {
        self.targets.len()
            + self.backends.len()
            + self.extents.len()
            + self.ports.len()
            + self.sets.len()
            + self.ranges.len()
            + self.names.len()
            + self.buried.len()
    }
}

/// What all Services draw from.
#[derive(Clone, Debug)]
pub(super) struct Resources {
    pub capacities: Capacities,
    pub targets: Ids,
    pub backends: Ids,
    /// Last generation of each backend id.
    pub generations: Vec<u32>,
    pub ports: Ids,
    pub sets: Ids,
    /// Elements of `SOURCE_RANGES` in use.
    pub ranges: usize,
    pub extents: Extents,
    pub names: Names,
    /// `FRONTENDS`, as it is when all operations handed out are applied.
    pub frontends: HashMap<FrontendKey, FrontendValue>,
    /// New frontends that drafts have been promised.
    pub promised_frontends: usize,
    /// Maglev tables for the drafts of this pass.
    pub tables: Tables,
}

/// Limit for ids that stand in no array: of Service ports and sets of ranges. More than one for each target is never
/// in use for long.
pub(super) const fn loose_limit(capacities: &Capacities) -> u32 {
    capacities.targets.saturating_mul(4)
}

impl Resources {
    pub fn new(capacities: Capacities) -> Self {
        Self {
            targets: Ids::new(capacities.targets),
            backends: Ids::new(capacities.backends),
            generations: Vec::new(),
            ports: Ids::new(loose_limit(&capacities)),
            sets: Ids::new(loose_limit(&capacities)),
            ranges: 0,
            extents: Extents::new(capacities.slots),
            names: Names::new(capacities.names),
            frontends: HashMap::new(),
            promised_frontends: 0,
            tables: Tables::default(),
            capacities,
        }
    }

    /// A target id.
    pub fn take_target(&mut self) -> Result<u32, Reason> {
        self.targets.take().ok_or(Reason::Full(Resource::Targets))
    }

    /// An id of a Service port.
    pub fn take_port(&mut self) -> Result<u32, Reason> {
        self.ports.take().ok_or(Reason::Full(Resource::Targets))
    }

    /// An id of a set, and room for its ranges.
    pub fn take_set(&mut self, ranges: usize) -> Result<u32, Reason> {
        if self.ranges + ranges > self.capacities.source_ranges as usize {
            return Err(Reason::Full(Resource::SourceRanges));
        }
        let id = self
            .sets
            .take()
            .ok_or(Reason::Full(Resource::SourceRanges))?;
        self.ranges += ranges;
        Ok(id)
    }

    /// A backend id and the generation for its next use, which is never 0.
    pub fn take_backend(&mut self) -> Result<(u32, u32), Reason> {
        let id = self
            .backends
            .take()
            .ok_or(Reason::Full(Resource::Backends))?;
        if self.generations.len() <= id as usize {
            self.generations.resize(id as usize + 1, 0);
        }
        let generation = &mut self.generations[id as usize];
        *generation = generation.wrapping_add(1).max(1);
        Ok((id, *generation))
    }

    /// Slots in a row.
    pub fn take_slots(&mut self, len: u32) -> Result<Extent, Reason> {
        self.extents.take(len).ok_or(Reason::Full(Resource::Slots))
    }

    /// Whether there are as many slots as the tables of these lists have entries. This is known before any is made.
    pub fn fits<'a>(&self, lists: impl IntoIterator<Item = &'a List>) -> bool {
        let entries = lists.into_iter().filter_map(List::entries);
        entries.sum::<usize>() + self.extents.used() <= self.capacities.slots as usize
    }

    /// Promises room for new frontends.
    pub fn promise_frontends(&mut self, count: usize) -> Result<(), Reason> {
        let promised = self.promised_frontends + count;
        if self.frontends.len() + promised > self.capacities.frontends as usize {
            return Err(Reason::Full(Resource::Frontends));
        }
        self.promised_frontends = promised;
        Ok(())
    }

    /// Frees what nobody can hold any more. Uses of names are not ids: they are [released](Names::release).
    pub fn free(&mut self, retired: Retired) {
        retired
            .targets
            .into_iter()
            .for_each(|id| self.targets.give(id));
        retired
            .backends
            .into_iter()
            .for_each(|(id, _)| self.backends.give(id));
        retired
            .extents
            .into_iter()
            .for_each(|extent| self.extents.give(extent));
        retired.ports.into_iter().for_each(|id| self.ports.give(id));
        retired.sets.into_iter().for_each(|id| self.sets.give(id));
        self.ranges -= retired.ranges.len();
        self.names.give(retired.buried);
    }
}
