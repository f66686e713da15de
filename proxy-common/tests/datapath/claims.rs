//! No two flows share a reverse tuple.

use proxy_common::{
    abi::{counter::Counter, frontend::FrontendKind, protocol},
    datapath::Verdict,
    host::{Segment, Service, World},
};

use crate::{
    fixture::{Cast, Fate, Hook, Step, for_each_cast, packet, run, tell, then},
    node::{Names, POD_A, SNAT_PORT, UPLINK, at, node},
};

/// Two Services with the same backends.
pub fn twins(cast: &Cast, backends: &[&str]) -> World {
    let world = node(cast.names);
    for frontend in [cast.names.cluster_ip, cast.names.other_cluster_ip] {
        let service = backends.iter().fold(
            Service::new(cast.protocol).frontend(FrontendKind::ClusterIp, &at(frontend, 80)),
            |service, backend| service.backend(backend),
        );
        world.add_service(&service);
    }
    world
}

pub fn vips(names: &Names) -> [String; 2] {
    [at(names.cluster_ip, 80), at(names.other_cluster_ip, 80)]
}

/// Sends a request from a pod and returns its translated bytes.
fn ask(world: &World, request: &Segment) -> Vec<u8> {
    let mut frame = request.frame();
    assert_eq!(run(world, Hook::Pod(POD_A), &mut frame), Verdict::Continue);
    frame.bytes().to_vec()
}

/// Checks that a reply is translated to come from this frontend.
#[track_caller]
fn answered(world: &World, answer: &Segment, from: &str, to: &str) {
    let mut frame = answer.frame();
    assert_eq!(run(world, Hook::Out(POD_A), &mut frame), Verdict::Continue);
    assert_eq!(frame, answer.clone().from(from).to(to).frame());
}

#[test]
fn one_client_port_to_two_vips_takes_another_backend() {
    for_each_cast(|cast| {
        let names = cast.names;
        for port in 40_000..40_020 {
            let backends = [at(names.far_pod, 8080), at(names.pod_b, 8080)];
            let world = twins(&cast, &[&backends[0], &backends[1]]);
            let client = at(names.pod_a, port);
            let mut taken = Vec::new();
            for vip in &vips(names) {
                let first = cast.first(&client, vip);
                let became = ask(&world, &first);
                let chosen = backends
                    .iter()
                    .find(|backend| first.clone().to(backend).bytes() == became);
                // After three unsuccessful choices of a backend, the source port is translated.
                let Some(backend) = chosen else {
                    let moved = at(names.pod_a, SNAT_PORT);
                    assert!(backends.iter().any(|backend| {
                        first.clone().from(&moved).to(backend).bytes() == became
                    }));
                    continue;
                };
                assert!(!taken.contains(backend), "two flows share a tuple");
                taken.push(backend.clone());
                answered(&world, &cast.answer(backend, &client), vip, &client);
            }
        }
    });
}

#[test]
fn one_client_port_to_two_vips_with_one_backend_translates_the_port() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (client, backend) = (at(names.pod_a, 40_000), at(names.far_pod, 8080));
        let moved = at(names.pod_a, SNAT_PORT);
        let [one, other] = vips(names);
        let asks = |vip: &str, source: &str| {
            let first = cast.first(&client, vip);
            let after = first.clone().from(source).to(&backend);
            packet("asks", Hook::Pod(POD_A), &first, Fate::GoesOn(after))
        };
        let answers = |vip: &str, source: &str| {
            let answer = cast.answer(&backend, source);
            let after = answer.clone().from(vip).to(&client);
            packet("answers", Hook::Out(POD_A), &answer, Fate::GoesOn(after))
        };
        // Whether unconfirmed or confirmed, the second flow gets another source port, and each reply comes from
        // its own frontend.
        tell(
            || twins(&cast, &[&backend]),
            || {
                vec![
                    asks(&one, &client),
                    asks(&other, &moved),
                    answers(&other, &moved),
                    answers(&one, &client),
                    asks(&other, &moved),
                    asks(&one, &client),
                    answers(&one, &client),
                    answers(&other, &moved),
                    Step::Counted(Counter::FlowCreated, 2),
                    Step::Counted(Counter::FlowConfirmed, 2),
                ]
            },
        );
        tell(
            || twins(&cast, &[&backend]),
            || {
                vec![
                    asks(&one, &client),
                    answers(&one, &client),
                    asks(&other, &moved),
                    answers(&other, &moved),
                    answers(&one, &client),
                ]
            },
        );
    });
}

