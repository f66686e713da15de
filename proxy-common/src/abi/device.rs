//! Network devices and this node's addresses, as the datapath needs them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::Addr;

/// The class of a device (see docs/adr on device classes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DeviceClass {
    /// Leads to the outside.
    Uplink = 1,
    /// Leads to other nodes' pods, by a tunnel.
    Overlay = 2,
    /// Leads to a pod of this node.
    Pod = 3,
    /// A bridge whose ports are pod-facing: packets are handled at the ports.
    Bridge = 4,
}

/// How packets of a device begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum LinkType {
    /// With an Ethernet header.
    Ethernet = 1,
    /// With the IP header.
    RawIp = 2,
}

/// Bits of [`Device::flags`].
pub mod device_flags {
    /// XDP programs of other devices can send frames out by this one; frames have Ethernet headers.
    pub const XDP_OUT: u32 = 1;
    /// What XDP sends back out of this device must be redirected to it, not returned (`XDP_TX`).
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
    /// MAC address; zero where there is none.
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
    /// Node ports answer on this address (semantics S4).
    pub const NODE_PORT: u32 = 1;
    /// A loopback address of the node: node ports answer to processes of the node's network namespace.
    pub const LOOPBACK: u32 = 2;
}
