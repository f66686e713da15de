//! Where a frontend's connections go: target → slots → backends.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use super::frontend::FrontendKind;
use crate::addr::Addr;

/// What a target does with a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TargetState {
    /// A zeroed element. The frontend is treated as if it did not exist.
    Absent = 0,
    /// Choose a backend.
    Serve = 1,
    /// No endpoint exists that could serve: ECONNREFUSED, RST or ICMP port unreachable (semantics B5).
    Reject = 2,
    /// Endpoints exist, but the traffic policy allows none of them (semantics B5).
    Drop = 3,
}

/// Load-balancing algorithm (semantics L1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// Uniformly random for each connection.
    #[default]
    Random = 0,
    /// One after the other.
    RoundRobin = 1,
    /// By a hash of the client that is the same on every node. The slots are a Maglev table (Eisenbud et al.,
    /// NSDI 2016, §3.4).
    Maglev = 2,
    /// Of two random backends, the one with fewer connections from this node relative to its weight.
    LeastConnections = 3,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Random,
        Self::RoundRobin,
        Self::Maglev,
        Self::LeastConnections,
    ];

    /// Name in annotations, flags and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::Maglev => "maglev",
            Self::LeastConnections => "least-connections",
        }
    }

    /// The algorithm with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// The part of a target that is replaced by one aligned 64-bit store: offset in `SLOTS` (bits 0–31), count
/// (32–47), [`TargetState`] (48–55), [`Algorithm`] (56–63).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct TargetWord(pub u64);

impl TargetWord {
    /// Packs a word.
    pub const fn new(offset: u32, count: u16, state: TargetState, algorithm: Algorithm) -> Self {
        Self(offset as u64 | (count as u64) << 32 | (state as u64) << 48 | (algorithm as u64) << 56)
    }

    /// First slot.
    #[inline(always)]
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }

    /// Number of slots.
    #[inline(always)]
    pub const fn count(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// State. Unknown numbers read as absent.
    #[inline(always)]
    pub const fn state(self) -> TargetState {
        match (self.0 >> 48) as u8 {
            1 => TargetState::Serve,
            2 => TargetState::Reject,
            3 => TargetState::Drop,
            _ => TargetState::Absent,
        }
    }

    /// Algorithm. Unknown numbers read as random.
    #[inline(always)]
    pub const fn algorithm(self) -> Algorithm {
        match (self.0 >> 56) as u8 {
            1 => Algorithm::RoundRobin,
            2 => Algorithm::Maglev,
            3 => Algorithm::LeastConnections,
            _ => Algorithm::Random,
        }
    }
}

/// Bits of [`Target::flags`], next to those of [`backend_lists`].
pub mod target_flags {
    /// `ranges` apply to all of the Service's frontends, not to load balancer addresses alone.
    pub const FILTERS_ALL: u8 = 1 << 6;
    /// Where `ranges` apply, the node's own processes are refused, because no range contains an address of this
    /// node (semantics A3).
    pub const REFUSES_NODE: u8 = 1 << 7;
}

/// Value of `TARGETS`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Target {
    /// Replaced by one store. All other fields are written before the first store makes the target visible.
    pub word: TargetWord,
    /// Id of the Service port (Service, port name, protocol, family). Its cluster target and its local target
    /// share it. Affinity entries are keyed by it, and backends name it as their owner. Never 0 while in use.
    pub service: u32,
    /// `sessionAffinity` timeout in seconds; 0: no affinity. Written by one aligned 32-bit store.
    pub affinity_seconds: u32,
    /// Set of source ranges in `SOURCE_RANGES`, one of which must contain the client, at frontends that
    /// [filter](Self::filters) (semantics A3). 0: all clients are admitted. Written by one aligned 32-bit
    /// store.
    pub ranges: u32,
    /// [`target_flags`], and the [`backend_lists`] bit of this target's list. Written as part of an aligned
    /// word.
    pub flags: u8,
    /// Zero.
    pub pad: u8,
    /// Duration of slow start in seconds: a younger backend gets less than its share of new connections. 0: no
    /// slow start. Written as part of an aligned word.
    pub slow_start: u16,
}
const _: () = assert!(size_of::<Target>() == 24);

impl Target {
    /// Whether `ranges` apply to frontends of this kind.
    #[inline(always)]
    pub const fn filters(&self, kind: FrontendKind) -> bool {
        matches!(kind, FrontendKind::LoadBalancer) || self.flags & target_flags::FILTERS_ALL != 0
    }
}

