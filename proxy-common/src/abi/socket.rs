//! State of sockets that were translated when they connected or sent.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use crate::addr::Addr;

/// Key of `SOCKET_BACKENDS` (the address is a frontend's) and of `SOCKET_FRONTENDS` (the address is a backend's).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
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
pub struct SocketKey {
    /// Socket cookie.
    pub cookie: u64,
    /// Address.
    pub addr: Addr,
    /// Port, network order.
    pub port: U16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 5],
}
const _: () = assert!(size_of::<SocketKey>() == 32);

/// Value of `SOCKET_BACKENDS`: an unconnected UDP socket keeps its backend (semantics L6).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SocketBackend {
    /// Index in `BACKENDS`.
    pub backend: u32,
    /// Generation that the backend had.
    pub generation: u32,
    /// Jiffies (low 32 bits) of about the last datagram.
    pub last_used: u32,
    /// Zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<SocketBackend>() == 16);

/// Value of `SOCKET_FRONTENDS`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SocketFrontend {
    /// Address that the application used.
    pub addr: Addr,
    /// Port that the application used, network order.
    pub port: U16,
    /// Zero.
    pub pad: [u8; 6],
}
const _: () = assert!(size_of::<SocketFrontend>() == 24);
