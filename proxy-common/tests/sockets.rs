//! The socket hooks: what becomes of a call, and what is remembered of it.

use std::{collections::BTreeSet, net::IpAddr};

use proxy_common::{
    abi::{
        counter::Counter,
        device::node_addr,
        frontend::FrontendKind,
        protocol::{TCP, UDP},
        settings::settings_flags::{SOCKETS_PODS_TCP, SOCKETS_PODS_UDP},
        target::{BackendState, BackendWord, TargetState, target_flags::REFUSES_NODE},
    },
    addr::{Addr, Family},
    host::{Service, World},
    socket::{self, Decision, Socket, UDP_IDLE_SECONDS},
};

/// Cookies of network namespaces.
const HOST: u64 = 1;
const POD: u64 = 7;

struct Names {
    family: Family,
    cluster_ip: &'static str,
    other_cluster_ip: &'static str,
    node: &'static str,
    quiet_node: &'static str,
    loopback: &'static str,
    unspecified: &'static str,
    backends: [&'static str; 2],
    elsewhere: &'static str,
}

static BOTH: [Names; 2] = [
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

fn addr(address: &str) -> Addr {
    Addr::from(address.parse::<IpAddr>().expect("an address"))
}

fn at(address: &str, port: u16) -> String {
    let ip: IpAddr = address.parse().expect("an address");
    std::net::SocketAddr::new(ip, port).to_string()
}

/// A node whose sockets are covered, its pods' too.
fn node(names: &Names) -> World {
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

fn service(names: &Names, protocol: u8) -> Service {
    names
        .backends
        .iter()
        .fold(Service::new(protocol), |service, backend| {
            service.backend(&at(backend, 8080))
        })
}

fn to(netns: u64, protocol: u8, address: &str, port: u16) -> Socket {
    Socket {
        cookie: 42,
        netns,
        protocol,
        addr: addr(address),
        port: port.into(),
    }
}

fn connect(world: &World, socket: &Socket) -> Decision {
    socket::connect(&mut &*world, socket)
}

fn send(world: &World, socket: &Socket) -> Decision {
    socket::send(&mut &*world, socket)
}

fn report(world: &World, socket: &Socket) -> Decision {
    socket::report(&mut &*world, socket)
}

fn instead(address: &str, port: u16) -> Decision {
    Decision::Use {
        addr: addr(address),
        port: port.into(),
    }
}

/// The socket with the address that a decision gave it.
fn at_peer(socket: &Socket, decision: Decision) -> Socket {
    match decision {
        Decision::Use { addr, port } => Socket {
            addr,
            port,
            ..*socket
        },
        other => panic!("not translated: {other:?}"),
    }
}

/// A call with an address: `connect` of both protocols, `sendto` of UDP.
type Call = fn(&World, &Socket) -> Decision;

/// Runs something for every family, protocol and call.
fn for_each_call(test: impl Fn(&Names, u8, Call)) {
    for names in &BOTH {
        test(names, TCP, connect);
        test(names, UDP, connect);
        test(names, UDP, send);
    }
}

#[test]
fn a_call_to_a_frontend_goes_straight_to_a_backend_and_is_reported_back() {
    for_each_call(|names, protocol, call| {
        let world = node(names);
        let service = service(names, protocol);
        world.add_service(&service.frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 80)));
        for netns in [HOST, POD] {
            let socket = to(netns, protocol, names.cluster_ip, 80);
            let decision = call(&world, &socket);
            let peer = at_peer(&socket, decision);
            assert!(names.backends.map(addr).contains(&peer.addr));
            assert_eq!(peer.port.get(), 8080);
            assert_eq!(report(&world, &peer), instead(names.cluster_ip, 80));
            // Other sockets are told what they see.
            let other = Socket { cookie: 43, ..peer };
            assert_eq!(report(&world, &other), Decision::Untouched);
        }
        assert_eq!(world.counted(Counter::SocketTranslated), 2);
    });
}

#[test]
fn l1_every_backend_is_chosen() {
    for names in &BOTH {
        let world = node(names);
        let service = service(names, TCP);
        world.add_service(&service.frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 80)));
        let mut hits = [0; 2];
        for cookie in 0..1000 {
            let socket = Socket {
                cookie,
                ..to(POD, TCP, names.cluster_ip, 80)
            };
            let peer = at_peer(&socket, connect(&world, &socket));
            let chosen = names
                .backends
                .map(addr)
                .iter()
                .position(|b| *b == peer.addr);
            hits[chosen.expect("one of the backends")] += 1;
        }
        assert!(hits.iter().all(|n| (440..560).contains(n)), "{hits:?}");
    }
}

