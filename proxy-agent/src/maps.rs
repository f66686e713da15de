//! Writing and reading the maps that the agent owns, at the level of entries.
//!
//! `delta` says what has to be written as a sequence of [`Op`]s; an implementation of [`Maps`] does it: the kernel's
//! (`dataplane`), [`memory`]'s for tests and dry runs, [`faulty`]'s around any other to make it fail now and then.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::{
    abi::{
        device::Device,
        frontend::{FrontendKey, FrontendValue},
        meta::{BackendMeta, Name, TargetMeta},
        target::{Backend, BackendWord, RangeKey, Slot, Target, TargetWord},
    },
    addr::Addr,
};

pub mod codec;
pub mod faulty;
pub mod lint;
pub mod memory;

/// Id in `META_NAMES` under which this node's own name stands. In references to names, 0 means none.
pub const NODE_NAME: u32 = 0;

/// One write. All are idempotent: applied twice in a row, the second time changes nothing; a delete of what is not
/// there succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes an element of `META_NAMES`.
    PutName {
        /// Name id.
        id: u32,
        /// Name.
        name: Box<Name>,
    },
    /// Gives a free id to a backend. Written in this order: `META_BACKENDS`, the fields of the element of `BACKENDS`,
    /// and last its word, by one aligned 64-bit store.
    PutBackend {
        /// Backend id.
        id: u32,
        /// The whole element.
        value: Backend,
        /// Its names.
        meta: BackendMeta,
    },
    /// Writes an element of `META_BACKENDS` alone.
    SetBackendMeta {
        /// Backend id.
        id: u32,
        /// Its names.
        meta: BackendMeta,
    },
    /// Stores the weight of a backend in use, by one aligned 32-bit store.
    SetWeight {
        /// Backend id.
        id: u32,
        /// Relative weight.
        weight: u32,
    },
    /// Stores when a backend in use began to serve, by one aligned 64-bit store.
    SetSince {
        /// Backend id.
        id: u32,
        /// [`Backend::since`].
        since: u64,
    },
    /// Stores the word of a backend in use with other lists, by one aligned 64-bit store.
    SetLists {
        /// Backend id.
        id: u32,
        /// New word: of the same generation, and serving.
        word: BackendWord,
    },
    /// Inserts into `SOURCE_RANGES`.
    PutRange {
        /// Set and prefix.
        key: RangeKey,
    },
    /// Writes a range of `SLOTS` that no target names and no reader holds.
    WriteSlots {
        /// First slot.
        offset: u32,
        /// Contents.
        slots: Vec<Slot>,
    },
    /// Gives a free id to a target. Written in this order: `META_TARGETS`, the fields of the element of `TARGETS`,
    /// and last its word, by one aligned 64-bit store.
    PutTarget {
        /// Target id.
        id: u32,
        /// The whole element.
        value: Target,
        /// Whose it is.
        meta: Box<TargetMeta>,
    },
    /// Stores the affinity timeout of a target in use, by one aligned 32-bit store.
    SetAffinity {
        /// Target id.
        id: u32,
        /// Seconds; 0: none.
        seconds: u32,
    },
    /// Stores how long backends of a target in use are new, with one aligned 64-bit store.
    SetSlowStart {
        /// Target id.
        id: u32,
        /// Seconds; 0: none ever is.
        seconds: u16,
    },
    /// Stores the flags of a target in use, with one aligned 64-bit store.
    SetTargetFlags {
        /// Target id.
        id: u32,
        /// [`Target::flags`], with the list that the target has.
        flags: u8,
    },
    /// Stores the set of source ranges of a target in use, by one aligned 32-bit store.
    SetRanges {
        /// Target id.
        id: u32,
        /// Number of the set; 0: all are let in.
        set: u32,
    },
    /// Stores the word of a target in use, by one aligned 64-bit store with release ordering: who sees it also sees
    /// the backends and slots written before.
    FlipTarget {
        /// Target id.
        id: u32,
        /// New word.
        word: TargetWord,
    },
    /// Inserts into or replaces in `FRONTENDS`.
    PutFrontend {
        /// Key.
        key: FrontendKey,
        /// Value.
        value: FrontendValue,
    },
    /// Deletes from `FRONTENDS`.
    DeleteFrontend {
        /// Key.
        key: FrontendKey,
    },
    /// Stores the word of a backend, by one aligned 64-bit store.
    FlipBackend {
        /// Backend id.
        id: u32,
        /// New word.
        word: BackendWord,
    },
    /// Returns when every program that was running when it began has ended (`membarrier(MEMBARRIER_CMD_GLOBAL)`).
    AwaitReaders,
    /// Zeroes an element of `TARGETS`, then deletes that of `META_TARGETS`. No reader can reach it any more.
    ClearTarget {
        /// Target id.
        id: u32,
    },
    /// Zeroes an element of `BACKENDS` but for its word, which keeps the generation and says gone, then deletes that
    /// of `META_BACKENDS`. No new connection can reach it any more.
    ClearBackend {
        /// Backend id.
        id: u32,
        /// The last generation that the id had.
        generation: u32,
    },
    /// Deletes from `SOURCE_RANGES`.
    DeleteRange {
        /// Set and prefix.
        key: RangeKey,
    },
    /// Deletes from `META_NAMES`.
    DeleteName {
        /// Name id.
        id: u32,
    },
    /// Inserts into or replaces in `NODE_ADDRS`.
    PutNodeAddr {
        /// Address.
        addr: Addr,
        /// `abi::device::node_addr` bits.
        flags: u32,
    },
    /// Deletes from `NODE_ADDRS`.
    DeleteNodeAddr {
        /// Address.
        addr: Addr,
    },
    /// Inserts into or replaces in `DEVICES`.
    PutDevice {
        /// Interface index.
        ifindex: u32,
        /// Device.
        device: Device,
    },
    /// Deletes from `DEVICES`.
    DeleteDevice {
        /// Interface index.
        ifindex: u32,
    },
}

