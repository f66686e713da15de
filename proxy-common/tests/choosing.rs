//! Choice of a backend for sockets and packets: distribution of each algorithm, with statistical bounds
//! (semantics L1), and session affinity (semantics L2).

#[path = "choosing/affinity.rs"]
mod affinity;
#[path = "choosing/slow_start.rs"]
mod slow_start;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use proxy_common::{
    abi::{
        device::{Device, DeviceClass, LinkType, node_addr},
        flow::FlowKey,
        frontend::FrontendKind,
        meta::List,
        protocol::{TCP, UDP},
        settings::settings_flags::{SOCKETS_PODS_TCP, SOCKETS_PODS_UDP},
        target::{Algorithm, BackendState, Slot, TargetState, backend_lists},
    },
    addr::{Addr, Family},
    datapath::{self, Ingress, Verdict, Work},
    host::{Placed, Segment, Service, World},
    parse::tcp_flags,
    socket::{self, Decision, Socket},
    tables::Route,
};

const CLUSTER_IP: &str = "10.96.0.1:80";
const LOAD_BALANCER: &str = "203.0.113.10:80";
const NODE_PORT: u16 = 30_001;
const NODE: &str = "192.0.2.10";
const TIMEOUT: u32 = 100;
const UPLINK: u32 = 2;

/// Critical values of chi-squared at significance 0.001, by degrees of freedom (NIST/SEMATECH e-Handbook,
/// 1.3.6.7.4). The tests are deterministic, so they never fail by chance.
const CRITICAL: [(usize, f64); 3] = [(2, 13.816), (4, 18.467), (9, 27.877)];

fn world() -> World {
    let world = World::default();
    world.configure(|settings| {
        settings.host_netns_cookie = 1;
        settings.flags = SOCKETS_PODS_TCP | SOCKETS_PODS_UDP;
    });
    let node = Addr::from(NODE.parse::<IpAddr>().expect("is an address"));
    world.node_addrs.put(node, node_addr::NODE_PORT);
    let device = Device {
        class: DeviceClass::Uplink as u8,
        link: LinkType::Ethernet as u8,
        mtu: 1500,
        snat_v4: node,
        ..Device::default()
    };
    world.devices.put(UPLINK, device);
    world.set_routes(|_| Route::Device { ifindex: UPLINK });
    world
}

fn backend(n: usize) -> String {
    format!("10.1.0.{}:8080", n + 1)
}

/// A Service with this many backends, all on this node.
fn service(protocol: u8, backends: usize) -> Service {
    (0..backends).fold(
        Service::new(protocol)
            .frontend(FrontendKind::ClusterIp, CLUSTER_IP)
            .frontend(FrontendKind::LoadBalancer, LOAD_BALANCER)
            .node_port(Family::V4, NODE_PORT),
        |service, n| service.local_backend(&backend(n)),
    )
}

fn number(address: &Addr) -> usize {
    usize::from(address.octets()[15]) - 1
}

fn to(cookie: u64, netns: u64, protocol: u8) -> Socket {
    let at: SocketAddr = CLUSTER_IP.parse().expect("is an address and port");
    Socket {
        cookie,
        netns,
        protocol,
        addr: at.ip().into(),
        port: at.port().into(),
    }
}

/// Connects a socket and returns the number of its backend.
fn connect(world: &World, socket: &Socket) -> usize {
    match socket::connect(&mut &*world, socket) {
        Decision::Use { addr, .. } => number(&addr),
        other => panic!("{other:?}"),
    }
}

fn close(world: &World, socket: &Socket) {
    socket::release(&mut &*world, socket);
}

fn key(protocol: u8, src: &str, dst: &str) -> FlowKey {
    let parse = |text: &str| -> SocketAddr { text.parse().expect("is an address and port") };
    let (src, dst) = (parse(src), parse(dst));
    FlowKey {
        src: src.ip().into(),
        dst: dst.ip().into(),
        src_port: src.port().into(),
        dst_port: dst.port().into(),
        protocol,
        pad: [0; 3],
    }
}

