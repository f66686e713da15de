//! A simulated node whose hooks translate all sockets, and calls from its processes and pods.

use std::net::IpAddr;

use proxy_common::{
    abi::{
        device::node_addr,
        protocol::{TCP, UDP},
        settings::settings_flags::{SOCKETS_PODS_TCP, SOCKETS_PODS_UDP},
    },
    addr::{Addr, Family},
    host::{Service, World},
    socket::{self, Decision, Socket},
};

/// Cookies of the network namespaces of the node and of a pod.
pub const HOST: u64 = 1;
pub const POD: u64 = 7;

pub struct Names {
    pub family: Family,
    pub cluster_ip: &'static str,
    pub other_cluster_ip: &'static str,
    pub node: &'static str,
    pub quiet_node: &'static str,
    pub loopback: &'static str,
    pub unspecified: &'static str,
    pub backends: [&'static str; 2],
    pub elsewhere: &'static str,
}

pub static BOTH: [Names; 2] = [
    Names {
        family: Family::V4,
        cluster_ip: "10.96.0.1",
        other_cluster_ip: "10.96.0.2",
        node: "192.0.2.10",
        quiet_node: "192.0.2.11",
        loopback: "127.0.0.1",
        unspecified: "0.0.0.0",
        backends: ["10.0.1.7", "10.0.1.8"],
        elsewhere: "198.51.100.1",
    },
    Names {
        family: Family::V6,
        cluster_ip: "fd96::1",
        other_cluster_ip: "fd96::2",
        node: "2001:db8::10",
        quiet_node: "2001:db8::11",
        loopback: "::1",
        unspecified: "::",
        backends: ["fd00:1::7", "fd00:1::8"],
        elsewhere: "2001:db8:f::1",
    },
];

pub fn addr(address: &str) -> Addr {
    Addr::from(address.parse::<IpAddr>().expect("an address"))
}

pub fn at(address: &str, port: u16) -> String {
    let ip: IpAddr = address.parse().expect("an address");
    std::net::SocketAddr::new(ip, port).to_string()
}

/// A node whose hooks translate its own sockets and its pods'.
pub fn node(names: &Names) -> World {
    let world = World::default();
    world.configure(|settings| {
        settings.host_netns_cookie = HOST;
        settings.flags = SOCKETS_PODS_TCP | SOCKETS_PODS_UDP;
    });
    world.node_addrs.put(addr(names.node), node_addr::NODE_PORT);
    world.node_addrs.put(addr(names.quiet_node), 0);
    world
        .node_addrs
        .put(addr(names.loopback), node_addr::LOOPBACK);
    world
}

pub fn service(names: &Names, protocol: u8) -> Service {
    names
        .backends
        .iter()
        .fold(Service::new(protocol), |service, backend| {
            service.backend(&at(backend, 8080))
        })
}

pub fn to(netns: u64, protocol: u8, address: &str, port: u16) -> Socket {
    Socket {
        cookie: 42,
        netns,
        protocol,
        addr: addr(address),
        port: port.into(),
    }
}

pub fn connect(world: &World, socket: &Socket) -> Decision {
    socket::connect(&mut &*world, socket)
}

pub fn send(world: &World, socket: &Socket) -> Decision {
    socket::send(&mut &*world, socket)
}

pub fn report(world: &World, socket: &Socket) -> Decision {
    socket::report(&mut &*world, socket)
}

pub fn instead(address: &str, port: u16) -> Decision {
    Decision::Use {
        addr: addr(address),
        port: port.into(),
    }
}

/// The socket with the address from a decision.
pub fn at_peer(socket: &Socket, decision: Decision) -> Socket {
    match decision {
        Decision::Use { addr, port } => Socket {
            addr,
            port,
            ..*socket
        },
        other => panic!("not translated: {other:?}"),
    }
}

/// A hook function: `connect` for TCP and UDP, `send` for UDP.
pub type Call = fn(&World, &Socket) -> Decision;

/// Runs a test for every family, protocol and call.
pub fn for_each_call(test: impl Fn(&Names, u8, Call)) {
    for names in &BOTH {
        test(names, TCP, connect);
        test(names, UDP, connect);
        test(names, UDP, send);
    }
}
