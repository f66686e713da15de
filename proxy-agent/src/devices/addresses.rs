//! This node's addresses: for the datapath (`NODE_ADDRS`) and for the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proxy_common::{abi::device::node_addr, addr::Addr};

use super::observed::Observed;
use crate::config::NodePortAddresses;

/// The addresses, other than loopback ones, of all devices that are up; the loopback's own may hold some too.
pub fn node_addresses(observed: &Observed) -> BTreeSet<IpAddr> {
    observed
        .addresses
        .iter()
        .filter(|address| {
            observed
                .links
                .get(&address.ifindex)
                .is_some_and(|link| link.up)
        })
        .map(|address| address.ip)
        .filter(|ip| !ip.is_loopback())
        .collect()
}

/// What `NODE_ADDRS` holds for these addresses (see [`node_addr`] for the bits). `primary` are the first addresses of
/// the Node object, by family. 127.0.0.1 and `::1` are there for the socket hooks, which tell whose loopback it is.
pub fn node_addrs(
    addresses: &BTreeSet<IpAddr>,
    node_ports: &NodePortAddresses,
    primary: &[IpAddr],
) -> BTreeMap<Addr, u32> {
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let flags = |ip: IpAddr| {
        if node_ports.selects(ip, primary) {
            node_addr::NODE_PORT
        } else {
            0
        }
    };
    addresses
        .iter()
        .map(|&ip| (ip.into(), flags(ip)))
        .chain(loopback.map(|ip| (ip.into(), node_addr::LOOPBACK)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::observed::{Address, Link},
        *,
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn observed() -> Observed {
        let link = |name: &str, up| Link {
            name: name.to_owned(),
            up,
            ..Link::default()
        };
        let address = |ifindex, text: &str, prefix| Address {
            ifindex,
            ip: ip(text),
            prefix,
            secondary: false,
            deprecated: false,
        };
        Observed {
            links: [
                (1, link("lo", true)),
                (2, link("eth0", true)),
                (3, link("eth1", false)),
            ]
            .into(),
            addresses: vec![
                address(1, "127.0.0.1", 8),
                address(1, "10.9.9.9", 32),
                address(1, "::1", 128),
                address(2, "192.0.2.1", 24),
                address(2, "2001:db8::1", 64),
                address(3, "198.51.100.1", 24),
            ],
            ..Observed::default()
        }
    }

    #[test]
    fn the_loopbacks_own_addresses_count_and_those_of_devices_that_are_down_do_not() {
        assert_eq!(
            node_addresses(&observed()),
            [ip("10.9.9.9"), ip("192.0.2.1"), ip("2001:db8::1")].into()
        );
    }

    #[test]
    fn s4_node_ports_answer_where_they_were_told_to() {
        let some = NodePortAddresses::parse(&["192.0.2.0/24".to_owned()]).unwrap();
        let map = node_addrs(&node_addresses(&observed()), &some, &[]);
        let expected = [
            ("10.9.9.9", 0),
            ("192.0.2.1", node_addr::NODE_PORT),
            ("2001:db8::1", node_addr::NODE_PORT),
            ("127.0.0.1", node_addr::LOOPBACK),
            ("::1", node_addr::LOOPBACK),
        ];
        assert_eq!(
            map,
            expected.map(|(text, bits)| (ip(text).into(), bits)).into()
        );
    }

    #[test]
    fn s4_primary_is_what_the_node_object_says_and_never_a_loopback() {
        let primary = [ip("192.0.2.1"), ip("203.0.113.1"), ip("127.0.0.1")];
        let map = node_addrs(
            &node_addresses(&observed()),
            &NodePortAddresses::Primary,
            &primary,
        );
        let expected = [
            ("10.9.9.9", 0),
            ("192.0.2.1", node_addr::NODE_PORT),
            ("2001:db8::1", 0),
            ("127.0.0.1", node_addr::LOOPBACK),
            ("::1", node_addr::LOOPBACK),
        ];
        assert_eq!(
            map,
            expected.map(|(text, bits)| (ip(text).into(), bits)).into()
        );
    }

    #[test]
    fn s4_without_a_range_node_ports_answer_on_all_addresses() {
        let map = node_addrs(
            &node_addresses(&observed()),
            &NodePortAddresses::parse(&[]).unwrap(),
            &[],
        );
        for (addr, bits) in map {
            let expected = if addr.is_loopback() {
                node_addr::LOOPBACK
            } else {
                node_addr::NODE_PORT
            };
            assert_eq!(bits, expected, "{addr}");
        }
    }
}