#[test]
fn a_syn_of_somebody_else_retires_nothing() {
    for_each_cast(|cast| {
        if cast.protocol == protocol::UDP {
            return;
        }
        let names = cast.names;
        let (client, backend) = (at(names.pod_a, 40_000), at(names.far_pod, 8080));
        let [vip, _] = vips(names);
        let through = cast.first(&client, &vip);
        let answer = cast.answer(&backend, &client);
        // Its source is the VIP: the inverted key of the flow's forward half. No client of the VIP sends this.
        let forged = cast.first(&vip, &client);
        tell(
            || twins(&cast, &[&backend]),
            || {
                vec![
                    packet(
                        "through the VIP",
                        Hook::Pod(POD_A),
                        &through,
                        Fate::GoesOn(through.clone().to(&backend)),
                    ),
                    packet(
                        "answered",
                        Hook::Out(POD_A),
                        &answer,
                        Fate::GoesOn(answer.clone().from(&vip)),
                    ),
                    packet("forged", Hook::In(UPLINK), &forged, Fate::Passes),
                    packet(
                        "the flow still exists",
                        Hook::Pod(POD_A),
                        &cast.later(&client, &vip),
                        Fate::GoesOn(cast.later(&client, &backend)),
                    ),
                ]
            },
        );
    });
}

#[test]
fn a_reverse_half_that_was_evicted_alone_is_made_again() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (client, backend) = (at(names.pod_a, 40_000), at(names.far_pod, 8080));
        let [vip, _] = vips(names);
        let world = twins(&cast, &[&backend]);
        let first = cast.first(&client, &vip);
        ask(&world, &first);
        evict_reverse(&world);
        assert_eq!(ask(&world, &first), first.clone().to(&backend).bytes());
        answered(&world, &cast.answer(&backend, &client), &vip, &client);
    });
}

#[test]
fn a_reverse_half_that_was_evicted_alone_is_not_taken_back_from_its_next_holder() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (client, backend) = (at(names.pod_a, 40_000), at(names.far_pod, 8080));
        let moved = at(names.pod_a, SNAT_PORT);
        let [one, other] = vips(names);
        for confirmed in [false, true] {
            let world = twins(&cast, &[&backend]);
            let (first, second) = (cast.first(&client, &one), cast.first(&client, &other));
            ask(&world, &first);
            evict_reverse(&world);
            assert_eq!(ask(&world, &second), second.clone().to(&backend).bytes());
            if confirmed {
                answered(&world, &cast.answer(&backend, &client), &other, &client);
            }
            let again = first.clone().from(&moved).to(&backend);
            assert_eq!(ask(&world, &first), again.bytes(), "confirmed: {confirmed}");
            answered(&world, &cast.answer(&backend, &moved), &one, &client);
            answered(&world, &cast.answer(&backend, &client), &other, &client);
        }
    });
}

/// Removes the reverse half of the only unconfirmed flow.
fn evict_reverse(world: &World) {
    let reverse = world
        .new_flows
        .entries()
        .into_iter()
        .find(|(_, value)| value.half == proxy_common::abi::flow::Half::Reverse as u8);
    let (key, _) = reverse.expect("a reverse half");
    assert!(world.new_flows.remove(&key));
}