#[test]
fn p4_what_no_frontend_takes_is_left_alone() {
    for_each_call(|names, protocol, call| {
        let world = node(names);
        let other = if protocol == TCP { UDP } else { TCP };
        for (protocol, port) in [(protocol, 80), (other, 81)] {
            world.add_service(
                &service(names, protocol)
                    .frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, port)),
            );
        }
        for (address, port) in [
            (names.elsewhere, 80),
            (names.cluster_ip, 82),
            (names.cluster_ip, 81),
            (names.backends[0], 8080),
            (names.loopback, 80),
            (names.unspecified, 80),
        ] {
            for netns in [HOST, POD] {
                let socket = to(netns, protocol, address, port);
                assert_eq!(
                    call(&world, &socket),
                    Decision::Untouched,
                    "{address} {port}"
                );
            }
        }
        assert!(world.socket_frontends.is_empty() && world.socket_backends.is_empty());
        assert_eq!(world.counters(), []);
    });
}

#[test]
fn s4_node_ports_answer_on_the_nodes_addresses_and_on_its_own_loopback() {
    for_each_call(|names, protocol, call| {
        let world = node(names);
        world.add_service(&service(names, protocol).node_port(names.family, 30_001));
        let translated = |netns, address| {
            let decision = call(&world, &to(netns, protocol, address, 30_001));
            matches!(decision, Decision::Use { .. })
        };
        assert!(translated(HOST, names.node) && translated(POD, names.node));
        for address in [names.quiet_node, names.elsewhere, names.backends[0]] {
            assert!(!translated(HOST, address) && !translated(POD, address));
        }
        // What a process in a pod calls loopback is the pod's own; so is "no address", which means loopback.
        for address in [names.loopback, names.unspecified] {
            assert!(translated(HOST, address), "{address}");
            assert!(!translated(POD, address), "{address}");
        }
        if names.family == Family::V4 {
            for address in ["127.0.0.53", "127.255.255.254"] {
                assert!(translated(HOST, address) && !translated(POD, address));
            }
        }
    });
}

/// An `AF_INET6` socket that names an IPv4 address in its mapped form: the hooks hand over the same bytes.
#[test]
fn s4_mapped_addresses_are_those_of_ipv4() {
    let names = &BOTH[0];
    for mapped in ["::ffff:192.0.2.10", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
        let world = node(names);
        world.add_service(&service(names, TCP).node_port(Family::V4, 30_001));
        let decision = connect(&world, &to(HOST, TCP, mapped, 30_001));
        let peer = at_peer(&to(HOST, TCP, mapped, 30_001), decision);
        assert!(peer.addr.is_v4(), "{mapped}");
    }
}

#[test]
fn s4_a_node_port_of_one_family_does_not_answer_for_the_other() {
    let [v4, v6] = &BOTH;
    for (with, without) in [(v4, v6), (v6, v4)] {
        let world = node(with);
        world
            .node_addrs
            .put(addr(without.node), node_addr::NODE_PORT);
        world.add_service(&service(with, TCP).node_port(with.family, 30_001));
        for address in [without.node, without.loopback, without.unspecified] {
            let decision = connect(&world, &to(HOST, TCP, address, 30_001));
            assert_eq!(decision, Decision::Untouched, "{address}");
        }
    }
}

