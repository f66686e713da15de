//! The kernel's implementation of [`Maps`]: hash maps by system calls, in batches; arrays through mappings.

pub(super) mod array;

use std::{collections::BTreeMap, io, time::Duration};

use proxy_common::{
    abi::{
        Pinned,
        device::Device,
        frontend::{FrontendKey, FrontendValue},
        meta::{BackendMeta, Name, TargetMeta},
        target::{Backend, BackendState, BackendWord, RangeKey, Slot, Target},
    },
    addr::Addr,
};
use tracing::warn;

use self::array::MappedArray;
use super::{
    open::{MapError, open},
    pin::PinFolder,
    sys::{
        map::{BatchError, Map, Plain},
        process,
    },
};
use crate::maps::{ApplyError, Maps, Op, Snapshot, SnapshotError, runs};

/// How long readers are waited for where the kernel cannot say when they are through: far longer than a program runs.
const READERS_DELAY: Duration = Duration::from_millis(100);

/// The pinned maps that the agent writes.
#[derive(Debug)]
pub struct KernelMaps {
    frontends: Map<FrontendKey, FrontendValue>,
    targets: MappedArray<Target>,
    slots: MappedArray<Slot>,
    backends: MappedArray<Backend>,
    ranges: Map<RangeKey, u32>,
    node_addrs: Map<Addr, u32>,
    devices: Map<u32, Device>,
    meta_targets: Map<u32, TargetMeta>,
    meta_backends: Map<u32, BackendMeta>,
    names: Map<u32, Name>,
    membarrier: bool,
}

/// Value of an element of `SOURCE_RANGES`.
const PRESENT: u32 = 1;

impl KernelMaps {
    /// Opens the maps pinned in `pins`.
    pub fn open(pins: &PinFolder) -> Result<Self, MapError> {
        Ok(Self {
            frontends: open(pins, Pinned::FRONTENDS)?,
            targets: MappedArray::open(pins, Pinned::TARGETS)?,
            slots: MappedArray::open(pins, Pinned::SLOTS)?,
            backends: MappedArray::open(pins, Pinned::BACKENDS)?,
            ranges: open(pins, Pinned::SOURCE_RANGES)?,
            node_addrs: open(pins, Pinned::NODE_ADDRS)?,
            devices: open(pins, Pinned::DEVICES)?,
            meta_targets: open(pins, Pinned::META_TARGETS)?,
            meta_backends: open(pins, Pinned::META_BACKENDS)?,
            names: open(pins, Pinned::META_NAMES)?,
            membarrier: true,
        })
    }

    /// Applies operations of one kind; on failure gives how many of them are known to be applied.
    fn apply_run(&mut self, run: &[Op]) -> Result<(), BatchError> {
        match run.first() {
            Some(Op::PutFrontend { .. }) => put(&self.frontends, run, |op| match op {
                Op::PutFrontend { key, value } => Some((*key, *value)),
                _ => None,
            }),
            Some(Op::DeleteFrontend { .. }) => delete(&self.frontends, run, |op| match op {
                Op::DeleteFrontend { key } => Some(*key),
                _ => None,
            }),
            Some(Op::PutName { .. }) => put(&self.names, run, |op| match op {
                Op::PutName { id, name } => Some((*id, **name)),
                _ => None,
            }),
            Some(Op::DeleteName { .. }) => delete(&self.names, run, |op| match op {
                Op::DeleteName { id } => Some(*id),
                _ => None,
            }),
            Some(Op::PutRange { .. }) => put(&self.ranges, run, |op| match op {
                Op::PutRange { key } => Some((*key, PRESENT)),
                _ => None,
            }),
            Some(Op::DeleteRange { .. }) => delete(&self.ranges, run, |op| match op {
                Op::DeleteRange { key } => Some(*key),
                _ => None,
            }),
            Some(Op::PutNodeAddr { .. }) => put(&self.node_addrs, run, |op| match op {
                Op::PutNodeAddr { addr, flags } => Some((*addr, *flags)),
                _ => None,
            }),
            Some(Op::DeleteNodeAddr { .. }) => delete(&self.node_addrs, run, |op| match op {
                Op::DeleteNodeAddr { addr } => Some(*addr),
                _ => None,
            }),
            Some(Op::PutDevice { .. }) => put(&self.devices, run, |op| match op {
                Op::PutDevice { ifindex, device } => Some((*ifindex, *device)),
                _ => None,
            }),
            Some(Op::DeleteDevice { .. }) => delete(&self.devices, run, |op| match op {
                Op::DeleteDevice { ifindex } => Some(*ifindex),
                _ => None,
            }),
            Some(Op::SetBackendMeta { .. } | Op::PutBackend { .. }) => {
                put(&self.meta_backends, run, |op| match op {
                    Op::SetBackendMeta { id, meta } | Op::PutBackend { id, meta, .. } => {
                        Some((*id, *meta))
                    }
                    _ => None,
                })
                .map_err(nothing_done)?;
                self.apply_arrays(run)
            }
            Some(Op::PutTarget { .. }) => {
                put(&self.meta_targets, run, |op| match op {
                    Op::PutTarget { id, meta, .. } => Some((*id, **meta)),
                    _ => None,
                })
                .map_err(nothing_done)?;
                self.apply_arrays(run)
            }
            Some(Op::ClearTarget { .. }) => {
                self.apply_arrays(run)?;
                delete(&self.meta_targets, run, |op| match op {
                    Op::ClearTarget { id } => Some(*id),
                    _ => None,
                })
            }
            Some(Op::ClearBackend { .. }) => {
                self.apply_arrays(run)?;
                delete(&self.meta_backends, run, |op| match op {
                    Op::ClearBackend { id, .. } => Some(*id),
                    _ => None,
                })
            }
            Some(Op::AwaitReaders) => {
                self.await_readers();
                Ok(())
            }
            Some(_) => self.apply_arrays(run),
            None => Ok(()),
        }
    }

