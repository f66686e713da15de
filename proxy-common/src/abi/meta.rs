//! Names for display, so that `services` can print everything from the maps alone. Never read by the datapath.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Longest name: a node name is a DNS subdomain (RFC 1123) of up to 253 bytes.
pub const NAME_LEN: usize = 256;

/// Value of `META_NAMES`: UTF-8, padded with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Name(pub [u8; NAME_LEN]);

/// Which endpoint list of a Service port a target holds (semantics B2, B3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum List {
    /// Endpoints for cluster-wide traffic (semantics B2).
    Cluster = 0,
    /// Endpoints on this node (semantics B3).
    Local = 1,
}

/// Value of `META_TARGETS`: the target's identity, which is (Service, port name, protocol, family, list).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TargetMeta {
    /// `namespace/name`, padded with zeros (63 + 1 + 63 bytes at most).
    pub service: [u8; 128],
    /// Port name, padded with zeros.
    pub port_name: [u8; 64],
    /// IANA protocol number.
    pub protocol: u8,
    /// [`Family`](crate::addr::Family) as a number.
    pub family: u8,
    /// [`List`] as a number.
    pub list: u8,
    /// Zero.
    pub pad: u8,
}
const _: () = assert!(size_of::<TargetMeta>() == 196);

/// Bits of [`BackendMeta::flags`].
pub mod backend_meta_flags {
    /// The endpoint is terminating.
    pub const TERMINATING: u32 = 1;
}

/// Value of `META_BACKENDS`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct BackendMeta {
    /// Name id of the node in `META_NAMES`; 0: none.
    pub node: u32,
    /// Name id of the zone; 0: none.
    pub zone: u32,
    /// [`backend_meta_flags`].
    pub flags: u32,
    /// The Service port that the backend belongs to: [`Target::service`](super::target::Target::service).
    pub owner: u32,
}
const _: () = assert!(size_of::<BackendMeta>() == 16);
