//! Which backend a client of a Service with `sessionAffinity` had (semantics L2).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::Addr;

/// How a client is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum ClientKind {
    /// By the source address of its packets.
    Address = 0,
    /// By the cookie of its network namespace: its sockets have no source address yet.
    Namespace = 1,
}

/// Key of `AFFINITY`.
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
pub struct AffinityKey {
    /// Source address, or the cookie of a network namespace as its last two words.
    pub client: Addr,
    /// [`Target::service`](super::target::Target::service).
    pub service: u32,
    /// [`ClientKind`] as a number.
    pub kind: u32,
}
const _: () = assert!(size_of::<AffinityKey>() == 24);

impl AffinityKey {
    /// A client whose packets come from an address.
    #[inline(always)]
    pub const fn of_address(service: u32, client: Addr) -> Self {
        Self {
            client,
            service,
            kind: ClientKind::Address as u32,
        }
    }

    /// A client whose sockets are in a network namespace.
    #[inline(always)]
    pub const fn of_namespace(service: u32, cookie: u64) -> Self {
        Self {
            client: Addr::from_words([0, 0, cookie as u32, (cookie >> 32) as u32]),
            service,
            kind: ClientKind::Namespace as u32,
        }
    }
}

/// Value of `AFFINITY`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct AffinityValue {
    /// Index in `BACKENDS`.
    pub backend: u32,
    /// Generation that the backend had.
    pub generation: u32,
    /// Jiffies (low 32 bits) of the client's last new connection.
    pub last_used: u32,
    /// Zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<AffinityValue>() == 16);
