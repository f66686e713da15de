//! The world that both sides get.

use std::net::{IpAddr, TcpListener, UdpSocket};

use proxy_agent::dataplane::sys::process;
use proxy_common::{
    abi::{
        device::{Device, DeviceClass, LinkType, device_flags, node_addr},
        frontend::FrontendKind,
        protocol,
        settings::PortRange,
        target::{Algorithm, RangeKey, TargetState},
    },
    addr::{Addr, Family},
    host::{Listener, Placed, RouteTable, Service, Table, World},
    tables::Route,
};

use crate::namespace::{
    BRIDGE, MAC_D, MAC_FAR, MAC_ROUTER, MAC_SECOND, OVERLAY, POD_A, POD_B, POD_C, POD_D, SECOND,
    UPLINK, mac,
};

/// How much room the flow tables have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowding {
    /// That of the object.
    Roomy,
    /// Too little.
    Crowded,
}

impl Crowding {
    /// Capacity of `FLOWS` and `SNAT_CLAIMS`, where it is not the object's.
    pub const fn entries(self) -> Option<u32> {
        match self {
            Self::Roomy => None,
            Self::Crowded => Some(31),
        }
    }
}

/// Who is who, in one family.
pub struct Names {
    pub family: Family,
    pub pods: [(u32, &'static str); 4],
    pub far_pod: &'static str,
    /// A pod behind the second uplink.
    pub second_pod: &'static str,
    pub overlay_pod: &'static str,
    pub far_node: &'static str,
    pub node: &'static str,
    pub quiet_node: &'static str,
    /// Outside, in and out of the ranges that are let in.
    pub clients: [&'static str; 2],
    pub vips: [&'static str; 4],
    pub load_balancers: [&'static str; 2],
    pub unroutable: &'static str,
}

pub static BOTH: [Names; 2] = [
    Names {
        family: Family::V4,
        pods: [
            (POD_A, "10.0.0.11"),
            (POD_B, "10.0.0.12"),
            (POD_C, "10.0.0.23"),
            (POD_D, "10.0.0.24"),
        ],
        far_pod: "10.0.1.7",
        second_pod: "10.0.3.7",
        overlay_pod: "10.0.2.7",
        far_node: "192.0.2.20",
        node: "192.0.2.10",
        quiet_node: "192.0.2.11",
        clients: ["198.51.100.9", "192.0.2.99"],
        vips: ["10.96.0.1", "10.96.0.2", "10.96.0.3", "10.96.0.4"],
        load_balancers: ["203.0.113.10", "203.0.113.11"],
        unroutable: "172.31.0.1",
    },
    Names {
        family: Family::V6,
        pods: [
            (POD_A, "fd00::11"),
            (POD_B, "fd00::12"),
            (POD_C, "fd00::23"),
            (POD_D, "fd00::24"),
        ],
        far_pod: "fd00:1::7",
        second_pod: "fd00:3::7",
        overlay_pod: "fd00:2::7",
        far_node: "2001:db8::20",
        node: "2001:db8::10",
        quiet_node: "2001:db8::11",
        clients: ["2001:db8:f::9", "2001:db8::99"],
        vips: ["fd96::1", "fd96::2", "fd96::3", "fd96::4"],
        load_balancers: ["2001:db8:b::10", "2001:db8:b::11"],
        unroutable: "fc00::1",
    },
];

/// Node ports, and ports of addresses.
pub const NODE_PORTS: [u16; 2] = [30_001, 30_002];
pub const PORTS: [u16; 7] = [80, 81, 82, 83, 84, 443, 8443];
/// Of these, the one at which nobody is.
pub const REFUSING_PORT: u16 = 81;
/// A port of an external IP on the node's own address that a socket of the node listens on, too.
pub const TAKEN_PORT: u16 = 8444;

/// Seconds are long here: in the kernel, time passes while the test runs, and no claim may grow old by itself.
pub const HZ: u32 = 1_000_000;
/// What translated packets are marked with.
pub const MARK: u32 = 0x40;
/// And those besides that netfilter is to masquerade.
pub const MASQUERADE_MARK: u32 = 0x4;

/// For longer than a run takes, and by far not so long that it wraps with ticks as short as these.
const AFFINITY_SECONDS: u32 = 1_000;
/// So long that it does not matter at which moment of a run the clock is read.
const WINDOW_SECONDS: u16 = 64_800;

pub fn at(address: &str, port: u16) -> String {
    let ip: IpAddr = address.parse().expect("an address");
    std::net::SocketAddr::new(ip, port).to_string()
}

pub fn addr(address: &str) -> Addr {
    Addr::from(address.parse::<IpAddr>().expect("an address"))
}

pub const fn link(ifindex: u32) -> LinkType {
    if ifindex == OVERLAY {
        LinkType::RawIp
    } else {
        LinkType::Ethernet
    }
}

/// The world with all its Services; the kernel's maps are filled from it.
pub fn world(crowding: Crowding) -> World {
    let mut world = World::default();
    if let Some(entries) = crowding.entries() {
        world.flows = Table::hash(entries as usize);
        world.snat_claims = Table::hash(entries as usize);
    }
    let world = world;
    world.monotonic.set(monotonic());
    world.configure(|settings| {
        settings.hz = HZ;
        // Few, so that they run out.
        settings.snat_ports = [PortRange::default(); 4];
        settings.snat_ports[0] = range(20_000, 20_005);
        settings.snat_ports[1] = range(40_000, 40_003);
        settings.snat_ports[2] = range(61_000, 61_003);
        settings.hairpin_ports = range(61_000, 61_003);
        settings.mark = MARK;
        settings.masquerade_mark = MASQUERADE_MARK;
    });
    for names in &BOTH {
        world.node_addrs.put(addr(names.node), node_addr::NODE_PORT);
        world.node_addrs.put(addr(names.quiet_node), 0);
        add_services(&world, names, protocol::SCTP);
        for protocol in [protocol::TCP, protocol::UDP] {
            add_services(&world, names, protocol);
            let listener = Listener {
                protocol,
                addr: addr(names.node),
                port: TAKEN_PORT,
            };
            world.listeners.put(listener, ());
        }
    }
    add_devices(&world);
    let table = routes();
    world.set_routes(move |query| {
        // Such IPv6 addresses are never forwarded, nor what comes from them (Linux: `rt6_need_strict`).
        let strict = [query.src, query.dst]
            .into_iter()
            .any(|addr| match addr.to_ip() {
                IpAddr::V6(v6) => {
                    v6.is_multicast() || v6.is_unicast_link_local() || v6.is_loopback()
                }
                IpAddr::V4(_) => false,
            });
        if strict {
            Route::None
        } else {
            table.find(query.dst)
        }
    });
    world
}

/// The clock that both sides tell ages by.
pub fn monotonic() -> u64 {
    process::monotonic().as_nanos() as u64
}

const fn range(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

/// The sockets that the world's listeners stand for.
pub fn listen() -> (Vec<TcpListener>, Vec<UdpSocket>) {
    let at = BOTH.each_ref().map(|names| at(names.node, TAKEN_PORT));
    let tcp = at
        .iter()
        .map(|at| TcpListener::bind(at).expect("a TCP listener"));
    let udp = at
        .iter()
        .map(|at| UdpSocket::bind(at).expect("a UDP socket"));
    (tcp.collect(), udp.collect())
}

fn add_services(world: &World, names: &Names, protocol: u8) {
    use Algorithm::{LeastConnections, Maglev, Random, RoundRobin};
    use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer};
    let service = || Service::new(protocol);
    let [a, b, c, d] = names.pods.map(|(_, pod)| at(pod, 8080));
    let (far, second, overlay) = (
        at(names.far_pod, 8080),
        at(names.second_pod, 8080),
        at(names.overlay_pod, 8080),
    );
    let [one, two, three, four] = names.vips;
    let [lb, other_lb] = names.load_balancers;
    // The same backends behind two, one backend behind two, and pods behind themselves.
    // Each way to choose, with affinity and without, with slow start and (UDP) without.
    let window = if protocol == protocol::UDP {
        0
    } else {
        WINDOW_SECONDS
    };
    for (vip, algorithm, affinity) in [(one, RoundRobin, 0), (two, Random, AFFINITY_SECONDS)] {
        let placed = world.add_service(
            &service()
                .algorithm(algorithm)
                .slow_start(window)
                .affinity(affinity)
                .frontend(ClusterIp, &at(vip, 80))
                .backend(&far)
                .local_backend(&b)
                .backend(&overlay)
                .local_backend(&d),
        );
        begin(world, &placed);
    }
    for vip in [three, two] {
        world.add_service(&service().frontend(ClusterIp, &at(vip, 443)).backend(&far));
    }
    let placed = world.add_service(
        &service()
            .algorithm(LeastConnections)
            .slow_start(window)
            .frontend(ClusterIp, &at(four, 80))
            .local_backend(&a)
            .local_backend(&c)
            .local_backend(&d),
    );
    begin(world, &placed);
    let placed = world.add_service(
        &service()
            .slow_start(window)
            .algorithm(if protocol == protocol::TCP {
                LeastConnections
            } else {
                Maglev
            })
            .frontend(LoadBalancer, &at(lb, 80))
            .frontend(ExternalIp, &at(other_lb, 8443))
            .frontend(ExternalIp, &at(names.node, 8443))
            .frontend(ExternalIp, &at(names.node, TAKEN_PORT))
            .node_port(names.family, NODE_PORTS[0])
            .backend(&far)
            .backend(&second)
            .backend(&at(names.far_node, 9090))
            .local_backend(&b),
    );
    begin(world, &placed);
    world.add_service(
        &service()
            .node_port(names.family, NODE_PORTS[1])
            .local_backend(&at(names.node, 9999)),
    );
    for (vip, state) in [(one, TargetState::Reject), (two, TargetState::Drop)] {
        let port = if state == TargetState::Reject {
            REFUSING_PORT
        } else {
            82
        };
        world.add_service(
            &service()
                .frontend(ClusterIp, &at(vip, port))
                .frontend(LoadBalancer, &at(lb, port))
                .state(state),
        );
    }
    let unroutable = at(names.unroutable, 80);
    world.add_service(
        &service()
            .frontend(LoadBalancer, &at(lb, 83))
            .backend(&unroutable),
    );
    world.add_service(
        &service()
            .frontend(LoadBalancer, &at(lb, 84))
            .backend(&overlay),
    );
    let chosen = world.add_service(
        &service()
            .frontend(LoadBalancer, &at(other_lb, 443))
            .backend(&far),
    );
    // The first of the clients outside is let in, the second is not; of the pods, A is.
    let set = chosen.target;
    let mut target = world.targets.get(set).expect("the target");
    target.ranges = set;
    world.targets.set(set, target);
    for (client, ignored) in [(names.clients[0], 8), (names.pods[0].1, 0)] {
        let mut octets = addr(client).octets();
        if ignored == 8 {
            octets[15] = 0;
        }
        let key = RangeKey {
            prefix_len: RangeKey::SET_BITS + 128 - ignored,
            set,
            addr: Addr::from_octets(octets),
        };
        world.source_ranges.put(key, 1);
    }
}

/// Lets the backends of a Service have begun one after the other, the last of them just now.
fn begin(world: &World, placed: &Placed) {
    let steps = placed.backends.len() as u32 - 1;
    for (n, &id) in (0..).zip(&placed.backends) {
        world.begin(id, u32::from(WINDOW_SECONDS) * (steps - n) / steps);
    }
}

fn add_devices(world: &World) {
    let device = |ifindex, class, mtu, bridge, snat: Option<[&str; 2]>| {
        let [snat_v4, snat_v6] = snat
            .map_or([Addr::UNSPECIFIED_V4, Addr::UNSPECIFIED_V6], |addresses| {
                addresses.map(addr)
            });
        let device = Device {
            class: class as u8,
            link: link(ifindex) as u8,
            mac: mac(ifindex),
            mtu,
            bridge,
            flags: if ifindex == SECOND {
                device_flags::XDP_OUT
            } else {
                0
            },
            snat_v4,
            snat_v6,
        };
        world.devices.put(ifindex, device);
    };
    let [v4, v6] = BOTH.each_ref().map(|names| names.node);
    device(UPLINK, DeviceClass::Uplink, 1500, 0, Some([v4, v6]));
    let second = Some(["192.0.3.10", "2001:db8:3::10"]);
    device(SECOND, DeviceClass::Uplink, 1500, 0, second);
    let overlay = Some(["10.0.2.1", "fd00:2::1"]);
    device(OVERLAY, DeviceClass::Overlay, 1450, 0, overlay);
    let bridge = Some(["10.0.0.1", "fd00::1"]);
    device(BRIDGE, DeviceClass::Bridge, 1500, 0, bridge);
    for (pod, bridge) in [(POD_A, 0), (POD_B, 0), (POD_C, BRIDGE), (POD_D, BRIDGE)] {
        device(pod, DeviceClass::Pod, 1500, bridge, None);
    }
}

/// What `namespace` has told the kernel.
fn routes() -> RouteTable {
    let by = |ifindex| Route::Device { ifindex };
    let to = |ifindex, mac| Route::Neighbour { ifindex, mac };
    let known = to(BRIDGE, MAC_D);
    let mut table = RouteTable::default();
    let nets = [
        ("192.0.2.0", 24, by(UPLINK)),
        ("192.0.2.10", 32, Route::None),
        ("192.0.2.11", 32, Route::None),
        ("10.0.0.0", 24, by(BRIDGE)),
        ("10.0.0.1", 32, Route::None),
        ("10.0.0.11", 32, by(POD_A)),
        ("10.0.0.12", 32, by(POD_B)),
        ("10.0.0.24", 32, known),
        ("10.0.1.0", 24, to(UPLINK, MAC_FAR)),
        ("192.0.2.1", 32, to(UPLINK, MAC_ROUTER)),
        ("192.0.2.20", 32, to(UPLINK, MAC_FAR)),
        ("192.0.3.0", 24, by(SECOND)),
        ("192.0.3.10", 32, Route::None),
        ("192.0.3.20", 32, to(SECOND, MAC_SECOND)),
        ("10.0.3.0", 24, to(SECOND, MAC_SECOND)),
        ("10.0.2.0", 24, by(OVERLAY)),
        ("10.0.2.1", 32, Route::None),
        ("198.51.100.0", 24, to(UPLINK, MAC_ROUTER)),
        ("2001:db8::", 64, by(UPLINK)),
        ("2001:db8::10", 128, Route::None),
        ("2001:db8::11", 128, Route::None),
        ("fd00::", 64, by(BRIDGE)),
        ("fd00::1", 128, Route::None),
        ("fd00::11", 128, by(POD_A)),
        ("fd00::12", 128, by(POD_B)),
        ("fd00::24", 128, known),
        ("fd00:1::", 64, by(UPLINK)),
        ("fd00:2::", 64, by(OVERLAY)),
        ("fd00:2::1", 128, Route::None),
        ("2001:db8:f::", 64, to(UPLINK, MAC_ROUTER)),
        ("2001:db8::1", 128, to(UPLINK, MAC_ROUTER)),
        ("2001:db8:3::", 64, by(SECOND)),
        ("2001:db8:3::10", 128, Route::None),
        ("2001:db8:3::20", 128, to(SECOND, MAC_SECOND)),
        ("fd00:3::", 64, to(SECOND, MAC_SECOND)),
    ];
    for (prefix, bits, route) in nets {
        table = table.with(addr(prefix), bits, route);
    }
    table
}
