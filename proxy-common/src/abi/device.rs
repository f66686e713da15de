//! Network devices and addresses of this node.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::Addr;

/// The class of a device (ADR 11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DeviceClass {
    /// Leads out of the node.
    Uplink = 1,
    /// A tunnel to the pods of other nodes.
    Overlay = 2,
    /// Leads to a pod of this node.
    Pod = 3,
    /// A bridge whose ports lead to pods. The programs run on the ports, not on the bridge.
    Bridge = 4,
}

/// Which header a device's packets start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum LinkType {
    /// The Ethernet header.
    Ethernet = 1,
    /// The IP header.
    RawIp = 2,
}

/// Bits of [`Device::flags`].
pub mod device_flags {
    /// XDP programs on other devices can redirect frames to this device, which has Ethernet headers.
    pub const XDP_OUT: u32 = 1;
    /// XDP must redirect frames that go back out of this device. With `XDP_TX` they would stay in a queue: a
    /// veth whose peer has GRO on but no XDP program (ADR 22).
    pub const XDP_NO_TX: u32 = 2;
}

/// Value of `DEVICES`, by ifindex.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Device {
    /// [`DeviceClass`] as a number.
    pub class: u8,
    /// [`LinkType`] as a number.
    pub link: u8,
    /// MAC address; zero if the device has none.
    pub mac: [u8; 6],
    /// MTU in bytes, without the Ethernet header.
    pub mtu: u32,
    /// ifindex of the bridge that this device is a port of; 0: none.
    pub bridge: u32,
    /// [`device_flags`].
    pub flags: u32,
    /// Source address for IPv4 packets masqueraded out of this device; unspecified: none.
    pub snat_v4: Addr,
    /// Source address for IPv6 packets masqueraded out of this device; unspecified: none.
    pub snat_v6: Addr,
}
const _: () = assert!(size_of::<Device>() == 52);

/// Bits of the values of `NODE_ADDRS`.
pub mod node_addr {
    /// Node ports are served on this address (semantics S4).
    pub const NODE_PORT: u32 = 1;
    /// A loopback address: node ports are served only to processes in the node's own network namespace.
    pub const LOOPBACK: u32 = 2;
}
