//! Targets: their lists, what goes with them, and the flip.

use std::sync::Arc;

use proxy_common::abi::target::{
    self as abi, Algorithm, Slot, TargetState, TargetWord, backend_lists, target_flags,
};

use super::Drafting;
use crate::{
    delta::{
        extents::Extent,
        refusal::Reason,
        service::{BackendKey, Target},
        slots,
        tables::{List, Table, distinct},
    },
    maps::{Op, codec},
    plan::{BackendPlan, Empty, TargetKey, TargetPlan},
};

impl Drafting<'_> {
    pub(super) fn target(&mut self, key: &TargetKey, plan: &TargetPlan) -> Result<(), Reason> {
        let old = self.old.targets.get(key);
        let ranges = self.range_set(plan)?;
        let affinity_seconds = plan.affinity_seconds.unwrap_or(0);
        let slow_start = plan.slow_start_seconds.unwrap_or(0);
        let flags = flags(key, plan);
        let (ids, table) = self.slots(key, plan)?;
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
            plan.algorithm,
        );
        let next = match old {
            None => {
                let value = abi::Target {
                    word,
                    service: self.owner(key),
                    affinity_seconds,
                    ranges,
                    flags,
                    pad: 0,
                    slow_start,
                };
                self.new_target(key, value)?
            }
            Some(old) => {
                let id = old.id;
                if old.affinity_seconds != affinity_seconds {
                    self.ops.push(Op::SetAffinity {
                        id,
                        seconds: affinity_seconds,
                    });
                }
                if old.slow_start != slow_start {
                    self.ops.push(Op::SetSlowStart {
                        id,
                        seconds: slow_start,
                    });
                }
                if old.flags != flags {
                    self.ops.push(Op::SetTargetFlags { id, flags });
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
            table,
            extent,
            affinity_seconds,
            slow_start,
            ranges,
            flags,
        };
        self.next.targets.insert(key.clone(), target);
        Ok(())
    }

    /// Backend ids of a target, slot by slot, and its Maglev table if it has one.
    fn slots(
        &mut self,
        key: &TargetKey,
        plan: &TargetPlan,
    ) -> Result<(Vec<u32>, Option<Arc<Table>>), Reason> {
        let owner = self.owner(key);
        let listed = distinct(&plan.backends);
        // All of them were drafted before.
        let id = |backend: &&BackendPlan| {
            let written = self.next.backends.get(&BackendKey::new(owner, backend));
            written.map_or(0, |written| written.id)
        };
        let ids: Vec<u32> = listed.iter().map(id).collect();
        let too_long = || Reason::ListTooLong {
            port_name: key.port_name.clone(),
            count: listed.len(),
        };
        let by_id = |layout: &[u16]| layout.iter().map(|&i| ids[usize::from(i)]).collect();
        if plan.algorithm == Algorithm::Maglev {
            let table = self.table(key, &listed).ok_or_else(too_long)?;
            return Ok((by_id(&table.entries), Some(table)));
        }
        let weights: Vec<u32> = listed.iter().map(|backend| backend.weight).collect();
        let layout = slots::layout(&weights).ok_or_else(too_long)?;
        Ok((by_id(&layout), None))
    }

    /// The Maglev table of a target: the one that it has, while its list stays the same.
    fn table(&mut self, key: &TargetKey, listed: &[&BackendPlan]) -> Option<Arc<Table>> {
        self.old
            .table_of(key, listed)
            .or_else(|| self.resources.tables.get(List::new(listed)))
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

    fn new_target(&mut self, key: &TargetKey, value: abi::Target) -> Result<u32, Reason> {
        let Some(meta) = codec::target_meta(self.name, key) else {
            let name = format!("{} {}", self.name, key.port_name);
            return Err(Reason::NameTooLong { name });
        };
        let id = self.resources.take_target()?;
        self.taken.targets.push(id);
        self.ops.push(Op::PutTarget {
            id,
            value,
            meta: Box::new(meta),
        });
        Ok(id)
    }

    /// Set of a target's source ranges; 0 if everyone is let in.
    fn range_set(&mut self, plan: &TargetPlan) -> Result<u32, Reason> {
        let Some(sources) = &plan.sources else {
            return Ok(0);
        };
        let ranges = codec::canonical_ranges(&sources.ranges);
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
}

/// [`Target::flags`](abi::Target::flags) of a target.
fn flags(key: &TargetKey, plan: &TargetPlan) -> u8 {
    let mut flags = backend_lists::bit(key.list);
    if let Some(sources) = &plan.sources {
        if !sources.node {
            flags |= target_flags::REFUSES_NODE;
        }
        if sources.all_frontends {
            flags |= target_flags::FILTERS_ALL;
        }
    }
    flags
}
