//! `--nodeport-addresses` (semantics S4).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::{convert::parse_range, model::service::family_of};

/// On which of this node's addresses node ports answer; on its loopback they do in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// On those in these ranges. A family without a range answers on all, as in kube-proxy.
    Ranges(Vec<IpNet>),
    /// On the first address of each family of the Node object.
    Primary,
}

/// A value that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodePortAddressesError {
    /// Neither a range nor `primary`.
    #[error("{0:?} is neither a range such as 10.0.0.0/8 nor `primary`")]
    Syntax(String),
    /// `primary` among ranges.
    #[error("`primary` can't be combined with ranges")]
    Mixed,
}

impl NodePortAddresses {
    /// Reads the values of the flag.
    pub fn parse(values: &[String]) -> Result<Self, NodePortAddressesError> {
        if values.iter().any(|value| value == "primary") {
            return if values.len() == 1 {
                Ok(Self::Primary)
            } else {
                Err(NodePortAddressesError::Mixed)
            };
        }
        let range = |value: &String| {
            parse_range(value.trim()).ok_or_else(|| NodePortAddressesError::Syntax(value.clone()))
        };
        Ok(Self::Ranges(
            values.iter().map(range).collect::<Result<_, _>>()?,
        ))
    }

    /// Whether node ports answer on an address of this node that is no loopback. `primary` are the first addresses of
    /// the Node object, by family.
    pub fn selects(&self, address: IpAddr, primary: &[IpAddr]) -> bool {
        if address.is_loopback() {
            return false;
        }
        match self {
            Self::Primary => primary.contains(&address),
            Self::Ranges(ranges) => {
                let mut family = ranges
                    .iter()
                    .filter(|range| family_of(range.addr()) == family_of(address))
                    .peekable();
                family.peek().is_none() || family.any(|range| range.contains(&address))
            }
        }
    }

    /// Where to listen for health checks of Services, as kube-proxy does: on the unspecified address of a family where
    /// node ports answer on all addresses of it, else on each of those in `addresses` where they do.
    pub fn listen(&self, addresses: &BTreeSet<IpAddr>, primary: &[IpAddr]) -> BTreeSet<IpAddr> {
        let unspecified = [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ];
        let (all, some): (Vec<_>, Vec<_>) = unspecified
            .into_iter()
            .partition(|any| self.is_all_of(*any));
        let selected = addresses
            .iter()
            .filter(|ip| some.iter().any(|any| family_of(*any) == family_of(**ip)))
            .filter(|ip| self.selects(**ip, primary) && !is_link_local(**ip))
            .copied();
        selected.chain(all).collect()
    }

    /// Why node ports of a family that this node has answer nowhere, if they do.
    pub fn nowhere(&self, addresses: &BTreeSet<IpAddr>, primary: &[IpAddr]) -> Option<String> {
        let usable = |ip: &&IpAddr| !ip.is_loopback() && !is_link_local(**ip);
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
            addresses.iter().filter(usable).partition(|ip| ip.is_ipv4());
        let nowhere = |family: &Vec<IpAddr>| {
            !family.is_empty() && !family.iter().any(|ip| self.selects(*ip, primary))
        };
        let families: Vec<&str> = [(&v4, "IPv4"), (&v6, "IPv6")]
            .into_iter()
            .filter_map(|(family, name)| nowhere(family).then_some(name))
            .collect();
        // A Node object of one family is a cluster of one family.
        if families.is_empty() || (*self == Self::Primary && families.len() == 1) {
            return None;
        }
        Some(format!(
            "--nodeport-addresses selects none of this node's {} addresses: node ports do not answer there",
            families.join(" and ")
        ))
    }

    fn is_all_of(&self, any: IpAddr) -> bool {
        let Self::Ranges(ranges) = self else {
            return false;
        };
        let mut family = ranges
            .iter()
            .filter(|range| family_of(range.addr()) == family_of(any))
            .peekable();
        family.peek().is_none() || family.any(|range| range.prefix_len() == 0)
    }
}

