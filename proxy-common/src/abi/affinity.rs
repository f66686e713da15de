//! The backend that each client of a Service with `sessionAffinity` is bound to (semantics L2).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::Addr;

/// How a client is identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum ClientKind {
    /// By the source address of its packets.
    Address = 0,
    /// By the cookie of its network namespace: a socket has no source address before it connects.
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
    /// Source address; or a network namespace cookie in the last two words, low word first.
    pub client: Addr,
    /// [`Target::service`](super::target::Target::service).
    pub service: u32,
    /// [`ClientKind`] as a number.
    pub kind: u32,
}
const _: () = assert!(size_of::<AffinityKey>() == 24);

impl AffinityKey {
    /// The key of a client identified by its source address.
    #[inline(always)]
    pub const fn of_address(service: u32, client: Addr) -> Self {
        Self {
            client,
            service,
            kind: ClientKind::Address as u32,
        }
    }

    /// The key of a client identified by its network namespace.
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
    /// Generation of the backend when this entry was written.
    pub generation: u32,
    /// Time of the client's last new connection, in jiffies (low 32 bits).
    pub last_used: u32,
    /// Zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<AffinityValue>() == 16);
