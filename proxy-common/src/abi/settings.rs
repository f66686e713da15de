//! Settings that the agent passes to all programs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A range of ports, both ends inclusive, in host byte order. Empty if `last` is 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// Number of ranges that [`Settings::snat_ports`] has room for.
pub const MAX_SNAT_RANGES: usize = 4;

/// Bits of [`Settings::flags`].
pub mod settings_flags {
    /// The socket hooks translate TCP for pods too, not only for the node's own network namespace.
    pub const SOCKETS_PODS_TCP: u32 = 1;
    /// The same, for UDP.
    pub const SOCKETS_PODS_UDP: u32 = 2;
    /// A TCP flow whose backend was deleted is ended at the client's next packet (ADR 27).
    pub const END_TCP: u32 = 4;
}

/// The one element of `SETTINGS`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Settings {
    /// Cookie of the node's network namespace (`SO_NETNS_COOKIE`). 0: unknown; every namespace is then treated
    /// as a pod's.
    pub host_netns_cookie: u64,
    /// Secret of this node, for hashes that senders must not be able to predict.
    pub hash_key: [u32; 2],
    /// Jiffies in a second (`CONFIG_HZ`).
    pub hz: u32,
    /// [`settings_flags`].
    pub flags: u32,
    /// Port ranges for translated sources. Unused ranges are zero and come last.
    pub snat_ports: [PortRange; MAX_SNAT_RANGES],
    /// One of these ranges, the only one for hairpin flows. Their replies come in from pods, so of all packets
    /// from pods, only those to these ports need a lookup in `SNAT_CLAIMS`.
    pub hairpin_ports: PortRange,
    /// Bit of the packet mark that is set on packets translated at ingress and passed to the kernel's stack, so
    /// that netfilter rules can match them (ADR 16); 0: none.
    pub mark: u32,
    /// Seed of the hash that indexes Maglev tables. The same on all nodes of the cluster.
    pub maglev_seed: u32,
    /// Second bit of the packet mark, set on packets from outside to a backend on this node from a Cluster
    /// list, so that netfilter masquerades them (semantics A2, ADR 31). 0: the backend sees the client's
    /// address.
    pub masquerade_mark: u32,
}
const _: () = assert!(size_of::<Settings>() == 56);

impl PortRange {
    /// Number of ports in the range.
    #[inline(always)]
    pub const fn size(self) -> u32 {
        if self.last == 0 || self.last < self.first {
            0
        } else {
            self.last as u32 - self.first as u32 + 1
        }
    }

    /// Whether the port is in the range.
    #[inline(always)]
    pub const fn contains(self, port: u16) -> bool {
        port >= self.first && port <= self.last && self.last != 0
    }
}
