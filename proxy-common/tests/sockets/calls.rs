//! Decisions of the socket hooks.

use proxy_common::{
    abi::{
        counter::Counter,
        device::node_addr,
        frontend::FrontendKind,
        protocol::{TCP, UDP},
        settings::settings_flags::{SOCKETS_PODS_TCP, SOCKETS_PODS_UDP},
        target::{
            TargetState,
            target_flags::{FILTERS_ALL, REFUSES_NODE},
        },
    },
    addr::Family,
    host::Service,
    socket::{Decision, Socket},
};

use crate::node::{
    BOTH, HOST, POD, addr, at, at_peer, connect, for_each_call, instead, node, report, service, to,
};

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
            // The entry belongs to the socket's cookie, so other sockets see the real peer.
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
        // A loopback address of a pod is the pod's own. So is the unspecified address, which means loopback.
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

/// An `AF_INET6` socket with an IPv4-mapped address: the hooks pass the same bytes as for IPv4.
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
                Decision::NoLocalEndpoint,
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
        target.flags |= FILTERS_ALL;
        world.targets.set(placed.target, target);
        assert_eq!(of(POD, names.cluster_ip), Decision::Untouched);
        assert_ne!(of(HOST, names.cluster_ip), Decision::Untouched);
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
            target.flags |= REFUSES_NODE;
            world.targets.set(placed.target, target);
            let of = |netns, address| call(&world, &to(netns, protocol, address, 80));
            let refused = || world.counted(Counter::DropSourceRange);
            // The flag has no effect without ranges.
            assert_ne!(of(HOST, names.elsewhere), Decision::NotAdmitted);
            target.ranges = 5;
            world.targets.set(placed.target, target);
            assert_eq!(refused(), 0);
            // As in the packet path, source ranges are checked first, so a refused client does not learn
            // whether there are endpoints.
            assert_eq!(of(HOST, names.elsewhere), Decision::NotAdmitted);
            assert_eq!(refused(), 1);
            assert_eq!(of(POD, names.elsewhere), Decision::Untouched);
            assert_ne!(of(HOST, names.cluster_ip), Decision::NotAdmitted);
            assert_ne!(of(POD, names.cluster_ip), Decision::NotAdmitted);
            assert_eq!(refused(), 1);
        }
    });
}
