//! `--nodeport-addresses` (semantics S4).

use std::net::IpAddr;

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
