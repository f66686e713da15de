//! What the agent tells all programs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A range of ports, both ends included, host order. `last` 0: none.
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

/// Ranges that source ports may be taken from.
pub const MAX_SNAT_RANGES: usize = 4;

/// Bits of [`Settings::flags`].
pub mod settings_flags {
    /// The socket hooks translate for pods too, not only for the node's own network namespace.
    pub const SOCKETS_PODS_TCP: u32 = 1;
    /// The same, for UDP.
    pub const SOCKETS_PODS_UDP: u32 = 2;
    /// A TCP flow whose backend was deleted ends with its client's next packet.
    pub const END_TCP: u32 = 4;
}

/// The one element of `SETTINGS`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Settings {
    /// Cookie of the node's network namespace (`SO_NETNS_COOKIE`); 0: unknown, every namespace counts as a pod's.
    pub host_netns_cookie: u64,
    /// Secret of the node, for hashes that a sender must not be able to steer.
    pub hash_key: [u32; 2],
    /// Jiffies in a second (`CONFIG_HZ`).
    pub hz: u32,
    /// [`settings_flags`].
    pub flags: u32,
    /// Where source ports are taken from; ranges that are not used are zero, and come last.
    pub snat_ports: [PortRange; MAX_SNAT_RANGES],
    /// One of these ranges, the only one that hairpin flows take their ports from: their replies come in from pods,
    /// whose other traffic then need not be looked up.
    pub hairpin_ports: PortRange,
    /// Bit of the packet mark that is set on what is translated at ingress and handed up, for rules of netfilter to
    /// know it by; 0: none.
    pub mark: u32,
    /// Seed of the hash that chooses in Maglev tables, the same on all nodes of the cluster.
    pub maglev_seed: u32,
    /// Another bit, set besides on what comes from outside to a backend here by a Cluster list, for netfilter to masquerade
    /// (semantics A2); 0: such a backend sees its client.
    pub masquerade_mark: u32,
}
const _: () = assert!(size_of::<Settings>() == 56);

impl PortRange {
    /// How many ports there are.
    #[inline(always)]
    pub const fn size(self) -> u32 {
        if self.last == 0 || self.last < self.first {
            0
        } else {
            self.last as u32 - self.first as u32 + 1
        }
    }

    /// Whether a port is one of them.
    #[inline(always)]
    pub const fn contains(self, port: u16) -> bool {
        port >= self.first && port <= self.last && self.last != 0
    }
}