    fn apply_arrays(&self, run: &[Op]) -> Result<(), BatchError> {
        for (done, op) in run.iter().enumerate() {
            self.apply_array(op)
                .map_err(|source| BatchError { done, source })?;
        }
        Ok(())
    }

    /// The part of an operation that writes arrays.
    fn apply_array(&self, op: &Op) -> io::Result<()> {
        match op {
            Op::PutBackend { id, value, .. } => self.backends.write(*id, value),
            Op::SetWeight { id, weight } => self.backends.modify(*id, |b| b.weight = *weight),
            Op::SetSince { id, since } => self.backends.modify(*id, |b| b.since = *since),
            Op::FlipBackend { id, word } | Op::SetLists { id, word } => {
                self.backends.modify(*id, |b| b.word = *word)
            }
            Op::ClearBackend { id, generation } => self.backends.write(
                *id,
                &Backend {
                    word: BackendWord::new(*generation, BackendState::Gone),
                    ..Backend::default()
                },
            ),
            Op::WriteSlots { offset, slots } => (*offset..)
                .zip(slots)
                .try_for_each(|(index, slot)| self.slots.write(index, slot)),
            Op::PutTarget { id, value, .. } => self.targets.write(*id, value),
            Op::SetAffinity { id, seconds } => {
                self.targets.modify(*id, |t| t.affinity_seconds = *seconds)
            }
            Op::SetSlowStart { id, seconds } => {
                self.targets.modify(*id, |t| t.slow_start = *seconds)
            }
            Op::SetTargetFlags { id, flags } => self.targets.modify(*id, |t| t.flags = *flags),
            Op::SetRanges { id, set } => self.targets.modify(*id, |t| t.ranges = *set),
            Op::FlipTarget { id, word } => self.targets.modify(*id, |t| t.word = *word),
            Op::ClearTarget { id } => self.targets.write(*id, &Target::default()),
            _ => Ok(()),
        }
    }

    fn await_readers(&mut self) {
        if self.membarrier {
            match process::membarrier() {
                Ok(()) => return,
                // Kernels with nohz_full refuse it, for good.
                Err(error) => {
                    self.membarrier = false;
                    warn!(
                        %error,
                        "membarrier is refused here; waiting {READERS_DELAY:?} for readers instead"
                    );
                }
            }
        }
        std::thread::sleep(READERS_DELAY);
    }
}

/// An operation that writes two maps is done when the second is written.
fn nothing_done(error: BatchError) -> BatchError {
    BatchError { done: 0, ..error }
}

/// Writes one element for each operation.
fn put<K: Plain, V: Plain>(
    map: &Map<K, V>,
    run: &[Op],
    element: impl Fn(&Op) -> Option<(K, V)>,
) -> Result<(), BatchError> {
    let (keys, values): (Vec<K>, Vec<V>) = run.iter().filter_map(element).unzip();
    map.update_batch(&keys, &values)
}

/// Deletes one element for each operation.
fn delete<K: Plain, V: Plain>(
    map: &Map<K, V>,
    run: &[Op],
    key: impl Fn(&Op) -> Option<K>,
) -> Result<(), BatchError> {
    let keys: Vec<K> = run.iter().filter_map(key).collect();
    map.delete_batch(&keys)
}

fn read<K: Plain + Ord, V: Plain>(
    name: &'static str,
    map: &Map<K, V>,
) -> Result<BTreeMap<K, V>, SnapshotError> {
    let entries = map
        .entries()
        .map_err(|source| SnapshotError { map: name, source })?;
    Ok(entries.into_iter().collect())
}

impl Maps for KernelMaps {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        let mut index = 0;
        for run in runs(ops) {
            self.apply_run(run)
                .map_err(|BatchError { done, source }| ApplyError {
                    index: index + done,
                    kind: run[0].kind(),
                    source,
                })?;
            index += run.len();
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, SnapshotError> {
        Ok(Snapshot {
            frontends: read("FRONTENDS", &self.frontends)?,
            targets: self.targets.read_all(),
            slots: self.slots.read_all(),
            backends: self.backends.read_all(),
            ranges: read("SOURCE_RANGES", &self.ranges)?.into_keys().collect(),
            meta_targets: read("META_TARGETS", &self.meta_targets)?,
            meta_backends: read("META_BACKENDS", &self.meta_backends)?,
            names: read("META_NAMES", &self.names)?,
            node_addrs: read("NODE_ADDRS", &self.node_addrs)?,
            devices: read("DEVICES", &self.devices)?,
        })
    }

    fn now(&self) -> u64 {
        process::monotonic().as_nanos() as u64
    }
}
