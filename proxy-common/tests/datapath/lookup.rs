//! Lookup of a packet's frontend.

use proxy_common::{
    abi::{
        counter::Counter,
        frontend::{FrontendKind, FrontendValue},
        target::{RangeKey, TargetState, target_flags::FILTERS_ALL},
    },
    addr::Addr,
    host::{Listener, Service, World},
};

use crate::{
    fixture::{Cast, Fate, Hook, Step, for_each_cast, packet, tell},
    node::{POD_A, UPLINK, addr, at, node},
};

/// The two directions from which a packet can reach an address of this node: from a pod and from outside.
fn hooks(cast: &Cast) -> [(Hook, String); 2] {
    [
        (Hook::Pod(POD_A), at(cast.names.pod_a, 40_000)),
        (Hook::In(UPLINK), at(cast.names.client, 40_000)),
    ]
}

#[test]
fn s7_an_external_ip_on_a_nodes_address_leaves_its_listeners_alone() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (frontend, backend) = (at(names.node, 8443), at(names.pod_b, 8080));
        let service = Service::new(cast.protocol)
            .frontend(FrontendKind::ExternalIp, &frontend)
            .local_backend(&backend);
        for (hook, client) in hooks(&cast) {
            for listener in [addr(names.node), Addr::unspecified(names.family)] {
                let first = cast.first(&client, &frontend);
                let fresh = || {
                    let world = node(names);
                    world.add_service(&service);
                    world
                };
                tell(fresh, || {
                    vec![packet(
                        "no local listener",
                        hook,
                        &first,
                        Fate::GoesOn(first.clone().to(&backend)),
                    )]
                });
                let listening = || {
                    let world = fresh();
                    let listener = Listener {
                        protocol: cast.protocol,
                        addr: listener,
                        port: 8443,
                    };
                    world.listeners.put(listener, ());
                    world
                };
                tell(listening, || {
                    vec![packet("a local listener", hook, &first, Fate::Passes)]
                });
            }
        }
    });
}

#[test]
fn s7_a_listener_takes_no_traffic_of_other_kinds_or_addresses() {
    for_each_cast(|cast| {
        let names = cast.names;
        let backend = at(names.pod_b, 8080);
        let elsewhere = at(names.external_ip, 8443);
        let service = Service::new(cast.protocol)
            .frontend(FrontendKind::ExternalIp, &elsewhere)
            .node_port(names.family, 8443)
            .local_backend(&backend);
        for (hook, client) in hooks(&cast) {
            for frontend in [at(names.node, 8443), elsewhere.clone()] {
                let first = cast.first(&client, &frontend);
                tell(
                    || {
                        let world = node(names);
                        world.add_service(&service);
                        let listener = Listener {
                            protocol: cast.protocol,
                            addr: Addr::unspecified(names.family),
                            port: 8443,
                        };
                        world.listeners.put(listener, ());
                        world
                    },
                    || {
                        vec![packet(
                            "goes to the Service",
                            hook,
                            &first,
                            Fate::GoesOn(first.clone().to(&backend)),
                        )]
                    },
                );
            }
        }
    });
}

#[test]
fn an_address_of_its_own_comes_before_a_node_port() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (by_port, by_address) = (at(names.pod_a, 1), at(names.pod_b, 2));
        for (hook, client) in hooks(&cast) {
            let frontend = at(names.node, 30_001);
            let first = cast.first(&client, &frontend);
            tell(
                || {
                    let world = node(names);
                    let service = Service::new(cast.protocol);
                    world.add_service(
                        &service
                            .clone()
                            .node_port(names.family, 30_001)
                            .local_backend(&by_port),
                    );
                    world.add_service(
                        &service
                            .frontend(FrontendKind::LoadBalancer, &frontend)
                            .local_backend(&by_address),
                    );
                    world
                },
                || {
                    vec![packet(
                        "the address wins",
                        hook,
                        &first,
                        Fate::GoesOn(first.clone().to(&by_address)),
                    )]
                },
            );
        }
    });
}

