//! Packets from clients outside this node.

use proxy_common::{
    abi::{counter::Counter, frontend::FrontendKind, settings::PortRange},
    host::{Service, World},
};

use crate::{
    fixture::{Cast, Fate, Hook, Step, for_each_cast, packet, tell, then},
    node::{OVERLAY, POD_B, SNAT_PORT, UPLINK, addr, at, node},
};

const HOPS: u8 = 64;

/// A Service for each kind of frontend that is served to clients outside, and its `address:port`.
fn frontends(cast: &Cast) -> Vec<(Service, String)> {
    let names = cast.names;
    let service = Service::new(cast.protocol);
    let of = |kind, address: &str| {
        let frontend = at(address, 80);
        (service.clone().frontend(kind, &frontend), frontend)
    };
    vec![
        (
            service.clone().node_port(names.family, 30_001),
            at(names.node, 30_001),
        ),
        of(FrontendKind::LoadBalancer, names.load_balancer),
        of(FrontendKind::ExternalIp, names.external_ip),
    ]
}

fn world(cast: &Cast, service: &Service) -> World {
    let world = node(cast.names);
    world.add_service(service);
    world
}

#[test]
fn a2_a_local_backend_sees_the_client() {
    for_each_cast(|cast| {
        let names = cast.names;
        let client = at(names.client, 50_000);
        for (service, frontend) in frontends(&cast) {
            for backend in [at(names.pod_b, 8080), at(names.node, 8080)] {
                let service = service.clone().local_backend(&backend);
                let first = cast.first(&client, &frontend);
                let answer = cast.answer(&backend, &client);
                let later = cast.later(&client, &frontend);
                tell(
                    || world(&cast, &service),
                    || {
                        vec![
                            packet(
                                "the first packet",
                                Hook::In(UPLINK),
                                &first,
                                Fate::GoesOn(first.clone().to(&backend)),
                            ),
                            packet(
                                "the reply at ingress from the pod",
                                Hook::Pod(POD_B),
                                &answer,
                                Fate::Passes,
                            ),
                            packet(
                                "the reply at egress of any device",
                                Hook::Out(UPLINK),
                                &answer,
                                Fate::GoesOn(answer.clone().from(&frontend)),
                            ),
                            packet(
                                "a later packet",
                                Hook::In(UPLINK),
                                &later,
                                Fate::GoesOn(later.clone().to(&backend)),
                            ),
                            Step::Counted(Counter::FlowCreated, 1),
                            Step::Counted(Counter::FlowConfirmed, 1),
                        ]
                    },
                );
            }
        }
    });
}

#[test]
fn a2_a_remote_backend_sees_this_node_and_the_answer_finds_the_client() {
    for_each_cast(|cast| {
        let names = cast.names;
        let client = at(names.client, 50_000);
        for (service, frontend) in frontends(&cast) {
            for remote in [names.far_pod, names.far_node] {
                let (backend, source) = (at(remote, 8080), at(names.node, SNAT_PORT));
                let service = service.clone().backend(&backend);
                let first = cast.first(&client, &frontend);
                let answer = cast.answer(&backend, &source);
                let (later, more) = (
                    cast.later(&client, &frontend),
                    cast.later(&backend, &source),
                );
                let out = |segment: &proxy_common::host::Segment| {
                    Fate::Leaves(
                        UPLINK,
                        segment
                            .clone()
                            .from(&source)
                            .to(&backend)
                            .hop_limit(HOPS - 1),
                    )
                };
                let back = |segment: &proxy_common::host::Segment| {
                    Fate::Leaves(
                        UPLINK,
                        segment
                            .clone()
                            .from(&frontend)
                            .to(&client)
                            .hop_limit(HOPS - 1),
                    )
                };
                tell(
                    || world(&cast, &service),
                    || {
                        vec![
                            packet("the first packet", Hook::In(UPLINK), &first, out(&first)),
                            packet(
                                "the translated packet at egress",
                                Hook::Out(UPLINK),
                                &first.clone().from(&source).to(&backend),
                                Fate::Passes,
                            ),
                            packet(
                                "retransmitted before any reply",
                                Hook::In(UPLINK),
                                &first,
                                out(&first),
                            ),
                            Step::Counted(Counter::FlowCreated, 1),
                            packet("the reply", Hook::In(UPLINK), &answer, back(&answer)),
                            Step::Counted(Counter::FlowConfirmed, 1),
                            packet(
                                "the translated reply at egress",
                                Hook::Out(UPLINK),
                                &answer.clone().from(&frontend).to(&client),
                                Fate::Passes,
                            ),
                            packet("a later packet", Hook::In(UPLINK), &later, out(&later)),
                            packet("a later reply", Hook::In(UPLINK), &more, back(&more)),
                            Step::Counted(Counter::FlowCreated, 1),
                            Step::Counted(Counter::FlowConfirmed, 1),
                        ]
                    },
                );
            }
        }
    });
}

