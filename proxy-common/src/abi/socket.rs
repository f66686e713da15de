//! State of sockets that the hooks translated on `connect` or `sendmsg`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use crate::addr::Addr;

/// Key of `SOCKET_BACKENDS` (with a frontend's address) and of `SOCKET_FRONTENDS` (with a backend's address).
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

/// Value of `SOCKET_BACKENDS`: the backend that an unconnected UDP socket keeps for a frontend (semantics L6).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SocketBackend {
    /// Index in `BACKENDS`.
    pub backend: u32,
    /// Generation of the backend when this entry was written.
    pub generation: u32,
    /// Approximate time of the last datagram, in jiffies (low 32 bits).
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
    /// Address that the application connected or sent to.
    pub addr: Addr,
    /// Port that the application connected or sent to, network order.
    pub port: U16,
    /// Zero.
    pub pad: [u8; 6],
}
const _: () = assert!(size_of::<SocketFrontend>() == 24);