/// Key of `SOURCE_RANGES`, an LPM trie. A set does not change while a target uses it; changed ranges get a new
/// set. A set without ranges has no element, so it admits no client.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct RangeKey {
    /// Number of significant bits: 32 for `set`, plus the prefix length in `addr` (96 + n for an IPv4 prefix of
    /// n bits). Host byte order.
    pub prefix_len: u32,
    /// Id of the set; never 0.
    pub set: u32,
    /// Client address, with zeros after the prefix.
    pub addr: Addr,
}
const _: () = assert!(size_of::<RangeKey>() == 24);

impl RangeKey {
    /// Bits of `set`, which precede the address in every key.
    pub const SET_BITS: u32 = 32;

    /// The key that looks up a client's address in a set.
    #[inline(always)]
    pub const fn of_client(set: u32, addr: Addr) -> Self {
        Self {
            prefix_len: Self::SET_BITS + 128,
            set,
            addr,
        }
    }
}

/// Value of `SLOTS`. Read and written as one aligned 64-bit word.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct Slot {
    /// Index in `BACKENDS`.
    pub backend: u32,
    /// Generation that the backend must have; if it differs, the slot is stale.
    pub generation: u32,
}
const _: () = assert!(size_of::<Slot>() == 8);

impl Slot {
    /// Decodes a word: backend (bits 0–31), generation (32–63).
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            backend: word as u32,
            generation: (word >> 32) as u32,
        }
    }

    /// Encodes the slot as one word.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.backend as u64 | (self.generation as u64) << 32
    }
}

/// Bits of [`Backend::flags`].
pub mod backend_flags {
    /// The backend is on this node: its `nodeName` is this node's, or its address is an address of this node.
    pub const LOCAL: u8 = 1;
}

/// Bits of a backend's word: the lists of its Service port from which it takes new connections.
pub mod backend_lists {
    use crate::abi::meta::List;

    /// The bit of a list.
    pub const fn bit(list: List) -> u8 {
        1 << list as u8
    }

    /// Both lists.
    pub const ALL: u8 = bit(List::Cluster) | bit(List::Local);
}

/// State of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BackendState {
    /// The id is free, or the backend was deleted. Flows to it end.
    Gone = 0,
    /// The backend serves. Whether it takes new connections depends on the slots.
    Serving = 1,
    /// The backend exists but does not serve. Its connections go on; UDP flows to it end (semantics L3).
    NotServing = 2,
}

/// The part of a backend that changes during its life: generation (bits 0–31), [`BackendState`] (32–39),
/// [`backend_lists`] (40–47).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct BackendWord(pub u64);

impl BackendWord {
    /// Packs the word of a backend that is in no list.
    pub const fn new(generation: u32, state: BackendState) -> Self {
        Self(generation as u64 | (state as u64) << 32)
    }

    /// The same word with these [`backend_lists`].
    #[must_use]
    pub const fn in_lists(self, lists: u8) -> Self {
        Self(self.0 & !(0xff << 40) | (lists as u64) << 40)
    }

    /// [`backend_lists`].
    #[inline(always)]
    pub const fn lists(self) -> u8 {
        (self.0 >> 40) as u8
    }

    /// Generation.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        self.0 as u32
    }

    /// State.
    #[inline(always)]
    pub const fn state(self) -> BackendState {
        match (self.0 >> 32) as u8 {
            1 => BackendState::Serving,
            2 => BackendState::NotServing,
            _ => BackendState::Gone,
        }
    }
}

/// Value of `BACKENDS`. While an id is in use, only `word`, `weight` and `since` change. An id is reused with a
/// new generation, and only after all programs that could have read the old one have finished. A free id keeps
/// its last generation in `word`; all other fields are zero.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Backend {
    /// Address.
    pub addr: Addr,
    /// Port, network order.
    pub port: U16,
    /// IANA protocol number.
    pub protocol: u8,
    /// [`backend_flags`].
    pub flags: u8,
    /// Relative weight. Written by one aligned 32-bit store.
    pub weight: u32,
    /// Replaced by one aligned 64-bit store.
    pub word: BackendWord,
    /// Time when it became ready, in nanoseconds of `CLOCK_MONOTONIC`. 0: it never goes through slow start,
    /// because it came with its Service port. Written by one aligned 64-bit store.
    pub since: u64,
}
const _: () = assert!(size_of::<Backend>() == 40);

impl Backend {
    /// Whether the backend is on this node (see [`backend_flags::LOCAL`]).
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.flags & backend_flags::LOCAL != 0
    }
}