fn ingress(world: &World, segment: &Segment) -> Verdict {
    let (mut tables, mut work) = (world, Work::default());
    let at = Ingress {
        ifindex: UPLINK,
        link: LinkType::Ethernet,
    };
    datapath::uplink_ingress(&mut segment.frame(), &mut tables, &mut work, at)
}

fn egress(world: &World, segment: &Segment) -> Verdict {
    let (mut tables, mut work) = (world, Work::default());
    datapath::egress(
        &mut segment.frame(),
        &mut tables,
        &mut work,
        LinkType::Ethernet,
    )
}

/// Sends a client's first packet and returns the number of the backend that it goes to.
fn first(world: &World, protocol: u8, client: &str, frontend: &str) -> usize {
    let verdict = ingress(world, &Segment::first(protocol, client, frontend));
    assert_eq!(verdict, Verdict::Continue, "{client} to {frontend}");
    let flow = world.new_flows.get(&key(protocol, client, frontend));
    number(&flow.expect("a flow").out.dst)
}

fn node_port() -> String {
    format!("{NODE}:{NODE_PORT}")
}

fn chi_squared(hits: &[u32], weights: &[u32]) -> f64 {
    let (n, all): (u32, u32) = (hits.iter().sum(), weights.iter().sum());
    hits.iter()
        .zip(weights)
        .map(|(hits, weight)| {
            let expected = f64::from(n) * f64::from(*weight) / f64::from(all);
            (f64::from(*hits) - expected).powi(2) / expected
        })
        .sum()
}

fn assert_spread(what: &str, hits: &[u32], weights: &[u32]) {
    let freedom = hits.len() - 1;
    let critical = CRITICAL
        .iter()
        .find(|(n, _)| *n == freedom)
        .expect("is in the table")
        .1;
    let found = chi_squared(hits, weights);
    assert!(found < critical, "{what}: {hits:?}, chi² {found:.1}");
}

/// Connections per backend for a thousand sockets, and for a thousand packets from one client address.
fn spread(algorithm: Algorithm, backends: usize) -> [Vec<u32>; 2] {
    let world = world();
    world.add_service(&service(TCP, backends).algorithm(algorithm));
    spread_in(&world, backends, 1_000)
}

/// Connections per backend for `times` sockets, and for `times` packets from one client address.
fn spread_in(world: &World, backends: usize, times: u16) -> [Vec<u32>; 2] {
    let mut hits = [vec![0; backends], vec![0; backends]];
    for n in 0..times {
        let socket = to(n.into(), 7, TCP);
        hits[0][connect(world, &socket)] += 1;
        close(world, &socket);
        let client = format!("198.51.100.9:{}", 40_000 + n);
        hits[1][first(world, TCP, &client, LOAD_BALANCER)] += 1;
    }
    hits
}

#[test]
fn l1_random_maglev_and_least_connections_spread_evenly() {
    for algorithm in [
        Algorithm::Random,
        Algorithm::Maglev,
        Algorithm::LeastConnections,
    ] {
        for backends in [3, 10] {
            for (by, hits) in ["sockets", "packets"]
                .iter()
                .zip(spread(algorithm, backends))
            {
                let what = format!("{algorithm:?} by {by}");
                assert_spread(&what, &hits, &vec![1; backends]);
            }
        }
    }
}

#[test]
fn l1_round_robin_takes_turns_over_all_frontends() {
    let world = world();
    world.add_service(&service(TCP, 3).algorithm(Algorithm::RoundRobin));
    let mut seen = Vec::new();
    for n in 0..4u16 {
        seen.push(connect(&world, &to(n.into(), 7, TCP)));
        let client = format!("198.51.100.9:{}", 40_000 + n);
        seen.push(first(&world, TCP, &client, LOAD_BALANCER));
        seen.push(first(&world, TCP, &client, &node_port()));
    }
    // Each third connection is the second flow of its client port. Its turn gives it another backend anyway, so
    // its tuple is free.
    assert_eq!(seen, [0, 1, 2].repeat(4));
}

