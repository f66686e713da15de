//! `--masquerade-local` (semantics A2): which flows are marked for masquerading by netfilter.

use proxy_common::{
    abi::{
        counter::Counter,
        flow::flow_flags,
        frontend::{FrontendKind, Scope},
        meta::List,
        target::backend_lists,
    },
    datapath::Verdict,
    host::{Frame, MacPair, Segment, Service, World, fragments},
    tables::FlowTable,
};

use crate::{
    fixture::{Cast, Fate, Hook, Step, for_each_cast, packet, run, tell, then},
    node::{BRIDGE, MAC_UPLINK, OVERLAY, POD_A, POD_B, SNAT_PORT, UPLINK, at, host, node},
};

const MARK: u32 = 0x4;

/// A Service for each kind of frontend that is served to clients outside, and its `address:port`. The ClusterIP
/// needs `--external-cluster-ip`.
fn frontends(cast: &Cast) -> Vec<(Service, String)> {
    let names = cast.names;
    let service = || Service::new(cast.protocol);
    let (balancer, external, cluster) = (
        at(names.load_balancer, 80),
        at(names.external_ip, 80),
        at(names.cluster_ip, 80),
    );
    let own = cluster.parse().expect("an address");
    vec![
        (
            service().node_port(names.family, 30_001),
            at(names.node, 30_001),
        ),
        (
            service().frontend(FrontendKind::LoadBalancer, &balancer),
            balancer,
        ),
        (
            service().frontend(FrontendKind::ExternalIp, &external),
            external,
        ),
        (
            service().scoped(FrontendKind::ClusterIp, own, Scope::External),
            cluster,
        ),
    ]
}

/// A node with `--masquerade-local`.
fn world(cast: &Cast, service: &Service) -> World {
    let world = node(cast.names);
    world.configure(|settings| settings.masquerade_mark = MARK);
    world.add_service(service);
    world
}

/// A node with `--masquerade-local`, where the Service's frontends use the local list.
fn with_local_list(cast: &Cast, service: &Service) -> World {
    let world = world(cast, service);
    let id = world.targets.written().len() as u32 - 1;
    let mut target = world.targets.get(id).expect("the target");
    target.flags = backend_lists::bit(List::Local);
    world.targets.set(id, target);
    world
}

/// A conversation: the client's first packet, its reply, and a later packet. `fate` is expected for the
/// client's packets.
fn conversation(
    cast: &Cast,
    hook: Hook,
    [client, frontend, backend]: [&str; 3],
    fate: fn(Segment) -> Fate,
) -> Vec<Step<'static>> {
    let Hook::In(device) = hook else {
        panic!("the hook must be the ingress of an uplink or overlay");
    };
    let raw = |segment: Segment| {
        if device == OVERLAY {
            segment.raw_ip()
        } else {
            segment
        }
    };
    let first = raw(cast.first(client, frontend));
    let later = raw(cast.later(client, frontend));
    let answer = cast.answer(backend, client);
    let leaving = raw(answer.clone());
    vec![
        packet(
            "the first packet",
            hook,
            &first,
            fate(first.clone().to(backend)),
        ),
        packet(
            "retransmitted",
            hook,
            &first,
            fate(first.clone().to(backend)),
        ),
        Step::Counted(Counter::FlowCreated, 1),
        packet(
            "the reply at ingress; conntrack has restored the client's address",
            Hook::Pod(POD_B),
            &answer,
            Fate::Passes,
        ),
        packet(
            "the reply at egress",
            Hook::Out(device),
            &leaving,
            Fate::GoesOn(leaving.clone().from(frontend)),
        ),
        packet(
            "a later packet",
            hook,
            &later,
            fate(later.clone().to(backend)),
        ),
        Step::Counted(Counter::FlowCreated, 1),
        Step::Counted(Counter::FlowConfirmed, 1),
    ]
}

#[test]
fn a2_masquerade_local_is_for_what_comes_from_outside_to_a_pod_here() {
    for_each_cast(|cast| {
        let names = cast.names;
        for (hook, client) in [
            (Hook::In(UPLINK), names.client),
            (Hook::In(OVERLAY), names.overlay_pod),
        ] {
            let client = at(client, 50_000);
            for (service, frontend) in frontends(&cast) {
                let backend = at(names.pod_b, 8080);
                for service in [
                    service.clone().local_backend(&backend),
                    // The EndpointSlice has no node name, but the route leads to the pod's device.
                    service.backend(&backend),
                ] {
                    tell(
                        || world(&cast, &service),
                        || {
                            let ends = [client.as_str(), &frontend, &backend];
                            conversation(&cast, hook, ends, Fate::IsMasqueraded)
                        },
                    );
                }
            }
        }
    });
}

#[test]
fn a2_masquerade_local_is_not_for_a_local_list_nor_for_the_node_itself() {
    for_each_cast(|cast| {
        let names = cast.names;
        let client = at(names.client, 50_000);
        for (service, frontend) in frontends(&cast) {
            let stays = |fresh: &dyn Fn(&Service) -> World, backend: &str| {
                let backend = at(backend, 8080);
                let service = service.clone().local_backend(&backend);
                let ends = [client.as_str(), &frontend, &backend];
                tell(
                    || fresh(&service),
                    || conversation(&cast, Hook::In(UPLINK), ends, Fate::GoesOn),
                );
            };
            stays(&|service| with_local_list(&cast, service), names.pod_b);
            stays(&|service| world(&cast, service), names.node);
            stays(&|service| world(&cast, service), names.quiet_node);
        }
    });
}

