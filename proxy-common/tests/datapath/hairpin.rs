//! Hairpin: a pod that reaches itself through its own Service.

use proxy_common::{
    abi::{counter::Counter, frontend::FrontendKind, settings::PortRange},
    host::Service,
};

use crate::{
    fixture::{Fate, Hook, Step, for_each_cast, packet, tell},
    node::{HAIRPIN_PORT, POD_A, POD_C, at, node},
};

#[test]
fn l5_both_directions_are_turned_round_at_the_pods_device() {
    for_each_cast(|cast| {
        let names = cast.names;
        // For a pod with a device of its own, and for a pod on a bridge port.
        for (pod, device) in [(names.pod_a, POD_A), (names.pod_c, POD_C)] {
            let (client, server) = (at(pod, 40_000), at(pod, 8080));
            let frontend = at(names.cluster_ip, 80);
            let (source, hook) = (at(names.cluster_ip, HAIRPIN_PORT), Hook::Pod(device));
            let service = Service::new(cast.protocol)
                .frontend(FrontendKind::ClusterIp, &frontend)
                .local_backend(&server);
            let first = cast.first(&client, &frontend);
            let answer = cast.answer(&server, &source);
            let (later, more) = (cast.later(&client, &frontend), cast.later(&server, &source));
            let there = |segment: &proxy_common::host::Segment| {
                Fate::Bounces(segment.clone().from(&source).to(&server).macs_swapped())
            };
            let back = |segment: &proxy_common::host::Segment| {
                Fate::Bounces(segment.clone().from(&frontend).to(&client).macs_swapped())
            };
            tell(
                || {
                    let world = node(names);
                    world.add_service(&service);
                    world
                },
                || {
                    vec![
                        packet("the first packet", hook, &first, there(&first)),
                        packet(
                            "at the egress of its device",
                            Hook::Out(device),
                            &first.clone().from(&source).to(&server),
                            Fate::Passes,
                        ),
                        packet("retransmitted", hook, &first, there(&first)),
                        packet("the reply", hook, &answer, back(&answer)),
                        packet(
                            "at the egress of its device",
                            Hook::Out(device),
                            &answer.clone().from(&frontend).to(&client),
                            Fate::Passes,
                        ),
                        packet("a later packet", hook, &later, there(&later)),
                        packet("a later reply", hook, &more, back(&more)),
                        Step::Counted(Counter::FlowCreated, 1),
                        Step::Counted(Counter::FlowConfirmed, 1),
                    ]
                },
            );
        }
    });
}

#[test]
fn p6_without_ports_for_it_a_hairpin_is_dropped_and_counted() {
    for_each_cast(|cast| {
        let names = cast.names;
        let frontend = at(names.cluster_ip, 80);
        let service = Service::new(cast.protocol)
            .frontend(FrontendKind::ClusterIp, &frontend)
            .local_backend(&at(names.pod_a, 8080));
        let first = cast.first(&at(names.pod_a, 40_000), &frontend);
        tell(
            || {
                let world = node(names);
                world.add_service(&service);
                world.configure(|settings| settings.hairpin_ports = PortRange::default());
                world
            },
            || {
                vec![packet(
                    "the first packet",
                    Hook::Pod(POD_A),
                    &first,
                    Fate::Dropped(Counter::DropNoSourcePort),
                )]
            },
        );
    });
}