#[test]
fn l1_repeated_slots_are_shares() {
    // The slots that the agent writes for weights 3, 1 and 1.
    let weights = [3, 1, 1];
    for algorithm in [
        Algorithm::Random,
        Algorithm::RoundRobin,
        Algorithm::LeastConnections,
    ] {
        let world = world();
        let placed = world.add_service(&service(TCP, 3).algorithm(algorithm));
        weigh(&world, &placed, &weights);
        let mut hits = [0; 3];
        for cookie in 0..1_000 {
            let socket = to(cookie, 7, TCP);
            hits[connect(&world, &socket)] += 1;
            close(&world, &socket);
        }
        assert_spread(&format!("{algorithm:?}"), &hits, &weights);
    }
}

fn weigh(world: &World, placed: &Placed, weights: &[u32]) {
    let slots: Vec<u32> = placed
        .backends
        .iter()
        .zip(weights)
        .flat_map(|(id, weight)| vec![*id; *weight as usize])
        .collect();
    world.point(placed.target, &slots, TargetState::Serve);
    for (&id, &weight) in placed.backends.iter().zip(weights) {
        let mut backend = world.backends.get(id).expect("was placed");
        backend.weight = weight;
        world.backends.set(id, backend);
    }
}

#[test]
fn l1_maglev_finds_one_backend_for_a_client_on_every_node_and_by_every_frontend() {
    let nodes = [1, 2].map(|secret| {
        let world = world();
        world.configure(|settings| {
            settings.hash_key = [secret; 2];
            settings.maglev_seed = 5;
        });
        world.add_service(&service(UDP, 5).algorithm(Algorithm::Maglev));
        world
    });
    let mut moved_by_seed = 0;
    for port in 40_000..40_200 {
        let client = format!("198.51.100.9:{port}");
        let [one, other] = nodes
            .each_ref()
            .map(|world| first(world, UDP, &client, LOAD_BALANCER));
        assert_eq!(one, other);
        let seeded = world();
        seeded.configure(|settings| settings.maglev_seed = 6);
        seeded.add_service(&service(UDP, 5).algorithm(Algorithm::Maglev));
        moved_by_seed += u32::from(first(&seeded, UDP, &client, &node_port()) != one);
        let fresh = world();
        fresh.configure(|settings| settings.maglev_seed = 5);
        fresh.add_service(&service(UDP, 5).algorithm(Algorithm::Maglev));
        assert_eq!(first(&fresh, UDP, &client, &node_port()), one);
    }
    assert!(
        moved_by_seed > 120,
        "{moved_by_seed} of 200: another seed moves clients"
    );
}

#[test]
fn l1_least_connections_spares_who_is_busy_by_weight() {
    let world = world();
    let placed = world.add_service(&service(TCP, 3).algorithm(Algorithm::LeastConnections));
    weigh(&world, &placed, &[1, 1, 2]);
    // No socket closes, so the loads settle in proportion to the weights.
    for cookie in 0..1_000 {
        connect(&world, &to(cookie, 7, TCP));
    }
    let loads = loads(&world, &placed);
    assert_eq!(loads.iter().sum::<u32>(), 1_000);
    for (load, share) in loads.iter().zip([250, 250, 500]) {
        assert!(load.abs_diff(share) <= 15, "{loads:?}");
    }
}

/// One of three backends keeps each connection for 300 steps, the others for 30. Each step opens one
/// connection.
#[test]
fn l1_least_connections_gives_fewer_to_who_holds_them_longer() {
    let world = world();
    world.add_service(&service(TCP, 3).algorithm(Algorithm::LeastConnections));
    let (mut ends, mut hits) = (BTreeMap::<u64, Vec<Socket>>::new(), [0u32; 3]);
    for step in 0..20_000 {
        for socket in ends.remove(&step).unwrap_or_default() {
            close(&world, &socket);
        }
        let socket = to(step, 7, TCP);
        let chosen = connect(&world, &socket);
        hits[chosen] += 1;
        let lasts = if chosen == 0 { 300 } else { 30 };
        ends.entry(step + lasts).or_default().push(socket);
    }
    // Loads are kept equal, so a backend that keeps connections ten times as long gets a tenth of another's
    // connections.
    let share = f64::from(hits[0]) / f64::from(hits[1] + hits[2]) * 2.0;
    assert!((0.08..0.16).contains(&share), "{hits:?}");
    assert_spread(
        "the others",
        &[hits[1], hits[2], u32::midpoint(hits[1], hits[2])],
        &[1; 3],
    );
}