#[test]
fn a2_the_source_is_of_the_device_that_leads_to_the_backend() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (client, backend) = (at(names.client, 50_000), at(names.overlay_pod, 8080));
        let (service, frontend) = frontends(&cast).remove(0);
        let service = service.backend(&backend);
        let source = at(names.overlay_node, SNAT_PORT);
        let first = cast.first(&client, &frontend);
        let answer = cast.answer(&backend, &source).raw_ip();
        tell(
            || world(&cast, &service),
            || {
                vec![
                    packet(
                        "from the uplink into the overlay",
                        Hook::In(UPLINK),
                        &first,
                        Fate::Leaves(
                            OVERLAY,
                            first.clone().from(&source).to(&backend).hop_limit(HOPS - 1),
                        ),
                    ),
                    packet(
                        "from the overlay, without an Ethernet header, to the uplink",
                        Hook::In(OVERLAY),
                        &answer,
                        Fate::Leaves(
                            UPLINK,
                            answer
                                .clone()
                                .from(&frontend)
                                .to(&client)
                                .hop_limit(HOPS - 1),
                        ),
                    ),
                ]
            },
        );
    });
}

#[test]
fn a_client_behind_the_overlay_is_answered_there() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (client, backend) = (at(names.overlay_pod, 50_000), at(names.pod_b, 8080));
        let (service, frontend) = frontends(&cast).remove(0);
        let service = service.local_backend(&backend);
        let first = cast.first(&client, &frontend).raw_ip();
        let answer = cast.answer(&backend, &client).raw_ip();
        tell(
            || world(&cast, &service),
            || {
                vec![
                    packet(
                        "the first packet",
                        Hook::In(OVERLAY),
                        &first,
                        Fate::GoesOn(first.clone().to(&backend)),
                    ),
                    packet(
                        "the reply",
                        Hook::Out(OVERLAY),
                        &answer,
                        Fate::GoesOn(answer.clone().from(&frontend)),
                    ),
                ]
            },
        );
    });
}

#[test]
fn a_backend_behind_a_pods_device_is_not_masqueraded_whatever_its_slice_says() {
    for_each_cast(|cast| {
        let names = cast.names;
        for pod in [names.pod_b, names.pod_d] {
            let (client, backend) = (at(names.client, 50_000), at(pod, 8080));
            let (service, frontend) = frontends(&cast).remove(1);
            let service = service.backend(&backend);
            let first = cast.first(&client, &frontend);
            tell(
                || world(&cast, &service),
                || {
                    vec![packet(
                        "the first packet",
                        Hook::In(UPLINK),
                        &first,
                        Fate::GoesOn(first.clone().to(&backend)),
                    )]
                },
            );
        }
    });
}

#[test]
fn a2_a_client_that_is_the_remote_backend_itself_is_masqueraded_like_any_other() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (client, backend) = (at(names.far_node, 50_000), at(names.far_node, 8080));
        for (service, frontend) in frontends(&cast) {
            let service = service.backend(&backend);
            let source = at(names.node, SNAT_PORT);
            let first = cast.first(&client, &frontend);
            let answer = cast.answer(&backend, &source);
            tell(
                || world(&cast, &service),
                || {
                    vec![
                        packet(
                            "masqueraded: the frontend's address may not route back to this node",
                            Hook::In(UPLINK),
                            &first,
                            Fate::Leaves(
                                UPLINK,
                                first.clone().from(&source).to(&backend).hop_limit(HOPS - 1),
                            ),
                        ),
                        packet(
                            "the reply",
                            Hook::In(UPLINK),
                            &answer,
                            Fate::Leaves(
                                UPLINK,
                                answer
                                    .clone()
                                    .from(&frontend)
                                    .to(&client)
                                    .hop_limit(HOPS - 1),
                            ),
                        ),
                    ]
                },
            );
        }
    });
}