#[test]
fn without_knowing_the_nodes_namespace_every_loopback_is_a_pods() {
    for_each_call(|names, protocol, call| {
        let world = node(names);
        world.configure(|settings| settings.host_netns_cookie = 0);
        world.add_service(&service(names, protocol).node_port(names.family, 30_001));
        for netns in [0, HOST, POD] {
            let socket = to(netns, protocol, names.loopback, 30_001);
            assert_eq!(call(&world, &socket), Decision::Untouched);
            let socket = to(netns, protocol, names.node, 30_001);
            assert!(matches!(call(&world, &socket), Decision::Use { .. }));
        }
    });
}

#[test]
fn s7_external_ips_on_the_nodes_own_addresses_are_left_to_packets() {
    for_each_call(|names, protocol, call| {
        let world = node(names);
        let at_node = at(names.node, 443);
        let elsewhere = at(names.elsewhere, 443);
        world.add_service(
            &service(names, protocol)
                .frontend(FrontendKind::ExternalIp, &at_node)
                .frontend(FrontendKind::ExternalIp, &elsewhere),
        );
        for netns in [HOST, POD] {
            let own = to(netns, protocol, names.node, 443);
            assert_eq!(call(&world, &own), Decision::Untouched);
            let socket = to(netns, protocol, names.elsewhere, 443);
            assert!(matches!(call(&world, &socket), Decision::Use { .. }));
        }
    });
}

#[test]
fn b5_no_endpoint_refuses_and_none_that_the_policy_allows_times_out() {
    for_each_call(|names, protocol, call| {
        for (state, expected, counter) in [
            (
                TargetState::Reject,
                Decision::Refuse,
                Counter::RefusedNoEndpoint,
            ),
            (
                TargetState::Drop,
                Decision::TimeOut,
                Counter::DropNoLocalEndpoint,
            ),
        ] {
            let world = node(names);
            world.add_service(
                &Service::new(protocol)
                    .frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 80))
                    .state(state),
            );
            for netns in [HOST, POD] {
                let socket = to(netns, protocol, names.cluster_ip, 80);
                assert_eq!(call(&world, &socket), expected);
            }
            assert_eq!(world.counters(), [(counter, 2)]);
        }
    });
}

#[test]
fn pods_can_be_left_to_the_packet_path() {
    for_each_call(|names, protocol, call| {
        for (flags, protocols) in [
            (0, &[][..]),
            (SOCKETS_PODS_TCP, &[TCP]),
            (SOCKETS_PODS_UDP, &[UDP]),
            (SOCKETS_PODS_TCP | SOCKETS_PODS_UDP, &[TCP, UDP]),
        ] {
            let world = node(names);
            world.configure(|settings| settings.flags = flags);
            let service = service(names, protocol);
            world
                .add_service(&service.frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 80)));
            let pod = call(&world, &to(POD, protocol, names.cluster_ip, 80));
            assert_eq!(pod != Decision::Untouched, protocols.contains(&protocol));
            let host = call(&world, &to(HOST, protocol, names.cluster_ip, 80));
            assert_ne!(host, Decision::Untouched);
        }
    });
}

#[test]
fn a3_a_frontend_with_source_ranges_is_left_to_the_packet_path_for_pods() {
    for_each_call(|names, protocol, call| {
        let world = node(names);
        let placed = world.add_service(
            &service(names, protocol)
                .frontend(FrontendKind::LoadBalancer, &at(names.elsewhere, 80))
                .frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 80)),
        );
        let mut target = world.targets.get(placed.target).expect("the target");
        target.ranges = 5;
        world.targets.set(placed.target, target);
        let of = |netns, address| call(&world, &to(netns, protocol, address, 80));
        assert_eq!(of(POD, names.elsewhere), Decision::Untouched);
        assert_ne!(of(HOST, names.elsewhere), Decision::Untouched);
        assert_ne!(of(POD, names.cluster_ip), Decision::Untouched);
    });
}

