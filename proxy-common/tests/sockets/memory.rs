//! State that the socket hooks keep.

use std::collections::BTreeSet;

use proxy_common::{
    abi::{
        frontend::FrontendKind,
        protocol::{TCP, UDP},
        target::{BackendState, BackendWord, TargetState},
    },
    addr::Addr,
    host::Service,
    socket::{self, Decision, Socket, UDP_IDLE_SECONDS},
};

use crate::node::{
    BOTH, HOST, POD, addr, at, at_peer, connect, for_each_call, instead, node, report, send,
    service, to,
};

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
            // Late replies from the old backend are still reported as the frontend's.
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
        let new = world.add_backend(
            at(names.backends[1], 8080)
                .parse()
                .expect("an address and port"),
            UDP,
            false,
        );
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
