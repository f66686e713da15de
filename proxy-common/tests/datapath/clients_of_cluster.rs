//! Packets from pods of this node.

use proxy_common::{
    abi::{counter::Counter, frontend::FrontendKind},
    host::{MacPair, Segment, Service, World},
    tables::Route,
};

use crate::{
    fixture::{Cast, Fate, Hook, Step, for_each_cast, packet, tell},
    node::{BRIDGE, MAC_D, POD_A, POD_B, POD_C, POD_D, UPLINK, at, node},
};

fn world(cast: &Cast, service: &Service) -> World {
    let world = node(cast.names);
    world.add_service(service);
    world
}

/// Request and reply of a pod through a frontend. The source stays; the reply is translated back at egress to
/// the pod.
fn there_and_back<'a>(cast: &Cast, frontend: &str, backend: &str) -> Vec<Step<'a>> {
    let client = at(cast.names.pod_a, 40_000);
    let first = cast.first(&client, frontend);
    let answer = cast.answer(backend, &client);
    let later = cast.later(&client, frontend);
    vec![
        packet(
            "the first packet",
            Hook::Pod(POD_A),
            &first,
            Fate::GoesOn(first.clone().to(backend)),
        ),
        Step::Counted(Counter::FlowCreated, 1),
        packet(
            "retransmitted before any reply",
            Hook::Pod(POD_A),
            &first,
            Fate::GoesOn(first.clone().to(backend)),
        ),
        Step::Counted(Counter::FlowCreated, 1),
        packet(
            "at egress towards the backend",
            Hook::Out(UPLINK),
            &first.clone().to(backend),
            Fate::Passes,
        ),
        packet(
            "the reply at ingress",
            Hook::In(UPLINK),
            &answer,
            Fate::Passes,
        ),
        packet(
            "the reply at egress to the client",
            Hook::Out(POD_A),
            &answer,
            Fate::GoesOn(answer.clone().from(frontend)),
        ),
        Step::Counted(Counter::FlowConfirmed, 1),
        packet(
            "a later packet",
            Hook::Pod(POD_A),
            &later,
            Fate::GoesOn(later.clone().to(backend)),
        ),
        packet(
            "a later reply",
            Hook::Out(POD_A),
            &cast.later(backend, &client),
            Fate::GoesOn(cast.later(frontend, &client)),
        ),
        Step::Counted(Counter::FlowCreated, 1),
        Step::Counted(Counter::FlowConfirmed, 1),
    ]
}

#[test]
fn a1_p1_a_pod_reaches_every_kind_of_frontend_with_its_own_address() {
    for_each_cast(|cast| {
        let names = cast.names;
        let kinds = [
            (FrontendKind::ClusterIp, names.cluster_ip),
            (FrontendKind::LoadBalancer, names.load_balancer),
            (FrontendKind::ExternalIp, names.external_ip),
        ];
        for (kind, address) in kinds {
            for backend in [names.far_pod, names.pod_b, names.far_node, names.node] {
                let (frontend, backend) = (at(address, 80), at(backend, 8080));
                let service = Service::new(cast.protocol).frontend(kind, &frontend);
                let local = backend == at(names.pod_b, 8080) || backend == at(names.node, 8080);
                let service = if local {
                    service.local_backend(&backend)
                } else {
                    service.backend(&backend)
                };
                tell(
                    || world(&cast, &service),
                    || there_and_back(&cast, &frontend, &backend),
                );
            }
        }
    });
}

#[test]
fn s4_a_pod_reaches_a_node_port_on_the_addresses_that_answer() {
    for_each_cast(|cast| {
        let names = cast.names;
        let backend = at(names.far_pod, 8080);
        let service = Service::new(cast.protocol)
            .node_port(names.family, 30_001)
            .backend(&backend);
        tell(
            || world(&cast, &service),
            || there_and_back(&cast, &at(names.node, 30_001), &backend),
        );
        let client = at(names.pod_a, 40_000);
        let to = |address: &str, port| cast.first(&client, &at(address, port));
        let pod = Hook::Pod(POD_A);
        tell(
            || world(&cast, &service),
            || {
                vec![
                    packet(
                        "an address without node ports",
                        pod,
                        &to(names.quiet_node, 30_001),
                        Fate::Passes,
                    ),
                    packet(
                        "another node",
                        pod,
                        &to(names.far_node, 30_001),
                        Fate::Passes,
                    ),
                    packet("another port", pod, &to(names.node, 30_002), Fate::Passes),
                    packet(
                        "the same port on a pod",
                        pod,
                        &to(names.pod_b, 30_001),
                        Fate::Passes,
                    ),
                ]
            },
        );
    });
}

#[test]
fn a_backend_on_the_clients_own_bridge_is_addressed_by_its_mac() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (frontend, backend) = (at(names.cluster_ip, 80), at(names.pod_d, 8080));
        let service = Service::new(cast.protocol)
            .frontend(FrontendKind::ClusterIp, &frontend)
            .local_backend(&backend);
        let client = at(names.pod_c, 40_000);
        let macs = MacPair {
            dst: [2, 0, 0, 0, 1, BRIDGE as u8],
            src: [2, 0xc, 0, 0, 0, 3],
        };
        let first = cast.first(&client, &frontend).macs(macs);
        let bridged = MacPair { dst: MAC_D, ..macs };
        let answer = cast.answer(&backend, &client).macs(bridged.swapped());
        tell(
            || world(&cast, &service),
            || {
                vec![
                    packet(
                        "bridged, not routed",
                        Hook::Pod(POD_C),
                        &first,
                        Fate::GoesOn(first.clone().to(&backend).macs(bridged)),
                    ),
                    packet(
                        "the reply at the backend's bridge port",
                        Hook::Pod(POD_D),
                        &answer,
                        Fate::Passes,
                    ),
                    packet(
                        "the reply at the client's bridge port",
                        Hook::Out(POD_C),
                        &answer,
                        Fate::GoesOn(answer.clone().from(&frontend)),
                    ),
                ]
            },
        );
    });
}

