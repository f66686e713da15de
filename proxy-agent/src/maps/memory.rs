//! Maps in memory: for tests, and for dry runs.

use proxy_common::abi::target::{Backend, BackendState, BackendWord, Target};

use super::{ApplyError, Maps, Op, Snapshot, SnapshotError};

/// Maps in memory. Their contents are a [`Snapshot`], so that reading them back is a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryMaps {
    /// The contents.
    pub contents: Snapshot,
    /// Nanoseconds of their clock.
    pub clock: u64,
}

impl MemoryMaps {
    /// Applies one operation; it cannot fail.
    pub fn apply_one(&mut self, op: &Op) {
        let c = &mut self.contents;
        match op {
            Op::PutName { id, name } => {
                c.names.insert(*id, **name);
            }
            Op::PutBackend { id, value, meta } => {
                c.meta_backends.insert(*id, *meta);
                *element(&mut c.backends, *id) = *value;
            }
            Op::SetBackendMeta { id, meta } => {
                c.meta_backends.insert(*id, *meta);
            }
            Op::SetWeight { id, weight } => element(&mut c.backends, *id).weight = *weight,
            Op::SetSince { id, since } => element(&mut c.backends, *id).since = *since,
            Op::PutRange { key } => {
                c.ranges.insert(*key);
            }
            Op::WriteSlots { offset, slots } => {
                for (index, slot) in (*offset..).zip(slots) {
                    *element(&mut c.slots, index) = *slot;
                }
            }
            Op::PutTarget { id, value, meta } => {
                c.meta_targets.insert(*id, **meta);
                *element(&mut c.targets, *id) = *value;
            }
            Op::SetAffinity { id, seconds } => {
                element(&mut c.targets, *id).affinity_seconds = *seconds;
            }
            Op::SetSlowStart { id, seconds } => {
                element(&mut c.targets, *id).slow_start = *seconds;
            }
            Op::SetTargetFlags { id, flags } => element(&mut c.targets, *id).flags = *flags,
            Op::SetRanges { id, set } => element(&mut c.targets, *id).ranges = *set,
            Op::FlipTarget { id, word } => element(&mut c.targets, *id).word = *word,
            Op::PutFrontend { key, value } => {
                c.frontends.insert(*key, *value);
            }
            Op::DeleteFrontend { key } => {
                c.frontends.remove(key);
            }
            Op::FlipBackend { id, word } | Op::SetLists { id, word } => {
                element(&mut c.backends, *id).word = *word;
            }
            Op::AwaitReaders => {}
            Op::ClearTarget { id } => {
                *element(&mut c.targets, *id) = Target::default();
                c.meta_targets.remove(id);
            }
            Op::ClearBackend { id, generation } => {
                *element(&mut c.backends, *id) = cleared(*generation);
                c.meta_backends.remove(id);
            }
            Op::DeleteRange { key } => {
                c.ranges.remove(key);
            }
            Op::DeleteName { id } => {
                c.names.remove(id);
            }
            Op::PutNodeAddr { addr, flags } => {
                c.node_addrs.insert(*addr, *flags);
            }
            Op::DeleteNodeAddr { addr } => {
                c.node_addrs.remove(addr);
            }
            Op::PutDevice { ifindex, device } => {
                c.devices.insert(*ifindex, *device);
            }
            Op::DeleteDevice { ifindex } => {
                c.devices.remove(ifindex);
            }
        }
    }
}

/// A free element of `BACKENDS`: nothing but the last generation.
fn cleared(generation: u32) -> Backend {
    Backend {
        word: BackendWord::new(generation, BackendState::Gone),
        ..Backend::default()
    }
}

fn element<T: Default + Clone>(array: &mut Vec<T>, index: u32) -> &mut T {
    let index = index as usize;
    if array.len() <= index {
        array.resize(index + 1, T::default());
    }
    &mut array[index]
}

impl Maps for MemoryMaps {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        for op in ops {
            self.apply_one(op);
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, SnapshotError> {
        Ok(self.contents.clone())
    }

    fn now(&self) -> u64 {
        self.clock
    }
}