/// Needs a device to be bound to.
const fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: &[&str]) -> Result<NodePortAddresses, NodePortAddressesError> {
        NodePortAddresses::parse(&values.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn s4_all_addresses_by_default_but_the_loopback_is_no_node_address() {
        let all = parse(&[]).unwrap();
        assert!(all.selects(ip("192.0.2.1"), &[]));
        assert!(all.selects(ip("2001:db8::1"), &[]));
        assert!(!all.selects(ip("127.0.0.1"), &[]));
        assert!(!all.selects(ip("::1"), &[]));
    }

    #[test]
    fn s4_ranges_select_within_their_family() {
        let some = parse(&["192.0.2.0/28", "198.51.100.7/32"]).unwrap();
        assert!(some.selects(ip("192.0.2.1"), &[]));
        assert!(some.selects(ip("198.51.100.7"), &[]));
        assert!(!some.selects(ip("192.0.2.16"), &[]));
        assert!(some.selects(ip("2001:db8::1"), &[]));
    }

    #[test]
    fn s4_primary_selects_the_node_objects_first_addresses() {
        let primary = parse(&["primary"]).unwrap();
        assert!(primary.selects(ip("192.0.2.1"), &[ip("192.0.2.1")]));
        assert!(!primary.selects(ip("192.0.2.2"), &[ip("192.0.2.1")]));
    }

    #[test]
    fn h1_health_checks_are_where_node_ports_are() {
        let ips = |texts: &[&str]| texts.iter().map(|text| ip(text)).collect::<BTreeSet<_>>();
        let mine = ips(&["192.0.2.1", "198.51.100.1", "2001:db8::1", "fe80::1"]);
        let listen = |values: &[&str], primary: &[&str]| {
            let primary: Vec<_> = primary.iter().map(|text| ip(text)).collect();
            parse(values).unwrap().listen(&mine, &primary)
        };
        assert_eq!(listen(&[], &[]), ips(&["0.0.0.0", "::"]));
        assert_eq!(
            listen(&["192.0.2.0/24"], &[]),
            ips(&["192.0.2.1", "::"]),
            "a family without a range answers on all"
        );
        assert_eq!(
            listen(
                &["0.0.0.0/0", "192.0.2.0/24", "2001:db8::/32", "fe80::/10"],
                &[]
            ),
            ips(&["0.0.0.0", "2001:db8::1"])
        );
        assert_eq!(
            listen(&["primary"], &["198.51.100.1", "2001:db8::9"]),
            ips(&["198.51.100.1"]),
            "what is not this node's (yet) can't be listened on"
        );
        assert!(listen(&["203.0.113.0/24", "2001:db8:1::/48"], &[]).is_empty());
    }

    #[test]
    fn node_ports_that_answer_nowhere_are_told() {
        let ips = |texts: &[&str]| texts.iter().map(|text| ip(text)).collect::<BTreeSet<_>>();
        let nowhere = |values: &[&str], mine: &[&str], primary: &[&str]| {
            let primary: Vec<_> = primary.iter().map(|text| ip(text)).collect();
            parse(values).unwrap().nowhere(&ips(mine), &primary)
        };
        let both = ["192.0.2.1", "2001:db8::1", "fe80::1", "127.0.0.1"];
        assert_eq!(nowhere(&[], &both, &[]), None);
        assert_eq!(nowhere(&["192.0.2.0/24", "10.0.0.0/8"], &both, &[]), None);
        let told = nowhere(&["10.0.0.0/8"], &both, &[]).unwrap();
        assert!(told.contains("IPv4") && !told.contains("IPv6"), "{told}");
        let told = nowhere(&["10.0.0.0/8", "fd00::/8"], &both, &[]).unwrap();
        assert!(told.contains("IPv4 and IPv6"), "{told}");
        // A range of a family that the node does not have.
        let v4 = ["192.0.2.1", "fe80::1"];
        assert_eq!(nowhere(&["192.0.2.0/24", "fd00::/8"], &v4, &[]), None);
        assert_eq!(nowhere(&["primary"], &both, &["192.0.2.1"]), None);
        assert!(nowhere(&["primary"], &both, &["192.0.2.9"]).is_some());
    }

    #[test]
    fn bad_values_are_refused() {
        assert_eq!(
            parse(&["10.0.0.1"]),
            Err(NodePortAddressesError::Syntax("10.0.0.1".to_owned()))
        );
        assert_eq!(
            parse(&["primary", "10.0.0.0/8"]),
            Err(NodePortAddressesError::Mixed)
        );
    }
}