#[test]
fn a3_the_nodes_own_processes_are_refused_where_none_of_its_addresses_is_let_in() {
    for_each_call(|names, protocol, call| {
        for state in [TargetState::Serve, TargetState::Reject] {
            let world = node(names);
            let placed = world.add_service(
                &service(names, protocol)
                    .state(state)
                    .frontend(FrontendKind::LoadBalancer, &at(names.elsewhere, 80))
                    .frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 80)),
            );
            let mut target = world.targets.get(placed.target).expect("the target");
            target.flags |= u32::from(REFUSES_NODE);
            world.targets.set(placed.target, target);
            let of = |netns, address| call(&world, &to(netns, protocol, address, 80));
            let refused = || world.counted(Counter::DropSourceRange);
            // Without ranges it means nothing.
            assert_ne!(of(HOST, names.elsewhere), Decision::TimeOut);
            target.ranges = 5;
            world.targets.set(placed.target, target);
            assert_eq!(refused(), 0);
            // As packets: who is not let in does not learn whether there are endpoints.
            assert_eq!(of(HOST, names.elsewhere), Decision::TimeOut);
            assert_eq!(refused(), 1);
            assert_eq!(of(POD, names.elsewhere), Decision::Untouched);
            assert_ne!(of(HOST, names.cluster_ip), Decision::TimeOut);
            assert_ne!(of(POD, names.cluster_ip), Decision::TimeOut);
            assert_eq!(refused(), 1);
        }
    });
}

#[test]
fn l6_an_unconnected_socket_keeps_its_backend_while_it_serves_and_is_used() {
    for names in &BOTH {
        let world = node(names);
        let service = service(names, UDP);
        world.add_service(&service.frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 53)));
        for cookie in 0..50 {
            let socket = Socket {
                cookie,
                ..to(POD, UDP, names.cluster_ip, 53)
            };
            let first = send(&world, &socket);
            for _ in 0..20 {
                world.pass_seconds(UDP_IDLE_SECONDS);
                assert_eq!(send(&world, &socket), first);
            }
        }
    }
}

#[test]
fn l6_an_idle_socket_chooses_again() {
    for names in &BOTH {
        let world = node(names);
        let service = service(names, UDP);
        world.add_service(&service.frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 53)));
        let socket = to(POD, UDP, names.cluster_ip, 53);
        let choices: BTreeSet<Addr> = (0..40)
            .map(|_| {
                world.pass_seconds(UDP_IDLE_SECONDS + 1);
                at_peer(&socket, send(&world, &socket)).addr
            })
            .collect();
        assert_eq!(choices.len(), 2);
    }
}

#[test]
fn l6_a_backend_that_no_longer_serves_is_replaced_at_once() {
    for names in &BOTH {
        for gone in [BackendState::NotServing, BackendState::Gone] {
            let world = node(names);
            let placed = world.add_service(
                &service(names, UDP).frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 53)),
            );
            let socket = to(POD, UDP, names.cluster_ip, 53);
            let first = at_peer(&socket, send(&world, &socket));
            let index = names
                .backends
                .map(addr)
                .iter()
                .position(|b| *b == first.addr);
            let index = index.expect("one of the backends");
            world.set_backend_state(placed.backends[index], gone);
            let next = at_peer(&socket, send(&world, &socket));
            assert_eq!(next.addr, addr(names.backends[1 - index]));
            assert_eq!(report(&world, &next), instead(names.cluster_ip, 53));
            // Late answers of the one that is gone are still told by the frontend's name.
            assert_eq!(report(&world, &first), instead(names.cluster_ip, 53));
        }
    }
}

