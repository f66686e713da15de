//! Addresses and ranges, as the API server lets them pass.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Why a string is no address that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// It is no IP address.
    Syntax,
    /// It is one that no packet may be sent to from elsewhere.
    Special(&'static str),
}

impl std::fmt::Display for AddressError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Syntax => f.write_str("is no IP address"),
            Self::Special(kind) => write!(f, "is {kind}"),
        }
    }
}

/// Reads an address as kube-proxy does (`ParseIPSloppy`): leading zeros of IPv4 parts are decimal, and an
/// IPv4-mapped IPv6 address is the IPv4 one.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    match parse_v4(text) {
        Some(v4) => Some(IpAddr::V4(v4)),
        None => Some(IpAddr::V6(text.parse::<Ipv6Addr>().ok()?).to_canonical()),
    }
}

/// Reads a range; bits below the prefix are cleared. Leading zeros are read as in [`parse_ip`].
pub fn parse_range(text: &str) -> Option<IpNet> {
    let (address, prefix) = text.split_once('/')?;
    if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // A mapped range has its prefix counted in 128 bits: neither family's.
    let address = match parse_v4(address) {
        Some(v4) => IpAddr::V4(v4),
        None => IpAddr::V6(
            address
                .parse()
                .ok()
                .filter(|v6: &Ipv6Addr| v6.to_ipv4_mapped().is_none())?,
        ),
    };
    Some(IpNet::new(address, prefix.parse().ok()?).ok()?.trunc())
}

/// Like [`parse_ip`], but refuses addresses that mean something else than one host to reach.
pub fn parse_host(text: &str) -> Result<IpAddr, AddressError> {
    let ip = parse_ip(text).ok_or(AddressError::Syntax)?;
    let special = if ip.is_unspecified() {
        Some("the unspecified address")
    } else if ip.is_loopback() {
        Some("a loopback address")
    } else if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("a multicast or broadcast address")
    } else {
        None
    };
    special.map_or(Ok(ip), |kind| Err(AddressError::Special(kind)))
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_leading_zeros_are_decimal() {
        assert_eq!(parse_ip("010.000.0.08"), "10.0.0.8".parse().ok());
        assert_eq!(parse_ip("10.0.0.256"), None);
        assert_eq!(parse_ip("10.0.0"), None);
        assert_eq!(parse_ip("10.0.0.1.2"), None);
        assert_eq!(parse_ip("+1.0.0.1"), None);
        assert_eq!(parse_ip(""), None);
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert_eq!(parse_ip("::ffff:10.0.0.1"), "10.0.0.1".parse().ok());
        assert_eq!(parse_ip("fd00::1"), "fd00::1".parse().ok());
        assert_eq!(parse_ip("fe80::1%eth0"), None);
    }

    #[test]
    fn a3_ranges_are_masked_and_strict() {
        assert_eq!(parse_range("10.1.2.3/08"), "10.0.0.0/8".parse().ok());
        assert_eq!(parse_range("fd00::1/64"), "fd00::/64".parse().ok());
        for bad in [
            "10.0.0.1",
            "10.0.0.1/",
            "10.0.0.1/33",
            "10.0.0.1/+8",
            "::ffff:10.0.0.0/104",
            "x/8",
        ] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn special_addresses_are_no_hosts() {
        for bad in [
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(
                matches!(parse_host(bad), Err(AddressError::Special(_))),
                "{bad}"
            );
        }
        assert_eq!(parse_host("nope"), Err(AddressError::Syntax));
        assert!(parse_host("169.254.20.10").is_ok());
    }
}
