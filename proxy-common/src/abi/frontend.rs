//! Frontends: the addresses and ports that clients connect to.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use crate::addr::Addr;

/// Origin of a connection, as far as a Service's policies distinguish it (semantics B4, S6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Scope {
    /// From this node and its pods.
    Cluster = 0,
    /// From anywhere else.
    External = 1,
}

/// Key of `FRONTENDS`. A node port has the unspecified address of its family. It matches if the packet's
/// destination is in `NODE_ADDRS` with [`NODE_PORT`](super::device::node_addr::NODE_PORT).
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
pub struct FrontendKey {
    /// Address.
    pub addr: Addr,
    /// Port, network order.
    pub port: U16,
    /// IANA protocol number.
    pub protocol: u8,
    /// [`Scope`] as a number.
    pub scope: u8,
}
const _: () = assert!(size_of::<FrontendKey>() == 20);

impl FrontendKey {
    /// A 32-bit hash of the key, stored in the value. A reader compares it to detect that the element was
    /// deleted and reused for another key during the read.
    #[inline(always)]
    pub fn fingerprint(&self) -> u32 {
        let w = self.addr.words();
        let tail = u32::from(self.port.get()) << 16
            | u32::from(self.protocol) << 8
            | u32::from(self.scope);
        crate::hash::mix5(w[0], w[1], w[2], w[3], tail)
    }
}

/// Which field of a Service a frontend comes from. `plan` sorts by this order where all else is equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FrontendKind {
    /// `clusterIPs[]`.
    #[default]
    ClusterIp = 0,
    /// This node's addresses with `nodePort`.
    NodePort = 1,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer = 2,
    /// `externalIPs[]`.
    ExternalIp = 3,
}

impl FrontendKind {
    /// Decodes the kind bits of a [`FrontendValue`].
    pub const fn from_u8(n: u8) -> Self {
        match n & 3 {
            0 => Self::ClusterIp,
            1 => Self::NodePort,
            2 => Self::LoadBalancer,
            _ => Self::ExternalIp,
        }
    }
}

/// Value of `FRONTENDS`, read and written as one aligned 64-bit word:
/// target id (bits 0–23), kind (24–25), fingerprint of the key (32–63).
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
#[repr(transparent)]
pub struct FrontendValue(pub u64);
const _: () = assert!(size_of::<FrontendValue>() == 8);

impl FrontendValue {
    /// Targets that a value can name: ids are below this.
    pub const MAX_TARGETS: u32 = 1 << 24;

    /// Packs a value for a key. `target` must be below [`MAX_TARGETS`](Self::MAX_TARGETS).
    #[inline(always)]
    pub fn new(key: &FrontendKey, target: u32, kind: FrontendKind) -> Self {
        Self(
            u64::from(target & 0x00ff_ffff)
                | (kind as u64) << 24
                | u64::from(key.fingerprint()) << 32,
        )
    }

    /// Index in `TARGETS`.
    #[inline(always)]
    pub const fn target(self) -> u32 {
        self.0 as u32 & 0x00ff_ffff
    }

    /// Kind.
    #[inline(always)]
    pub const fn kind(self) -> FrontendKind {
        FrontendKind::from_u8((self.0 >> 24) as u8)
    }

    /// Whether the value was written for this key, judged by the fingerprint.
    #[inline(always)]
    pub fn belongs_to(self, key: &FrontendKey) -> bool {
        (self.0 >> 32) as u32 == key.fingerprint()
    }
}