#[test]
fn an_unconfirmed_claim_may_be_taken_over_after_three_seconds() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (frontend, backend) = (at(names.load_balancer, 80), at(names.far_pod, 8080));
        let source = at(names.node, SNAT_PORT);
        let clients = [at(names.client, 1), at(names.client, 2)];
        let fresh = || {
            let world = node(names);
            world.add_service(
                &Service::new(cast.protocol)
                    .frontend(FrontendKind::LoadBalancer, &frontend)
                    .backend(&backend),
            );
            world
        };
        let asks = |client: &str| {
            let first = cast.first(client, &frontend);
            let after = first.clone().from(&source).to(&backend).hop_limit(63);
            packet(
                "asks",
                Hook::In(UPLINK),
                &first,
                Fate::Leaves(UPLINK, after),
            )
        };
        let in_vain = |client: &str| {
            packet(
                "asks in vain: the only port is taken",
                Hook::In(UPLINK),
                &cast.first(client, &frontend),
                Fate::Dropped(Counter::DropNoSourcePort),
            )
        };
        let answers = |client: &str| {
            let answer = cast.answer(&backend, &source);
            let after = answer.clone().from(&frontend).to(client).hop_limit(63);
            packet(
                "answers",
                Hook::In(UPLINK),
                &answer,
                Fate::Leaves(UPLINK, after),
            )
        };
        let later = |seconds: u32| then("time passes", move |world| world.pass_seconds(seconds));
        tell(fresh, || {
            vec![
                asks(&clients[0]),
                in_vain(&clients[1]),
                later(3),
                in_vain(&clients[1]),
                later(1),
                asks(&clients[1]),
                answers(&clients[1]),
                in_vain(&clients[0]),
                later(1000),
                in_vain(&clients[0]),
                answers(&clients[1]),
            ]
        });
    });
}

#[test]
fn a_tuple_of_an_unanswered_flow_may_be_taken_over_after_three_seconds() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (client, backend) = (at(names.pod_a, 40_000), at(names.far_pod, 8080));
        let moved = at(names.pod_a, SNAT_PORT);
        let [one, other] = vips(names);
        let asks = |vip: &str, source: &str| {
            let first = cast.first(&client, vip);
            let after = first.clone().from(source).to(&backend);
            packet("asks", Hook::Pod(POD_A), &first, Fate::GoesOn(after))
        };
        let answers = |vip: &str, source: &str| {
            let answer = cast.answer(&backend, source);
            let after = answer.clone().from(vip).to(&client);
            packet("answers", Hook::Out(POD_A), &answer, Fate::GoesOn(after))
        };
        tell(
            || twins(&cast, &[&backend]),
            || {
                vec![
                    asks(&one, &client),
                    then("time passes", |world| world.pass_seconds(4)),
                    asks(&other, &client),
                    answers(&other, &client),
                    asks(&one, &moved),
                    answers(&one, &moved),
                ]
            },
        );
    });
}

#[test]
fn many_clients_of_one_masqueraded_frontend_get_ports_of_their_own() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (frontend, backend) = (at(names.load_balancer, 80), at(names.far_pod, 8080));
        let world = node(names);
        world.configure(|settings| settings.snat_ports[0].last = SNAT_PORT + 999);
        world.add_service(
            &Service::new(cast.protocol)
                .frontend(FrontendKind::LoadBalancer, &frontend)
                .backend(&backend),
        );
        let mut sources = std::collections::BTreeSet::new();
        let transport = if names.family == proxy_common::addr::Family::V4 {
            14 + 20
        } else {
            14 + 40
        };
        for port in 1..=500 {
            let mut frame = cast.first(&at(names.client, port), &frontend).frame();
            let verdict = run(&world, Hook::In(UPLINK), &mut frame);
            assert_eq!(verdict, Verdict::Forward { ifindex: UPLINK });
            let source = frame.bytes()[transport..transport + 2].to_vec();
            assert!(sources.insert(source), "a source port was used twice");
        }
        assert_eq!(world.snat_claims.len(), 500);
    });
}