#[test]
fn a_backend_elsewhere_is_routed_from_a_bridge() {
    for_each_cast(|cast| {
        let names = cast.names;
        let frontend = at(names.cluster_ip, 80);
        // Pod A has a device of its own. Pod D's bridge resolves neither of them as a neighbour.
        for backend in [at(names.pod_a, 8080), at(names.far_pod, 8080)] {
            let service = Service::new(cast.protocol)
                .frontend(FrontendKind::ClusterIp, &frontend)
                .backend(&backend);
            let first = cast.first(&at(names.pod_d, 40_000), &frontend);
            tell(
                || world(&cast, &service),
                || {
                    vec![packet(
                        "routed: its MAC addresses stay",
                        Hook::Pod(POD_D),
                        &first,
                        Fate::GoesOn(first.clone().to(&backend)),
                    )]
                },
            );
        }
    });
}

#[test]
fn a_neighbour_of_another_device_is_routed_to_from_a_bridge() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (frontend, backend) = (at(names.cluster_ip, 80), at(names.far_node, 8080));
        let service = Service::new(cast.protocol)
            .frontend(FrontendKind::ClusterIp, &frontend)
            .backend(&backend);
        let first = cast.first(&at(names.pod_d, 40_000), &frontend);
        tell(
            || {
                let world = world(&cast, &service);
                world.set_routes(|_| Route::Neighbour {
                    ifindex: UPLINK,
                    mac: MAC_D,
                });
                world
            },
            || {
                vec![packet(
                    "routed: its MAC addresses stay",
                    Hook::Pod(POD_D),
                    &first,
                    Fate::GoesOn(first.clone().to(&backend)),
                )]
            },
        );
    });
}

#[test]
fn every_backend_of_a_service_is_chosen() {
    for_each_cast(|cast| {
        let names = cast.names;
        let frontend = at(names.cluster_ip, 80);
        let backends = [names.pod_b, names.far_pod, names.overlay_pod].map(|ip| at(ip, 8080));
        let service = backends.iter().fold(
            Service::new(cast.protocol).frontend(FrontendKind::ClusterIp, &frontend),
            |service, backend| service.backend(backend),
        );
        let world = world(&cast, &service);
        let mut hits = [0; 3];
        for port in 10_000..10_600 {
            let first = cast.first(&at(names.pod_a, port), &frontend);
            let mut frame = first.frame();
            crate::fixture::run(&world, Hook::Pod(POD_A), &mut frame);
            let chosen = backends
                .iter()
                .position(|backend| frame == first.clone().to(backend).frame());
            hits[chosen.expect("one of the backends")] += 1;
        }
        assert!(hits.iter().all(|&n| (150..250).contains(&n)), "{hits:?}");
    });
}

#[test]
fn p1_a_priority_tag_a_longer_header_and_an_empty_checksum_are_no_obstacle() {
    let names = &crate::node::BOTH[0];
    let v6 = &crate::node::BOTH[1];
    let (vip, backend) = (at(names.cluster_ip, 80), at(names.far_pod, 8080));
    let (vip6, backend6) = (at(v6.cluster_ip, 80), at(v6.far_pod, 8080));
    let (client, client6) = (at(names.pod_a, 40_000), at(v6.pod_a, 40_000));
    let syn = Segment::tcp(&client, &vip).syn();
    let syn6 = Segment::tcp(&client6, &vip6).syn();
    let datagram = Segment::udp(&client, &vip).payload(b"12345");
    let shapes = [
        syn.clone().tagged(0x8100, 0xe000),
        syn.clone().tagged(0x88a8, 0x0000),
        syn.clone().ip_options(&[7, 39, 4]),
        syn.clone().ip_options(&[1; 40]),
        datagram.clone().without_checksum(),
        syn6.clone().tagged(0x8100, 0x6000),
        syn6.clone().extension(0, &[5, 2, 0, 0]),
        syn6.clone()
            .extension(0, &[0; 14])
            .extension(43, &[0; 6])
            .extension(60, &[0; 22])
            .extension(60, &[]),
    ];
    for shape in shapes {
        let fresh = || {
            let world = node(names);
            for protocol in [6, 17] {
                let service = Service::new(protocol);
                world.add_service(
                    &service
                        .clone()
                        .frontend(FrontendKind::ClusterIp, &vip)
                        .backend(&backend),
                );
                world.add_service(
                    &service
                        .frontend(FrontendKind::ClusterIp, &vip6)
                        .backend(&backend6),
                );
            }
            world
        };
        let to = if shape.is_v4() { &backend } else { &backend6 };
        tell(fresh, || {
            vec![packet(
                "translated like any other",
                Hook::Pod(POD_B),
                &shape,
                Fate::GoesOn(shape.clone().to(to)),
            )]
        });
    }
}
