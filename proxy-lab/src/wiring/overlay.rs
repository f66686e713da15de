//! What carries packets to other nodes' pods, where that is not the LAN's own routing.

use super::{LAN_DEVICE, Script};
use crate::address;
use crate::spec::Overlay;

/// Port of a tun overlay's datagrams, `WireGuard`'s.
pub(crate) const TUNNEL_PORT: u16 = 51_820;

/// In a node: the overlay's device, its address and the ways over it. For `ip`, then for `bridge`.
pub(crate) fn overlay(overlay: Overlay, node: u8, peers: &[u8]) -> (Script, Script) {
    let (mut links, mut forwarding) = (Script::default(), Script::default());
    let (Some(device), Some(mtu)) = (overlay.device(), overlay.mtu()) else {
        return (links, forwarding);
    };
    let own = address::overlay(node);
    if overlay == Overlay::Vxlan {
        links.line(format_args!(
            "link add {device} address {} mtu {mtu} type vxlan id 1 dev {LAN_DEVICE} local {} dstport 8472 nolearning",
            mac(node),
            address::node(node).v4
        ));
    } else {
        links.line(format_args!("tuntap add {device} mode tun"));
        links.line(format_args!("link set {device} mtu {mtu}"));
    }
    links.addresses(device, own, (32, 128));
    links.line(format_args!("link set {device} up"));
    for &peer in peers {
        let (v4, v6) = address::pod_ranges(peer);
        let there = address::overlay(peer);
        if overlay == Overlay::Vxlan {
            let mac = mac(peer);
            for ip in [there.v4.to_string(), there.v6.to_string()] {
                links.line(format_args!(
                    "neigh add {ip} lladdr {mac} dev {device} nud permanent"
                ));
            }
            links.line(format_args!(
                "route add {v4} via {} dev {device} onlink",
                there.v4
            ));
            links.line(format_args!(
                "route add {v6} via {} dev {device} onlink",
                there.v6
            ));
            forwarding.line(format_args!(
                "fdb append {mac} dev {device} dst {} self permanent",
                address::node(peer).v4
            ));
        } else {
            links.line(format_args!("route add {v4} dev {device}"));
            links.line(format_args!("route add {v6} dev {device}"));
        }
    }
    (links, forwarding)
}

/// The MAC address of a node's vxlan device.
fn mac(node: u8) -> String {
    format!("02:00:00:00:f1:{node:02x}")
}