macro_rules! kinds {
    ($($name:ident = $label:literal),* $(,)?) => {
        /// The kind of an [`Op`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "each is the variant of Op of that name")]
        pub enum OpKind { $($name),* }

        impl OpKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Label in metrics and messages.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),* }
            }
        }

        impl Op {
            /// Which kind it is.
            pub const fn kind(&self) -> OpKind {
                match self { $(Self::$name { .. } => OpKind::$name),* }
            }
        }
    };
}

kinds! {
    PutName = "put_name",
    PutBackend = "put_backend",
    SetBackendMeta = "set_backend_meta",
    SetWeight = "set_weight",
    SetSince = "set_since",
    SetLists = "set_lists",
    PutRange = "put_range",
    WriteSlots = "write_slots",
    PutTarget = "put_target",
    SetAffinity = "set_affinity",
    SetSlowStart = "set_slow_start",
    SetTargetFlags = "set_target_flags",
    SetRanges = "set_ranges",
    FlipTarget = "flip_target",
    PutFrontend = "put_frontend",
    DeleteFrontend = "delete_frontend",
    FlipBackend = "flip_backend",
    AwaitReaders = "await_readers",
    ClearTarget = "clear_target",
    ClearBackend = "clear_backend",
    DeleteRange = "delete_range",
    DeleteName = "delete_name",
    PutNodeAddr = "put_node_addr",
    DeleteNodeAddr = "delete_node_addr",
    PutDevice = "put_device",
    DeleteDevice = "delete_device",
}

/// Splits operations into runs of one kind, in order. What a run holds may be written as one batch.
pub fn runs(ops: &[Op]) -> impl Iterator<Item = &[Op]> {
    ops.chunk_by(|a, b| a.kind() == b.kind())
}

/// An operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("writing the maps failed at operation {index} ({}); it will be tried again", kind.label())]
pub struct ApplyError {
    /// Index of the first operation that is not known to be applied: those before it are.
    pub index: usize,
    /// Its kind.
    pub kind: OpKind,
    /// What the kernel said.
    #[source]
    pub source: std::io::Error,
}

impl ApplyError {
    /// Whether the map has no room for it (hash maps: `E2BIG`, longest-prefix tries: `ENOSPC`).
    pub fn is_full(&self) -> bool {
        let code = self.source.raw_os_error();
        matches!(code, Some(libc::E2BIG | libc::ENOSPC))
    }
}

/// Maps could not be read back.
#[derive(Debug, thiserror::Error)]
#[error("reading the map {map} back failed")]
pub struct SnapshotError {
    /// Name of the map.
    pub map: &'static str,
    /// What the kernel said.
    #[source]
    pub source: std::io::Error,
}

/// The maps that the agent writes.
pub trait Maps {
    /// Applies operations in order.
    ///
    /// On an error, all operations before [`ApplyError::index`] are applied. Of those from there on, some of the same
    /// [run](runs) may be applied too; none of a later run is. Applying the rest again, from the index on, is the way
    /// to go on.
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError>;

    /// Reads everything back.
    fn snapshot(&self) -> Result<Snapshot, SnapshotError>;

    /// The time as the programs read it: nanoseconds of `CLOCK_MONOTONIC`.
    fn now(&self) -> u64;
}

impl<M: Maps + ?Sized> Maps for &mut M {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        (**self).apply(ops)
    }

    fn snapshot(&self) -> Result<Snapshot, SnapshotError> {
        (**self).snapshot()
    }

    fn now(&self) -> u64 {
        (**self).now()
    }
}

/// The contents of all maps that the agent writes. Arrays may end after their last element that is not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// `FRONTENDS`.
    pub frontends: BTreeMap<FrontendKey, FrontendValue>,
    /// `TARGETS`.
    pub targets: Vec<Target>,
    /// `SLOTS`.
    pub slots: Vec<Slot>,
    /// `BACKENDS`.
    pub backends: Vec<Backend>,
    /// Keys of `SOURCE_RANGES`.
    pub ranges: BTreeSet<RangeKey>,
    /// `META_TARGETS`.
    pub meta_targets: BTreeMap<u32, TargetMeta>,
    /// `META_BACKENDS`.
    pub meta_backends: BTreeMap<u32, BackendMeta>,
    /// `META_NAMES`.
    pub names: BTreeMap<u32, Name>,
    /// `NODE_ADDRS`.
    pub node_addrs: BTreeMap<Addr, u32>,
    /// `DEVICES`.
    pub devices: BTreeMap<u32, Device>,
}

impl Snapshot {
    /// An element of `TARGETS`; zero where there is none.
    pub fn target(&self, id: u32) -> Target {
        self.targets.get(id as usize).copied().unwrap_or_default()
    }

    /// An element of `SLOTS`; zero where there is none.
    pub fn slot(&self, index: u32) -> Slot {
        self.slots.get(index as usize).copied().unwrap_or_default()
    }

    /// An element of `BACKENDS`; zero where there is none.
    pub fn backend(&self, id: u32) -> Backend {
        self.backends.get(id as usize).copied().unwrap_or_default()
    }

    /// The slots that a target's word names.
    pub fn slots_of(&self, word: TargetWord) -> impl Iterator<Item = Slot> + '_ {
        (0..u32::from(word.count())).map(move |i| self.slot(word.offset().saturating_add(i)))
    }
}