#[test]
fn a_frontend_element_reused_for_another_key_is_not_believed() {
    for_each_cast(|cast| {
        let names = cast.names;
        let frontend = at(names.load_balancer, 80);
        let service = Service::new(cast.protocol)
            .frontend(FrontendKind::LoadBalancer, &frontend)
            .backend(&at(names.far_pod, 8080));
        let fresh = || {
            let world = node(names);
            world.add_service(&service);
            for (key, value) in world.frontends.entries() {
                world.frontends.put(key, FrontendValue(value.0 ^ (1 << 32)));
            }
            world
        };
        for (hook, client) in hooks(&cast) {
            let first = cast.first(&client, &frontend);
            tell(fresh, || {
                vec![packet("a stale element", hook, &first, Fate::Passes)]
            });
        }
    });
}

#[test]
fn b5_endpoints_that_no_policy_allows_here_drop() {
    for_each_cast(|cast| {
        let names = cast.names;
        let frontend = at(names.load_balancer, 80);
        for (state, fate) in [
            (
                TargetState::Drop,
                Fate::Dropped(Counter::DropNoLocalEndpoint),
            ),
            (TargetState::Absent, Fate::Passes),
        ] {
            let service = Service::new(cast.protocol)
                .frontend(FrontendKind::LoadBalancer, &frontend)
                .state(state);
            let counted = u64::from(state == TargetState::Drop);
            for (hook, client) in hooks(&cast) {
                let first = cast.first(&client, &frontend);
                tell(
                    || {
                        let world: World = node(names);
                        world.add_service(&service);
                        world
                    },
                    || {
                        vec![
                            packet("the first packet", hook, &first, fate.clone()),
                            Step::Counted(Counter::DropNoLocalEndpoint, counted),
                        ]
                    },
                );
            }
        }
    });
}

#[test]
fn a3_a_load_balancer_lets_in_who_is_in_its_ranges() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (ranged, cluster) = (at(names.load_balancer, 80), at(names.cluster_ip, 80));
        let external = at(names.external_ip, 80);
        let backend = at(names.pod_b, 8080);
        let fresh = |clients: &[&str]| {
            let world = node(names);
            let placed = world.add_service(
                &Service::new(cast.protocol)
                    .frontend(FrontendKind::LoadBalancer, &ranged)
                    .frontend(FrontendKind::ExternalIp, &external)
                    .frontend(FrontendKind::ClusterIp, &cluster)
                    .local_backend(&backend),
            );
            let mut target = world.targets.get(placed.target).expect("the target");
            target.ranges = 5;
            world.targets.set(placed.target, target);
            for client in clients {
                world
                    .source_ranges
                    .put(RangeKey::of_client(5, addr(client)), 1);
            }
            // A range of another set covers all addresses.
            let all = RangeKey {
                prefix_len: RangeKey::SET_BITS,
                set: 6,
                addr: Addr::UNSPECIFIED_V6,
            };
            world.source_ranges.put(all, 1);
            world
        };
        for (hook, client) in hooks(&cast) {
            let asks = |frontend: &str| cast.first(&client, frontend);
            let let_in = |what, frontend: &str| {
                let first = asks(frontend);
                packet(what, hook, &first, Fate::GoesOn(first.clone().to(&backend)))
            };
            tell(
                || fresh(&[names.pod_a, names.client]),
                || vec![let_in("in a range", &ranged)],
            );
            tell(
                || fresh(&[names.pod_b]),
                || {
                    vec![
                        packet(
                            "in no range",
                            hook,
                            &asks(&ranged),
                            Fate::Dropped(Counter::DropSourceRange),
                        ),
                        Step::Counted(Counter::DropSourceRange, 1),
                        let_in("another kind of frontend", &external),
                    ]
                },
            );
            tell(
                || {
                    let world = fresh(&[names.pod_b]);
                    let id = world.targets.written().len() as u32 - 1;
                    let mut target = world.targets.get(id).expect("the target");
                    target.flags |= FILTERS_ALL;
                    world.targets.set(id, target);
                    world
                },
                || {
                    vec![packet(
                        "another kind of frontend, with the option",
                        hook,
                        &asks(&external),
                        Fate::Dropped(Counter::DropSourceRange),
                    )]
                },
            );
            tell(
                || fresh(&[]),
                || {
                    vec![packet(
                        "an empty set of ranges",
                        hook,
                        &asks(&ranged),
                        Fate::Dropped(Counter::DropSourceRange),
                    )]
                },
            );
        }
    });
}
