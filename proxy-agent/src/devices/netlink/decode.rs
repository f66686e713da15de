//! Messages of rtnetlink as what they mean here.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use proxy_common::addr::Family;

use crate::devices::observed::{Address, DefaultRoute, Link};

/// The ifindex of a link, and the link.
pub(super) fn link(message: &LinkMessage) -> Option<(u32, Link)> {
    let header = &message.header;
    let mut link = Link {
        up: header.flags.contains(LinkFlags::Up),
        loopback: header.flags.contains(LinkFlags::Loopback),
        layer: header.link_layer_type.into(),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(master) => link.master = Some(*master).filter(|&m| m != 0),
            LinkAttribute::Link(other) => link.other = Some(*other).filter(|&other| other != 0),
            // Given only where the other device is in another namespace.
            LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some((header.index, link))
}

/// An address that is in use and not of one link only.
pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    let header = &message.header;
    if !matches!(header.scope, AddressScope::Universe | AddressScope::Site) {
        return None;
    }
    let mut flags = AddressFlags::from_bits_retain(header.flags.bits().into());
    let (mut local, mut ip) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            // Of a point-to-point pair this is the other end.
            AddressAttribute::Address(address) => ip = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let unfinished =
        flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
    if unfinished || flags.contains(AddressFlags::Dadfailed) {
        return None;
    }
    Some(Address {
        ifindex: header.index,
        ip: local.or(ip)?,
        prefix: header.prefix_len,
        secondary: flags.contains(AddressFlags::Secondary),
        deprecated: flags.contains(AddressFlags::Deprecated),
    })
}

/// Whether this is a route of the main table to everywhere.
pub(super) fn is_default(message: &RouteMessage) -> bool {
    message.header.destination_prefix_length == 0 && is_main(message)
}

/// The device and the destination of a route of the main table to a single host that is behind that device itself.
pub(super) fn host_route(message: &RouteMessage) -> Option<(u32, IpAddr)> {
    let (mut device, mut host) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(ifindex) => device = Some(*ifindex),
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => host = Some(IpAddr::V4(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => host = Some(IpAddr::V6(*ip)),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => return None,
            _ => {}
        }
    }
    let host = host?;
    let bits = if host.is_ipv4() { 32 } else { 128 };
    let single = message.header.destination_prefix_length == bits && is_main(message);
    single.then_some((device?, host))
}

fn is_main(message: &RouteMessage) -> bool {
    let header = &message.header;
    let table = message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Table(table) = attribute {
            Some(*table)
        } else {
            None
        }
    });
    header.source_prefix_length == 0
        && header.kind == RouteType::Unicast
        && table.unwrap_or(header.table.into()) == u32::from(RouteHeader::RT_TABLE_MAIN)
}

/// The ways of a default route: one, or those of several next hops; none, if it is another route.
pub(super) fn default_routes(message: &RouteMessage) -> Vec<DefaultRoute> {
    if !is_default(message) {
        return Vec::new();
    }
    let family = match message.header.address_family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return Vec::new(),
    };
    let (mut metric, mut source, mut devices) = (0, None, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => source = Some(IpAddr::V4(*ip)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => source = Some(IpAddr::V6(*ip)),
            RouteAttribute::Oif(ifindex) => devices.push(*ifindex),
            RouteAttribute::MultiPath(hops) => {
                devices.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    let way = |ifindex| DefaultRoute {
        family,
        metric,
        ifindex,
        source,
    };
    devices.into_iter().map(way).collect()
}
