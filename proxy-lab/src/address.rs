//! The address plan. All labs use the same addresses, since each has its own namespaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl Pair {
    /// The address of a family.
    pub fn of(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// The control plane's last octet in the LAN; the nodes follow.
const CONTROL_PLANE: u8 = 10;
/// The workstation's last octet in the LAN.
const WORKSTATION: u8 = 100;
/// The first pod's last octet in its node's range.
const FIRST_POD: u8 = 10;

/// Most nodes, the control plane counted.
pub const MOST_NODES: u8 = 80;
/// Most pods on a node.
pub const MOST_PODS: u8 = 200;

/// Addresses of Services.
pub const CLUSTER_IPS: (&str, &str) = ("10.96.0.0/16", "fd00:10:96::/112");
/// LoadBalancer IPs, which the workstation routes to a node.
pub const LOAD_BALANCERS: (&str, &str) = ("203.0.113.0/24", "2001:db8:113::/64");
/// External IPs, which the workstation routes to a node.
pub const EXTERNAL_IPS: (&str, &str) = ("198.51.100.0/24", "2001:db8:51::/64");

/// An address in the LAN, 172.30.0.0/24 and `fd00:30::/64`. The decimal digits are the same in both families.
fn lan(host: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(172, 30, 0, host),
        v6: Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, digits(host)),
    }
}

/// Node 0 is the control plane, workers count from 1.
pub fn node(index: u8) -> Pair {
    lan(CONTROL_PLANE + index)
}

/// The outside client.
pub fn workstation() -> Pair {
    lan(WORKSTATION)
}

/// A node's pods: 10.244.NODE.0/24 and `fd00:10:244:NODE::/64`.
pub fn pod_ranges(node: u8) -> (String, String) {
    (
        format!("10.244.{node}.0/24"),
        format!("fd00:10:244:{:x}::/64", digits(node)),
    )
}

/// Its first address, which the node has.
pub fn gateway(node: u8) -> Pair {
    in_pod_range(node, 1)
}

/// The address of a node's overlay device: the range's network address, as in flannel.
pub fn overlay(node: u8) -> Pair {
    in_pod_range(node, 0)
}

/// Pods count from 0 on each node.
pub fn pod(node: u8, index: u8) -> Pair {
    in_pod_range(node, FIRST_POD + index)
}

/// The number of the pod with these addresses on its node.
pub(crate) fn pod_number(addresses: Pair) -> u8 {
    addresses.v4.octets()[3].saturating_sub(FIRST_POD)
}

fn in_pod_range(node: u8, host: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(10, 244, node, host),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, digits(node), 0, 0, 0, digits(host)),
    }
}

/// The `index`th ClusterIP, counted from 1: 10.96.x.y and the like in `fd00:10:96::/112`.
pub fn cluster_ip(index: u16) -> Pair {
    let [high, low] = index.to_be_bytes();
    Pair {
        v4: Ipv4Addr::new(10, 96, high, low),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, index),
    }
}

/// The `index`th LoadBalancer IP, in [`LOAD_BALANCERS`].
pub fn load_balancer(index: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(203, 0, 113, index),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, digits(index)),
    }
}

/// The `index`th external IP, in [`EXTERNAL_IPS`].
pub fn external_ip(index: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(198, 51, 100, index),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, digits(index)),
    }
}

/// The IPv6 group whose hexadecimal digits look like the decimal number: 10 → 0x10.
fn digits(number: u8) -> u16 {
    let number = u16::from(number);
    (number / 100) << 8 | (number / 10 % 10) << 4 | (number % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_read_alike() {
        assert_eq!(node(1).v4.to_string(), "172.30.0.11");
        assert_eq!(node(1).v6.to_string(), "fd00:30::11");
        assert_eq!(pod(12, 0).v4.to_string(), "10.244.12.10");
        assert_eq!(pod(12, 0).v6.to_string(), "fd00:10:244:12::10");
        assert_eq!(pod_ranges(12).1, "fd00:10:244:12::/64");
        assert_eq!(pod_number(pod(12, 7)), 7);
        assert_eq!(load_balancer(10).v6.to_string(), "2001:db8:113::10");
        assert_eq!(workstation().v6.to_string(), "fd00:30::100");
    }
}