fn loads(world: &World, placed: &Placed) -> Vec<u32> {
    let load = |id: &u32| world.loads.get(*id).expect("was placed").of(1);
    placed.backends.iter().map(load).collect()
}

#[test]
fn l1_a_socket_counts_once_until_it_closes_or_connects_elsewhere() {
    let world = world();
    let placed = world.add_service(&service(TCP, 2).algorithm(Algorithm::LeastConnections));
    let total = || loads(&world, &placed).iter().sum::<u32>();
    let socket = to(1, 7, TCP);
    // The first two attempts fail, and the socket connects again.
    for _ in 0..3 {
        connect(&world, &socket);
        assert_eq!(total(), 1);
    }
    let elsewhere = Socket {
        addr: "198.51.100.1".parse::<IpAddr>().unwrap().into(),
        ..socket
    };
    assert_eq!(
        socket::connect(&mut &world, &elsewhere),
        Decision::Untouched
    );
    assert_eq!(total(), 0);
    connect(&world, &socket);
    // After a failed connect the socket has no peer when it is closed.
    let failed = Socket {
        port: 0.into(),
        ..socket
    };
    close(&world, &failed);
    close(&world, &failed);
    assert_eq!(total(), 0);
    assert!(world.socket_loads.is_empty());
}

#[test]
fn l1_what_an_earlier_backend_of_the_id_had_does_not_count() {
    let world = world();
    let placed = world.add_service(&service(TCP, 1).algorithm(Algorithm::LeastConnections));
    connect(&world, &to(1, 7, TCP));
    let id = placed.backends[0];
    let mut next = world.backends.get(id).expect("was placed");
    next.word = proxy_common::abi::target::BackendWord::new(2, BackendState::Serving);
    world.backends.set(id, next);
    world.point(placed.target, &placed.backends, TargetState::Serve);
    connect(&world, &to(2, 7, TCP));
    close(&world, &to(1, 7, TCP));
    let load = world.loads.get(id).unwrap();
    assert_eq!((load.generation, load.count), (2, 1));
}

/// Opens a TCP flow in the packet path: SYN and SYN ACK. Returns the number of its backend.
fn opened(world: &World, client: &str) -> usize {
    let chosen = first(world, TCP, client, LOAD_BALANCER);
    let answer = Segment::answer(TCP, &backend(chosen), client);
    assert_eq!(egress(world, &answer), Verdict::Continue);
    chosen
}

#[test]
fn l1_a_flow_counts_from_its_first_answer_until_one_side_closes() {
    let client = "198.51.100.9:40000";
    for by_client in [true, false] {
        let world = world();
        let placed = world.add_service(&service(TCP, 2).algorithm(Algorithm::LeastConnections));
        let total = || loads(&world, &placed).iter().sum::<u32>();
        first(&world, TCP, client, LOAD_BALANCER);
        assert_eq!(
            total(),
            0,
            "a SYN alone is not counted, since it may belong to a flood"
        );
        let chosen = opened(&world, client);
        assert_eq!(total(), 1);
        for _ in 0..2 {
            let fin = tcp_flags::FIN | tcp_flags::ACK;
            if by_client {
                ingress(&world, &Segment::tcp(client, LOAD_BALANCER).flags(fin));
            } else {
                egress(&world, &Segment::tcp(&backend(chosen), client).flags(fin));
            }
            assert_eq!(total(), 0, "a second FIN changes nothing");
        }
        // The client reuses its port.
        opened(&world, client);
        assert_eq!((total(), world.flow_loads.len()), (1, 1));
    }
}
