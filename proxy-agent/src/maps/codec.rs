//! Between the types of a plan and what stands in the maps.

use std::net::IpAddr;

use ipnet::IpNet;
use proxy_common::{
    abi::{
        frontend::FrontendKey,
        meta::{List, NAME_LEN, Name, TargetMeta},
        target::RangeKey,
    },
    addr::{Addr, Family},
};

use crate::plan::{FrontendAddress, FrontendPlan, Protocol, ServiceName, TargetKey};

/// A protocol by its IANA number.
pub const fn protocol(number: u8) -> Option<Protocol> {
    use proxy_common::abi::protocol::{SCTP, TCP, UDP};
    match number {
        TCP => Some(Protocol::Tcp),
        UDP => Some(Protocol::Udp),
        SCTP => Some(Protocol::Sctp),
        _ => None,
    }
}

/// Key of a frontend in `FRONTENDS`.
pub fn frontend_key(frontend: &FrontendPlan) -> FrontendKey {
    FrontendKey {
        addr: match frontend.address {
            FrontendAddress::Ip(ip) => Addr::from(ip),
            FrontendAddress::Node(family) => Addr::unspecified(family),
        },
        port: frontend.port.into(),
        protocol: frontend.protocol as u8,
        scope: frontend.scope as u8,
    }
}

/// A text padded with zeros; `None` if it is too long.
fn padded<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    bytes
        .get_mut(..text.len())?
        .copy_from_slice(text.as_bytes());
    Some(bytes)
}

/// The text before the padding; `None` if it is not UTF-8.
fn unpadded(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).ok()
}

/// Element of `META_NAMES`; `None` if the name is too long.
pub fn name(text: &str) -> Option<Name> {
    padded::<NAME_LEN>(text).map(Name)
}

/// Text of an element of `META_NAMES`.
pub fn name_text(name: &Name) -> Option<&str> {
    unpadded(&name.0)
}

/// Element of `META_TARGETS`; `None` if a name is too long.
pub fn target_meta(service: &ServiceName, key: &TargetKey) -> Option<TargetMeta> {
    Some(TargetMeta {
        service: padded(&service.to_string())?,
        port_name: padded(&key.port_name)?,
        protocol: key.protocol as u8,
        family: key.family as u8,
        list: key.list as u8,
        pad: 0,
    })
}

/// Identity of a target from its element of `META_TARGETS`; `None` if that is not one.
pub fn target_identity(meta: &TargetMeta) -> Option<(ServiceName, TargetKey)> {
    let (namespace, name) = unpadded(&meta.service)?.split_once('/')?;
    let family = match meta.family {
        4 => Family::V4,
        6 => Family::V6,
        _ => return None,
    };
    let list = match meta.list {
        0 => List::Cluster,
        1 => List::Local,
        _ => return None,
    };
    let key = TargetKey {
        port_name: unpadded(&meta.port_name)?.to_owned(),
        protocol: protocol(meta.protocol)?,
        family,
        list,
    };
    let service = ServiceName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    Some((service, key))
}

/// Bits of a key's prefix before those of the address itself.
const fn prefix_base(family: Family) -> u32 {
    RangeKey::SET_BITS
        + match family {
            Family::V4 => 96,
            Family::V6 => 0,
        }
}

/// Key of one range of a set.
pub fn range_key(set: u32, range: &IpNet) -> RangeKey {
    let addr = Addr::from(range.network());
    RangeKey {
        prefix_len: prefix_base(addr.family()) + u32::from(range.prefix_len()),
        set,
        addr,
    }
}

/// The range of a key; `None` if it is not one.
pub fn range(key: &RangeKey) -> Option<IpNet> {
    let ip: IpAddr = key.addr.to_ip();
    let bits = key.prefix_len.checked_sub(prefix_base(key.addr.family()))?;
    IpNet::new(ip, u8::try_from(bits).ok()?).ok()
}

/// Ranges as a set holds them: without host bits, sorted, each once.
pub fn canonical_ranges(ranges: &[IpNet]) -> Vec<IpNet> {
    let mut ranges: Vec<IpNet> = ranges.iter().map(IpNet::trunc).collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_told_by_its_meta() {
        let service = ServiceName {
            namespace: "shop".into(),
            name: "web".into(),
        };
        let key = TargetKey {
            port_name: "http".into(),
            protocol: Protocol::Udp,
            family: Family::V6,
            list: List::Local,
        };
        let meta = target_meta(&service, &key).unwrap();
        assert_eq!(target_identity(&meta), Some((service, key)));
    }

    #[test]
    fn names_that_are_too_long_are_refused() {
        let key = TargetKey {
            port_name: "p".repeat(65),
            protocol: Protocol::Tcp,
            family: Family::V4,
            list: List::Cluster,
        };
        let service = ServiceName {
            namespace: "a".into(),
            name: "b".into(),
        };
        assert_eq!(target_meta(&service, &key), None);
        assert_eq!(name(&"n".repeat(257)), None);
        assert_eq!(
            name_text(&name(&"n".repeat(256)).unwrap()),
            Some("n".repeat(256).as_str())
        );
    }

    #[test]
    fn ranges_come_back_from_their_keys() {
        for text in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "192.0.2.7/32",
            "2001:db8::/32",
            "::/0",
        ] {
            let range_in: IpNet = text.parse().unwrap();
            assert_eq!(range(&range_key(7, &range_in)), Some(range_in), "{text}");
        }
    }

    #[test]
    fn ranges_lose_host_bits_and_duplicates() {
        let ranges: Vec<IpNet> = ["10.9.0.0/8", "10.0.0.0/8", "9.0.0.0/8"]
            .iter()
            .map(|r| r.parse().unwrap())
            .collect();
        let canonical = canonical_ranges(&ranges);
        assert_eq!(
            canonical,
            ["9.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]
        );
    }
}
