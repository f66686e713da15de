//! What of the node's network the classification depends on, and nothing that changes more often.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use proxy_common::addr::Family;

use crate::model::service::family_of;

/// Links, addresses and default routes of one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// By ifindex.
    pub links: BTreeMap<u32, Link>,
    /// Addresses of scope global or site that are in use, by ifindex; those of a device in the kernel's order.
    pub addresses: Vec<Address>,
    /// Unicast routes of the main table to everywhere, best first.
    pub default_routes: BTreeSet<DefaultRoute>,
    /// Devices, by ifindex, with an address in whose subnet a single host has a route of its own in the main table, by
    /// that device and without a gateway.
    pub host_routes: BTreeSet<u32>,
}

impl Observed {
    /// The addresses of a device, in the kernel's order.
    pub fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = &Address> {
        self.addresses
            .iter()
            .filter(move |address| address.ifindex == ifindex)
    }

    /// Whether a default route leaves by a device.
    pub fn is_default(&self, ifindex: u32) -> bool {
        self.default_routes
            .iter()
            .any(|route| route.ifindex == ifindex)
    }

    /// The ports of a bridge, up or not (also those of a bond or another master).
    pub fn ports_of(&self, master: u32) -> impl Iterator<Item = (u32, &Link)> {
        self.links
            .iter()
            .filter(move |(_, link)| link.master == Some(master))
            .map(|(&ifindex, link)| (ifindex, link))
    }
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Name.
    pub name: String,
    /// `IFLA_INFO_KIND`, as in `ip link add type …`; empty for hardware and the loopback.
    pub kind: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is the loopback.
    pub loopback: bool,
    /// Link layer: an `ARPHRD_*` number.
    pub layer: u16,
    /// MAC address, where the link layer has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes, without the Ethernet header.
    pub mtu: u32,
    /// ifindex of the bridge, bond, … that this is a port of.
    pub master: Option<u32>,
    /// `IFLA_LINK`: ifindex of the other end of a pair; of any other kind, of the device that this one sends by (the parent
    /// of a VLAN or macvlan, the underlay of a tunnel). A number of another namespace, if `peer_elsewhere`.
    pub other: Option<u32>,
    /// Whether that device is in another network namespace.
    pub peer_elsewhere: bool,
}

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Device.
    pub ifindex: u32,
    /// Address; of a point-to-point pair the near one.
    pub ip: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// IPv4: another address of the same prefix came first. IPv6: a temporary address (RFC 8981).
    pub secondary: bool,
    /// Valid, but not for new connections (RFC 4862 §5.5.4).
    pub deprecated: bool,
}

impl Address {
    /// Whether its prefix holds another address.
    pub fn holds(&self, other: IpAddr) -> bool {
        IpNet::new(self.ip, self.prefix).is_ok_and(|net| net.contains(&other))
    }

    /// Whether its prefix holds no other address.
    pub const fn is_single_host(&self) -> bool {
        match self.ip {
            IpAddr::V4(_) => self.prefix >= 32,
            IpAddr::V6(_) => self.prefix >= 128,
        }
    }

    /// Its family.
    pub fn family(&self) -> Family {
        family_of(self.ip)
    }
}

/// A way of a default route. The order is by preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DefaultRoute {
    /// Family.
    pub family: Family,
    /// Metric; less is better.
    pub metric: u32,
    /// Device it leaves by.
    pub ifindex: u32,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}
