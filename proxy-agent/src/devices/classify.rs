//! Which devices there are programs on, and which ones (the rule and its reasons: docs/adr/0011).

mod config;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use proxy_common::abi::device::{Device, DeviceClass, LinkType};

pub use self::config::{DeviceConfig, DeviceConfigError};
use self::source::Sources;
use super::{
    below::below,
    observed::{Address, Link, Observed},
};
use crate::dataplane::attach::{Below, Port};

/// `ARPHRD_RAWIP` and `ARPHRD_IP6GRE` (`linux/if_arp.h`), which libc does not have.
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_IP6GRE: u16 = 823;

/// Why a device that should have programs has none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum DeviceProblem {
    /// Named in `--devices`, but not there.
    #[error("device {0}, named in --devices, does not exist")]
    Missing(String),
    /// Named in `--devices`, but not up.
    #[error("device {0}, named in --devices, is down")]
    Down(String),
    /// Named in `--devices`, but the loopback, where the socket hooks do the work.
    #[error("device {0}, named in --devices, is the loopback, which is never an uplink")]
    Loopback(String),
    /// Packets of this link layer can't be read.
    #[error(
        "device {name} is left out: its link layer (ARPHRD {layer}) is neither Ethernet nor plain IP"
    )]
    LinkLayer {
        /// Device.
        name: String,
        /// `ARPHRD_*`.
        layer: u16,
    },
}

/// The devices that matter, and what is wrong with others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classes {
    /// By ifindex; what `DEVICES` holds and what programs are attached by.
    pub ports: BTreeMap<u32, Port>,
    /// In order, without repetition.
    pub problems: Vec<DeviceProblem>,
}

/// Classifies the devices of a node.
pub fn classify(observed: &Observed, config: &DeviceConfig) -> Classes {
    let mut problems = misnamed(observed, config);
    let mut roles = BTreeMap::new();
    for (&ifindex, link) in &observed.links {
        let Some(role) = role(observed, config, ifindex, link) else {
            continue;
        };
        if let Some(form) = link_type(link.layer) {
            roles.insert(ifindex, (role, form));
        } else {
            problems.push(DeviceProblem::LinkLayer {
                name: link.name.clone(),
                layer: link.layer,
            });
        }
    }
    problems.sort();
    problems.dedup();

    let uplinks = roles
        .iter()
        .filter(|(_, (role, _))| role.class == DeviceClass::Uplink)
        .map(|(&ifindex, _)| ifindex);
    let sources = Sources::new(observed, uplinks.collect());
    let port = |(ifindex, (role, form)): (u32, (Role, LinkType))| {
        let link = observed.links.get(&ifindex)?;
        let (snat_v4, snat_v6) = sources.of(ifindex, role.bridge);
        let device = Device {
            class: role.class as u8,
            link: form as u8,
            mac: link.mac.unwrap_or_default(),
            mtu: link.mtu,
            bridge: role.bridge.unwrap_or_default(),
            flags: 0,
            snat_v4,
            snat_v6,
        };
        let below = match role.class {
            DeviceClass::Uplink => below(observed, ifindex),
            _ => Below::default(),
        };
        let port = Port {
            name: link.name.clone(),
            below,
            device,
        };
        Some((ifindex, port))
    };
    Classes {
        ports: roles.into_iter().filter_map(port).collect(),
        problems,
    }
}

/// What a device is for.
struct Role {
    class: DeviceClass,
    /// ifindex of the bridge that a pod-facing device is a port of.
    bridge: Option<u32>,
}

impl Role {
    const fn of(class: DeviceClass) -> Self {
        Self {
            class,
            bridge: None,
        }
    }
}

