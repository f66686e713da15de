//! Where a frontend's connections go: target → slots → backends.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use super::frontend::FrontendKind;
use crate::addr::Addr;

/// What a target does with a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TargetState {
    /// Nothing is here (a zeroed element): the frontend is not ours.
    Absent = 0,
    /// Choose a backend.
    Serve = 1,
    /// No endpoint anywhere: ECONNREFUSED, RST, ICMP port unreachable (semantics B5).
    Reject = 2,
    /// Endpoints exist, none that the policy allows (semantics B5).
    Drop = 3,
}

/// How a target chooses (semantics L1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// Uniformly random for each connection.
    #[default]
    Random = 0,
    /// One after the other.
    RoundRobin = 1,
    /// By a hash of the client, the same on every node; the slots are a Maglev table (Eisenbud et al., NSDI 2016, §3.4).
    Maglev = 2,
    /// Of two random ones, the one with fewer connections from this node for its weight.
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

    /// Its name, as annotations, flags and reports have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::Maglev => "maglev",
            Self::LeastConnections => "least-connections",
        }
    }

    /// The algorithm of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// The word of a target that is flipped by one aligned 64-bit store:
/// offset in `SLOTS` (bits 0–31), count (32–47), [`TargetState`] (48–55), [`Algorithm`] (56–63).
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

    /// State; a number that is none reads as absent.
    #[inline(always)]
    pub const fn state(self) -> TargetState {
        match (self.0 >> 48) as u8 {
            1 => TargetState::Serve,
            2 => TargetState::Reject,
            3 => TargetState::Drop,
            _ => TargetState::Absent,
        }
    }

    /// Algorithm; a number that is none reads as random.
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

/// Bits of [`Target::flags`] beside those of [`backend_lists`].
pub mod target_flags {
    /// `ranges` hold for all frontends, not for load balancer addresses alone.
    pub const FILTERS_ALL: u8 = 1 << 6;
    /// The node's own processes are not let in where `ranges` hold: none of its addresses is in one (semantics A3).
    pub const REFUSES_NODE: u8 = 1 << 7;
}

/// Value of `TARGETS`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Target {
    /// Flipped atomically; all else is written before the first flip.
    pub word: TargetWord,
    /// Identity of the Service port (Service, port name, protocol, family), the same for its cluster and its local
    /// list: clients have affinity under it, and its backends name it as their owner. Never 0 while in use.
    pub service: u32,
    /// `sessionAffinity` timeout in seconds; 0: none. Changed by one aligned 32-bit store.
    pub affinity_seconds: u32,
    /// Set of source ranges in `SOURCE_RANGES` that clients of frontends that [filter](Self::filters) must be in (semantics
    /// A3); 0: everyone is let in. Changed by one aligned 32-bit store.
    pub ranges: u32,
    /// The [`backend_lists`] bit of the backends that it lists, and [`target_flags`]. Changed with a whole aligned word.
    pub flags: u8,
    /// Zero.
    pub pad: u8,
    /// For so many seconds a backend is new, and takes less than its share of new connections; 0: none ever is. Changed
    /// with a whole aligned word.
    pub slow_start: u16,
}
const _: () = assert!(size_of::<Target>() == 24);

impl Target {
    /// Whether `ranges` hold for frontends of a kind.
    #[inline(always)]
    pub const fn filters(&self, kind: FrontendKind) -> bool {
        matches!(kind, FrontendKind::LoadBalancer) || self.flags & target_flags::FILTERS_ALL != 0
    }
}

/// Key of `SOURCE_RANGES`, a longest-prefix trie. The ranges of a set are fixed while a target names it: other ranges
/// are another set, and a set without ranges has no element and lets nobody in.
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
    /// Bits that count: 32 of `set`, and those of `addr` (an IPv4 prefix of n bits has 96 + n). Host order.
    pub prefix_len: u32,
    /// Number of the set; never 0.
    pub set: u32,
    /// Client address, zero after the prefix.
    pub addr: Addr,
}
const _: () = assert!(size_of::<RangeKey>() == 24);

impl RangeKey {
    /// Bits of `set`, which precede the address in every key.
    pub const SET_BITS: u32 = 32;

    /// The key that finds a client's address in a set.
    #[inline(always)]
    pub const fn of_client(set: u32, addr: Addr) -> Self {
        Self {
            prefix_len: Self::SET_BITS + 128,
            set,
            addr,
        }
    }
}

/// Value of `SLOTS`, read and written as one aligned 64-bit word.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct Slot {
    /// Index in `BACKENDS`.
    pub backend: u32,
    /// Generation that the backend must have.
    pub generation: u32,
}
const _: () = assert!(size_of::<Slot>() == 8);

impl Slot {
    /// A slot of one word: backend (bits 0–31), generation (32–63).
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            backend: word as u32,
            generation: (word >> 32) as u32,
        }
    }

    /// The word of a slot.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.backend as u64 | (self.generation as u64) << 32
    }
}

/// Bits of [`Backend::flags`].
pub mod backend_flags {
    /// On this node: its `nodeName` is ours, or its address is one of this node's.
    pub const LOCAL: u8 = 1;
}

/// Bits of a backend's word: the lists of its Service port that it is in, and takes new connections from.
pub mod backend_lists {
    use crate::abi::meta::List;

    /// The bit of a list.
    pub const fn bit(list: List) -> u8 {
        1 << list as u8
    }

    /// Both lists.
    pub const ALL: u8 = bit(List::Cluster) | bit(List::Local);
}

/// Whether a backend serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BackendState {
    /// Free, or gone: flows to it are over.
    Gone = 0,
    /// Serves; whether it takes new connections is said by the slots.
    Serving = 1,
    /// Known, not serving (any more): flows that may outlive that go on.
    NotServing = 2,
}

/// The word of a backend that changes while it lives: generation (bits 0–31), [`BackendState`] (32–39),
/// [`backend_lists`] (40–47).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct BackendWord(pub u64);

impl BackendWord {
    /// Packs a word of a backend that no list names.
    pub const fn new(generation: u32, state: BackendState) -> Self {
        Self(generation as u64 | (state as u64) << 32)
    }

    /// The same with [`backend_lists`].
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

/// Value of `BACKENDS`. All but `word`, `weight` and `since` is fixed while the id is in use; an id is reused with a new generation, and
/// only after every reader is through. A free id keeps its last generation in `word`, all else is zero.
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
    /// Relative weight. Changed by one aligned 32-bit store.
    pub weight: u32,
    /// Flipped atomically.
    pub word: BackendWord,
    /// When it began to serve, in nanoseconds of `CLOCK_MONOTONIC`; 0: as long as its Service port is there. Changed by one
    /// aligned 64-bit store.
    pub since: u64,
}
const _: () = assert!(size_of::<Backend>() == 40);

impl Backend {
    /// Whether it is on this node (see [`backend_flags::LOCAL`]).
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.flags & backend_flags::LOCAL != 0
    }
}
