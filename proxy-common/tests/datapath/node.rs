//! The simulated node: addresses, devices and routes.

use std::net::IpAddr;

use proxy_common::{
    abi::{
        device::{Device, DeviceClass, LinkType, node_addr},
        settings::PortRange,
    },
    addr::{Addr, Family},
    host::{RouteTable, World},
    tables::Route,
};

/// Leads to clients outside and to other nodes.
pub const UPLINK: u32 = 2;
/// A tunnel to other nodes' pods, without Ethernet headers.
pub const OVERLAY: u32 = 3;
/// Device of pod A.
pub const POD_A: u32 = 11;
/// Device of pod B.
pub const POD_B: u32 = 12;
/// A bridge, and its ports to pods C and D.
pub const BRIDGE: u32 = 20;
pub const POD_C: u32 = 23;
pub const POD_D: u32 = 24;

/// MAC address of the uplink, and default destination of test packets.
pub const MAC_UPLINK: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// MAC address of the router on the uplink, through which clients and other nodes' pods are reached. Other
/// nodes themselves are unresolved neighbours on the uplink.
pub const MAC_ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
/// The MAC address of pod D.
pub const MAC_D: [u8; 6] = [2, 0xd, 0, 0, 0, 4];

/// The only port for translated sources, so that tests can predict it.
pub const SNAT_PORT: u16 = 20_000;
/// The only port for hairpin flows.
pub const HAIRPIN_PORT: u16 = 61_000;

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    pub family: Family,
    pub pod_a: &'static str,
    pub pod_b: &'static str,
    pub pod_c: &'static str,
    pub pod_d: &'static str,
    /// A pod of another node, reached by the uplink.
    pub far_pod: &'static str,
    /// A pod of another node, reached by the overlay.
    pub overlay_pod: &'static str,
    /// This node's address on the uplink.
    pub node: &'static str,
    /// This node's address on the overlay.
    pub overlay_node: &'static str,
    /// An address of this node that does not serve node ports.
    pub quiet_node: &'static str,
    /// Another node's address.
    pub far_node: &'static str,
    /// A client outside the cluster.
    pub client: &'static str,
    pub cluster_ip: &'static str,
    pub other_cluster_ip: &'static str,
    pub load_balancer: &'static str,
    pub external_ip: &'static str,
    /// An address that is none of the above.
    pub elsewhere: &'static str,
}

pub static BOTH: [Names; 2] = [
    Names {
        family: Family::V4,
        pod_a: "10.0.0.11",
        pod_b: "10.0.0.12",
        pod_c: "10.0.0.23",
        pod_d: "10.0.0.24",
        far_pod: "10.0.1.7",
        overlay_pod: "10.0.2.7",
        node: "192.0.2.10",
        overlay_node: "10.0.0.1",
        quiet_node: "192.0.2.11",
        far_node: "192.0.2.20",
        client: "198.51.100.9",
        cluster_ip: "10.96.0.1",
        other_cluster_ip: "10.96.0.2",
        load_balancer: "203.0.113.10",
        external_ip: "203.0.113.20",
        elsewhere: "198.51.100.200",
    },
    Names {
        family: Family::V6,
        pod_a: "fd00::11",
        pod_b: "fd00::12",
        pod_c: "fd00::23",
        pod_d: "fd00::24",
        far_pod: "fd00:1::7",
        overlay_pod: "fd00:2::7",
        node: "2001:db8::10",
        overlay_node: "fd00::1",
        quiet_node: "2001:db8::11",
        far_node: "2001:db8::20",
        client: "2001:db8:f::9",
        cluster_ip: "fd96::1",
        other_cluster_ip: "fd96::2",
        load_balancer: "2001:db8:b::10",
        external_ip: "2001:db8:b::20",
        elsewhere: "2001:db8:f::200",
    },
];

/// `address:port`, bracketed for IPv6.
pub fn at(address: &str, port: u16) -> String {
    let ip: IpAddr = address.parse().expect("an address");
    std::net::SocketAddr::new(ip, port).to_string()
}

/// The address part of `address:port`.
pub fn host(at: &str) -> String {
    let at: std::net::SocketAddr = at.parse().expect("an address and port");
    at.ip().to_string()
}

pub fn addr(address: &str) -> Addr {
    Addr::from(address.parse::<IpAddr>().expect("an address"))
}

/// The link type of a device.
pub fn link(ifindex: u32) -> LinkType {
    if ifindex == OVERLAY {
        LinkType::RawIp
    } else {
        LinkType::Ethernet
    }
}

/// A node with these addresses and without Services.
pub fn node(names: &Names) -> World {
    let world = World::default();
    let range = |port| PortRange {
        first: port,
        last: port,
    };
    world.configure(|settings| {
        settings.snat_ports = [range(SNAT_PORT), range(0), range(0), range(0)];
        settings.hairpin_ports = range(HAIRPIN_PORT);
    });
    world.node_addrs.put(addr(names.node), node_addr::NODE_PORT);
    world.node_addrs.put(addr(names.quiet_node), 0);

    device(
        &world,
        UPLINK,
        DeviceClass::Uplink,
        1500,
        0,
        Some(names.node),
    );
    let overlay_node = Some(names.overlay_node);
    device(&world, OVERLAY, DeviceClass::Overlay, 1450, 0, overlay_node);
    device(&world, BRIDGE, DeviceClass::Bridge, 1500, 0, overlay_node);
    for pod in [POD_A, POD_B] {
        device(&world, pod, DeviceClass::Pod, 1500, 0, None);
    }
    for pod in [POD_C, POD_D] {
        device(&world, pod, DeviceClass::Pod, 1500, BRIDGE, None);
    }

    let (host, subnet, wide) = match names.family {
        Family::V4 => (32, 24, 8),
        Family::V6 => (128, 32, 16),
    };
    let by = |ifindex| Route::Device { ifindex };
    let by_router = Route::Neighbour {
        ifindex: UPLINK,
        mac: MAC_ROUTER,
    };
    let known = Route::Neighbour {
        ifindex: BRIDGE,
        mac: MAC_D,
    };
    let routes = RouteTable::default()
        .with(addr(names.pod_a), host, by(POD_A))
        .with(addr(names.pod_b), host, by(POD_B))
        .with(addr(names.pod_c), host, by(BRIDGE))
        .with(addr(names.pod_d), host, known)
        .with(addr(names.far_pod), subnet, by_router)
        .with(addr(names.overlay_pod), subnet, by(OVERLAY))
        .with(addr(names.far_node), subnet, by(UPLINK))
        .with(addr(names.client), subnet, by_router)
        .with(addr(names.load_balancer), wide, by(UPLINK));
    world.set_route_table(routes);
    world
}

fn device(
    world: &World,
    ifindex: u32,
    class: DeviceClass,
    mtu: u32,
    bridge: u32,
    snat: Option<&str>,
) {
    let mut device = Device {
        class: class as u8,
        link: link(ifindex) as u8,
        mac: if ifindex == UPLINK {
            MAC_UPLINK
        } else {
            [2, 0, 0, 0, 1, ifindex as u8]
        },
        mtu,
        bridge,
        flags: 0,
        snat_v4: Addr::UNSPECIFIED_V4,
        snat_v6: Addr::UNSPECIFIED_V6,
    };
    match snat.map(addr) {
        Some(snat) if snat.is_v4() => device.snat_v4 = snat,
        Some(snat) => device.snat_v6 = snat,
        None => {}
    }
    world.devices.put(ifindex, device);
}