#[test]
fn s6_a_cluster_ip_is_not_for_the_outside() {
    for_each_cast(|cast| {
        let names = cast.names;
        let frontend = at(names.cluster_ip, 80);
        let service = Service::new(cast.protocol)
            .frontend(FrontendKind::ClusterIp, &frontend)
            .backend(&at(names.far_pod, 8080));
        let first = cast.first(&at(names.client, 50_000), &frontend);
        tell(
            || world(&cast, &service),
            || vec![packet("first", Hook::In(UPLINK), &first, Fate::Passes)],
        );
    });
}

#[test]
fn p6_what_cannot_be_sent_on_is_dropped_and_counted() {
    for_each_cast(|cast| {
        let names = cast.names;
        let client = at(names.client, 50_000);
        let (service, frontend) = frontends(&cast).remove(0);
        let story = |backend: &str, change: &dyn Fn(&World), reason: Counter| {
            let service = service.clone().backend(backend);
            let first = cast.first(&client, &frontend);
            tell(
                || {
                    let world = world(&cast, &service);
                    change(&world);
                    world
                },
                || {
                    vec![
                        packet(
                            "the first packet",
                            Hook::In(UPLINK),
                            &first,
                            Fate::Dropped(reason),
                        ),
                        Step::Counted(reason, 1),
                    ]
                },
            );
        };
        let far = at(names.far_pod, 8080);
        let unroutable = match names.family {
            proxy_common::addr::Family::V4 => "172.31.0.1:80",
            proxy_common::addr::Family::V6 => "[fc00::1]:80",
        };
        story(unroutable, &|_| {}, Counter::DropNoRoute);
        let without_address = |world: &World| {
            let mut device = world.devices.get(&UPLINK).expect("the uplink");
            (device.snat_v4, device.snat_v6) = (addr("0.0.0.0"), addr("::"));
            world.devices.put(UPLINK, device);
        };
        story(&far, &without_address, Counter::DropNoSourceAddress);
        let unknown_device = |world: &World| {
            world.devices.remove(&UPLINK);
        };
        story(&far, &unknown_device, Counter::DropNoSourceAddress);
        let no_ports = |world: &World| {
            world.configure(|settings| settings.snat_ports = [PortRange::default(); 4]);
        };
        story(&far, &no_ports, Counter::DropNoSourcePort);
        let stale = |world: &World| {
            world.set_backend_state(1, proxy_common::abi::target::BackendState::NotServing);
        };
        story(&far, &stale, Counter::DropStaleBackend);
    });
}

#[test]
fn p6_an_answer_that_cannot_be_sent_back_is_dropped_and_counted() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (client, backend) = (at(names.client, 50_000), at(names.far_pod, 8080));
        let (service, frontend) = frontends(&cast).remove(0);
        let service = service.backend(&backend);
        let source = at(names.node, SNAT_PORT);
        let first = cast.first(&client, &frontend);
        let answer = cast.answer(&backend, &source);
        let out = first.clone().from(&source).to(&backend).hop_limit(HOPS - 1);
        tell(
            || world(&cast, &service),
            || {
                vec![
                    packet(
                        "the first packet",
                        Hook::In(UPLINK),
                        &first,
                        Fate::Leaves(UPLINK, out.clone()),
                    ),
                    then("no route to the client", |world| {
                        world.set_routes(|_| proxy_common::tables::Route::None);
                    }),
                    packet(
                        "the reply without a route",
                        Hook::In(UPLINK),
                        &answer,
                        Fate::Dropped(Counter::DropNoRoute),
                    ),
                ]
            },
        );
    });
}