fn role(observed: &Observed, config: &DeviceConfig, ifindex: u32, link: &Link) -> Option<Role> {
    if link.loopback || !link.up {
        return None;
    }
    if config.names(link) {
        return Some(Role::of(DeviceClass::Uplink));
    }
    let master = link
        .master
        .and_then(|master| Some((master, observed.links.get(&master)?)));
    if let Some((ifindex, master)) = master {
        match master.kind.as_str() {
            "bridge" => {
                return leads_to_pods(observed, config, ifindex, master).then_some(Role {
                    class: DeviceClass::Pod,
                    bridge: Some(ifindex),
                });
            }
            "bond" | "team" => return None,
            // Of a VRF the members have the addresses, and Open vSwitch's ports are as good as alone.
            _ => {}
        }
    }
    let leads_out = observed.is_default(ifindex);
    let mut addresses = observed.addresses_of(ifindex);
    let uplink = if may_face_pods(link) {
        let subnet = addresses.any(|address| !address.is_single_host());
        leads_out || subnet && !is_gateway_of_pods(observed, ifindex)
    } else {
        leads_out || addresses.next().is_some()
    };
    let class = match link.kind.as_str() {
        "bridge" if leads_to_pods(observed, config, ifindex, link) => DeviceClass::Bridge,
        "vrf" => return None,
        _ if is_tunnel(link) => DeviceClass::Overlay,
        _ if uplink && config.is_auto() => DeviceClass::Uplink,
        _ if uplink => return None,
        _ if may_face_pods(link) => DeviceClass::Pod,
        _ => return None,
    };
    Some(Role::of(class))
}

/// Whether a pair or tap with a subnet leads to one pod of those that the subnet is of: another has the same address,
/// or a single host of the subnet has a route by it. An uplink has neither; a network of such veths needs the routes.
fn is_gateway_of_pods(observed: &Observed, ifindex: u32) -> bool {
    let elsewhere = |address: &Address| {
        let others = observed.addresses.iter();
        others
            .filter(|other| other.ifindex != ifindex && other.ip == address.ip)
            .any(|other| {
                observed
                    .links
                    .get(&other.ifindex)
                    .is_some_and(may_face_pods)
            })
    };
    let mut subnets = observed
        .addresses_of(ifindex)
        .filter(|address| !address.is_single_host());
    observed.host_routes.contains(&ifindex) || subnets.any(elsewhere)
}

/// Whether a bridge has ports to pods only. One without ports (yet) has nothing to say to the outside either; one that
/// a default route leaves by, or that is named an uplink, leads there, whatever its ports look like.
fn leads_to_pods(observed: &Observed, config: &DeviceConfig, ifindex: u32, bridge: &Link) -> bool {
    !config.names(bridge)
        && !observed.is_default(ifindex)
        && observed
            .ports_of(ifindex)
            .all(|(_, port)| (is_pair(port) || is_tap(port)) && !config.names(port))
}

pub(super) fn is_pair(link: &Link) -> bool {
    matches!(link.kind.as_str(), "veth" | "netkit")
}

fn is_tap(link: &Link) -> bool {
    link.kind == "tun" && link.layer == libc::ARPHRD_ETHER
}

fn may_face_pods(link: &Link) -> bool {
    (is_pair(link) && link.peer_elsewhere) || is_tap(link)
}

fn is_tunnel(link: &Link) -> bool {
    let by_kind = matches!(
        link.kind.as_str(),
        "vxlan"
            | "geneve"
            | "wireguard"
            | "ipip"
            | "ip6tnl"
            | "sit"
            | "gre"
            | "gretap"
            | "ip6gre"
            | "ip6gretap"
            | "erspan"
            | "ip6erspan"
            | "vti"
            | "vti6"
            | "xfrm"
            | "bareudp"
    );
    by_kind || (link.layer == libc::ARPHRD_NONE && !is_pair(link))
}

/// How packets of a link layer begin at tc, as the kernel's `dev_is_mac_header_xmit()` has it.
fn link_type(layer: u16) -> Option<LinkType> {
    match layer {
        libc::ARPHRD_ETHER => Some(LinkType::Ethernet),
        libc::ARPHRD_NONE
        | ARPHRD_RAWIP
        | libc::ARPHRD_TUNNEL
        | libc::ARPHRD_TUNNEL6
        | libc::ARPHRD_SIT
        | libc::ARPHRD_IPGRE
        | ARPHRD_IP6GRE
        | libc::ARPHRD_PPP => Some(LinkType::RawIp),
        _ => None,
    }
}

fn misnamed(observed: &Observed, config: &DeviceConfig) -> Vec<DeviceProblem> {
    let named = config.uplinks.iter().flatten();
    named
        .filter_map(|name| {
            let found = observed.links.values().find(|link| link.name == *name);
            match found {
                None => Some(DeviceProblem::Missing(name.clone())),
                Some(link) if link.loopback => Some(DeviceProblem::Loopback(name.clone())),
                Some(link) if !link.up => Some(DeviceProblem::Down(name.clone())),
                Some(_) => None,
            }
        })
        .collect()
}