#[test]
fn a1_masquerade_local_leaves_pods_of_this_node_their_address() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (client, backend) = (at(names.pod_a, 50_000), at(names.pod_b, 8080));
        for (service, frontend) in frontends(&cast).into_iter().take(3) {
            let service = service.local_backend(&backend);
            let first = cast.first(&client, &frontend);
            tell(
                || world(&cast, &service),
                || {
                    vec![packet(
                        "from a pod",
                        Hook::Pod(POD_A),
                        &first,
                        Fate::GoesOn(first.clone().to(&backend)),
                    )]
                },
            );
        }
    });
}

#[test]
fn a2_masquerade_local_changes_nothing_for_a_remote_backend() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (client, backend) = (at(names.client, 50_000), at(names.far_pod, 8080));
        for (service, frontend) in frontends(&cast) {
            let service = service.backend(&backend);
            let first = cast.first(&client, &frontend);
            let out = first.clone().from(&at(names.node, SNAT_PORT)).to(&backend);
            tell(
                || world(&cast, &service),
                || {
                    vec![
                        packet(
                            "the first packet",
                            Hook::In(UPLINK),
                            &first,
                            Fate::Leaves(UPLINK, out.clone().hop_limit(63)),
                        ),
                        then("the flow is not marked for masquerading", |world| {
                            let flows = world.flow_table(FlowTable::New).entries();
                            let (_, flow) = flows.into_iter().next().expect("the flow");
                            assert_eq!(flow.flags, flow_flags::SNAT);
                        }),
                    ]
                },
            );
        }
    });
}

/// A flow keeps the source address that its backend saw first, whatever the option becomes.
#[test]
fn a2_masquerade_local_holds_for_flows_that_begin() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (client, backend) = (at(names.client, 50_000), at(names.pod_b, 8080));
        let (service, frontend) = frontends(&cast).remove(0);
        let service = service.local_backend(&backend);
        for (from, to, fate) in [
            (0, MARK, Fate::GoesOn as fn(Segment) -> Fate),
            (MARK, 0, Fate::IsMasqueraded),
        ] {
            tell(
                || {
                    let world = world(&cast, &service);
                    world.configure(|settings| settings.masquerade_mark = from);
                    world
                },
                || {
                    let ends = [client.as_str(), &frontend, &backend];
                    let mut steps = conversation(&cast, Hook::In(UPLINK), ends, fate);
                    let set = move |world: &World| {
                        world.configure(|settings| settings.masquerade_mark = to);
                    };
                    steps.insert(1, then("the agent is restarted with the other option", set));
                    steps
                },
            );
        }
    });
}

/// The uplink is a port of the pods' bridge. A bridged packet would bypass netfilter's masquerade rule.
#[test]
fn a2_masquerade_local_is_routed_where_it_could_be_bridged() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (client, backend) = (at(names.client, 50_000), at(names.pod_d, 8080));
        let (service, frontend) = frontends(&cast).remove(1);
        let service = service.local_backend(&backend);
        let macs = MacPair {
            dst: MAC_UPLINK,
            src: [2, 0, 0, 0, 0, 0xfe],
        };
        let first = cast.first(&client, &frontend).macs(macs);
        tell(
            || {
                let world = world(&cast, &service);
                let mut device = world.devices.get(&UPLINK).expect("the uplink");
                device.bridge = BRIDGE;
                world.devices.put(UPLINK, device);
                world
            },
            || {
                let about = |from: &str, to: &str| cast.later(from, to).quoted(8);
                let kind = if first.is_v4() { [3, 3] } else { [1, 4] };
                let error = |to: &str, quoted: &[u8]| {
                    Segment::icmp_error(names.client, to, kind, quoted).macs(macs)
                };
                let told = error(&host(&frontend), &about(&frontend, &client));
                vec![
                    packet(
                        "routed: its MAC addresses stay",
                        Hook::In(UPLINK),
                        &first,
                        Fate::IsMasqueraded(first.clone().to(&backend)),
                    ),
                    // Semantics P2: netfilter matches the error to its flow by the masqueraded address.
                    packet(
                        "an error is routed, too",
                        Hook::In(UPLINK),
                        &told,
                        Fate::GoesOn(error(names.pod_d, &about(&backend, &client))),
                    ),
                ]
            },
        );
    });
}

#[test]
fn p3_masquerade_local_is_for_all_fragments() {
    for_each_cast(|cast| {
        let names = cast.names;
        // Ports stay the same, since SCTP fragments are dropped if ports change.
        let (client, backend) = (at(names.client, 50_000), at(names.pod_b, 80));
        let (service, frontend) = frontends(&cast).remove(1);
        let world = world(&cast, &service.local_backend(&backend));
        let begin = cast.first(&client, &frontend);
        let said = run(&world, Hook::In(UPLINK), &mut begin.frame());
        assert_eq!(said, Verdict::Masquerade);
        let answer = cast.answer(&backend, &client);
        run(&world, Hook::Out(UPLINK), &mut answer.frame());
        let packet = cast.later(&client, &frontend).payload(&[7; 90]);
        for piece in fragments(&packet.bytes(), 14, 77, 40) {
            let said = run(&world, Hook::In(UPLINK), &mut Frame::new(piece));
            assert_eq!(said, Verdict::Masquerade);
        }
    });
}