#[test]
fn l6_an_id_used_again_for_a_stranger_is_not_kept() {
    for names in &BOTH {
        let world = node(names);
        let placed = world.add_service(
            &Service::new(UDP)
                .frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 53))
                .backend(&at(names.backends[0], 8080)),
        );
        let socket = to(POD, UDP, names.cluster_ip, 53);
        assert_eq!(send(&world, &socket), instead(names.backends[0], 8080));
        let id = placed.backends[0];
        let new = world.add_backend(at(names.backends[1], 8080).parse().expect("it"), UDP, false);
        world.point(placed.target, &[new], TargetState::Serve);
        let mut stranger = world.backends.get(id).expect("the id");
        stranger.addr = addr(names.elsewhere);
        stranger.word = BackendWord::new(2, BackendState::Serving);
        world.backends.set(id, stranger);
        assert_eq!(send(&world, &socket), instead(names.backends[1], 8080));
    }
}

#[test]
fn l6_each_frontend_of_a_socket_has_its_own_backend() {
    for names in &BOTH {
        let world = node(names);
        for (vip, backend) in [
            (names.cluster_ip, names.backends[0]),
            (names.other_cluster_ip, names.backends[1]),
        ] {
            world.add_service(
                &Service::new(UDP)
                    .frontend(FrontendKind::ClusterIp, &at(vip, 53))
                    .backend(&at(backend, 8080)),
            );
        }
        for _ in 0..3 {
            for (vip, backend) in [
                (names.cluster_ip, names.backends[0]),
                (names.other_cluster_ip, names.backends[1]),
            ] {
                let socket = to(POD, UDP, vip, 53);
                let decision = send(&world, &socket);
                assert_eq!(decision, instead(backend, 8080));
                assert_eq!(
                    report(&world, &at_peer(&socket, decision)),
                    instead(vip, 53)
                );
            }
        }
    }
}

#[test]
fn a_closed_socket_is_forgotten() {
    for_each_call(|names, protocol, call| {
        let world = node(names);
        let service = service(names, protocol);
        world.add_service(&service.frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 80)));
        let socket = to(POD, protocol, names.cluster_ip, 80);
        let peer = at_peer(&socket, call(&world, &socket));
        socket::release(&mut &world, &peer);
        assert_eq!(report(&world, &peer), Decision::Untouched);
        assert!(world.socket_frontends.is_empty());
    });
}

#[test]
fn a_socket_that_connects_straight_to_a_backend_afterwards_is_told_so() {
    for names in &BOTH {
        let world = node(names);
        world.add_service(
            &Service::new(UDP)
                .frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 53))
                .backend(&at(names.backends[0], 8080)),
        );
        let socket = to(POD, UDP, names.cluster_ip, 53);
        let peer = at_peer(&socket, connect(&world, &socket));
        assert_eq!(report(&world, &peer), instead(names.cluster_ip, 53));
        assert_eq!(connect(&world, &peer), Decision::Untouched);
        assert_eq!(report(&world, &peer), Decision::Untouched);
    }
}

#[test]
fn a_socket_that_reaches_a_backend_by_another_frontend_is_told_the_last() {
    for names in &BOTH {
        let world = node(names);
        for vip in [names.cluster_ip, names.other_cluster_ip] {
            world.add_service(
                &Service::new(TCP)
                    .frontend(FrontendKind::ClusterIp, &at(vip, 80))
                    .backend(&at(names.backends[0], 8080)),
            );
        }
        for vip in [names.cluster_ip, names.other_cluster_ip, names.cluster_ip] {
            let socket = to(POD, TCP, vip, 80);
            let peer = at_peer(&socket, connect(&world, &socket));
            assert_eq!(report(&world, &peer), instead(vip, 80));
        }
    }
}

#[test]
fn a_choice_that_went_away_just_now_leaves_the_call_to_the_packet_path() {
    for_each_call(|names, protocol, call| {
        let world = node(names);
        let placed = world.add_service(
            &service(names, protocol).frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 80)),
        );
        for id in placed.backends {
            world.set_backend_state(id, BackendState::NotServing);
        }
        let socket = to(HOST, protocol, names.cluster_ip, 80);
        assert_eq!(call(&world, &socket), Decision::Untouched);
    });
}
