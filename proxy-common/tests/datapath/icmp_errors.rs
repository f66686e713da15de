//! ICMP errors about translated packets reach the senders of those packets, and quote what they sent
//! (semantics P2).

mod case;

use proxy_common::{
    abi::counter::Counter,
    datapath::Verdict,
    host::{Frame, Segment, World},
    tables::Route,
};

use self::case::{Case, Flow, HOPS, elsewhere, error, here, open, world};

use crate::{
    fixture::{Dump, Fate, Hook, Step, for_each_cast, packet, run, tell},
    node::{HAIRPIN_PORT, MAC_D, OVERLAY, POD_A, POD_C, UPLINK, at, host},
};

#[test]
fn p2_a_client_outside_is_told_by_its_frontend_of_a_backend_here() {
    for_each_cast(|cast| {
        let (names, flow) = (cast.names, here(cast.names));
        let [told, about] = flow.questions(&cast);
        for answered in [None, Some(Hook::Out(UPLINK))] {
            for router in [names.pod_a, names.node] {
                tell(
                    || {
                        let world = world(&cast, &flow.backend, true);
                        open(&cast, &world, Hook::In(UPLINK), &flow, answered);
                        world
                    },
                    || {
                        Case {
                            hook: Hook::Out(UPLINK),
                            before: (router, names.client, &about),
                            after: (names.node, names.client, &told),
                            fate: Fate::GoesOn,
                        }
                        .steps()
                    },
                );
            }
        }
    });
}

#[test]
fn p2_a_backend_here_is_told_of_its_answers_by_whoever_could_not_deliver_them() {
    for_each_cast(|cast| {
        let (names, flow) = (cast.names, here(cast.names));
        let [about, told] = flow.answers(&cast);
        for router in [names.client, names.elsewhere] {
            tell(
                || {
                    let world = world(&cast, &flow.backend, true);
                    let answered = Some(Hook::Out(UPLINK));
                    open(&cast, &world, Hook::In(UPLINK), &flow, answered);
                    world
                },
                || {
                    Case {
                        hook: Hook::In(UPLINK),
                        before: (router, names.node, &about),
                        after: (router, names.pod_a, &told),
                        fate: Fate::GoesOn,
                    }
                    .steps()
                },
            );
        }
    });
}

fn leaves(error: Segment) -> Fate {
    Fate::Leaves(UPLINK, error.hop_limit(HOPS - 1))
}

#[test]
fn p2_errors_about_a_translated_source_go_both_ways_through_this_node() {
    for_each_cast(|cast| {
        let (names, flow) = (cast.names, elsewhere(cast.names));
        let [to_client, to_backend] = [flow.questions(&cast), flow.answers(&cast)];
        for answered in [None, Some(Hook::In(UPLINK))] {
            for router in [names.elsewhere, names.far_pod, names.client] {
                let fresh = || {
                    let world = world(&cast, &flow.backend, false);
                    open(&cast, &world, Hook::In(UPLINK), &flow, answered);
                    world
                };
                tell(fresh, || {
                    Case {
                        hook: Hook::In(UPLINK),
                        before: (router, names.node, &to_client[1]),
                        after: (names.node, names.client, &to_client[0]),
                        fate: leaves,
                    }
                    .steps()
                });
                // Errors about replies need a reply first.
                if answered.is_none() {
                    continue;
                }
                tell(fresh, || {
                    Case {
                        hook: Hook::In(UPLINK),
                        before: (router, names.node, &to_backend[0]),
                        after: (names.node, names.far_pod, &to_backend[1]),
                        fate: leaves,
                    }
                    .steps()
                });
            }
        }
    });
}

#[test]
fn p2_a_pod_is_told_by_the_frontend_and_tells_the_backend() {
    for_each_cast(|cast| {
        let names = cast.names;
        let flow = Flow {
            client: at(names.pod_a, 40_000),
            frontend: at(names.cluster_ip, 80),
            source: at(names.pod_a, 40_000),
            backend: at(names.far_pod, 8080),
        };
        let fresh = || {
            let world = world(&cast, &flow.backend, false);
            let answered = Some(Hook::Out(POD_A));
            open(&cast, &world, Hook::Pod(POD_A), &flow, answered);
            world
        };
        let [told, about] = flow.questions(&cast);
        for hook in [Hook::In(UPLINK), Hook::Pod(POD_A)] {
            // Like the backend's replies, errors are not translated at ingress.
            let error = error(names.far_pod, names.pod_a, [3, 3], &about.quoted(8));
            tell(fresh, || {
                vec![packet("coming in", hook, &error, Fate::Passes)]
            });
        }
        tell(fresh, || {
            Case {
                hook: Hook::Out(POD_A),
                before: (names.far_pod, names.pod_a, &about),
                after: (names.cluster_ip, names.pod_a, &told),
                fate: Fate::GoesOn,
            }
            .steps()
        });
        let [about, told] = flow.answers(&cast);
        tell(fresh, || {
            Case {
                hook: Hook::Pod(POD_A),
                before: (names.pod_a, names.cluster_ip, &about),
                after: (names.pod_a, names.far_pod, &told),
                fate: Fate::GoesOn,
            }
            .steps()
        });
    });
}

#[test]
fn p2_l5_a_pod_that_reaches_itself_tells_itself() {
    for_each_cast(|cast| {
        let names = cast.names;
        let flow = Flow {
            client: at(names.pod_a, 40_000),
            frontend: at(names.cluster_ip, 80),
            source: at(names.cluster_ip, HAIRPIN_PORT),
            backend: at(names.pod_a, 8080),
        };
        let fresh = || {
            let world = world(&cast, &flow.backend, true);
            let answered = Some(Hook::Pod(POD_A));
            open(&cast, &world, Hook::Pod(POD_A), &flow, answered);
            world
        };
        let sides = [flow.questions(&cast), flow.answers(&cast)];
        let [to_client, to_backend] = &sides;
        for [told, about] in [to_client, &[to_backend[1].clone(), to_backend[0].clone()]] {
            tell(fresh, || {
                Case {
                    hook: Hook::Pod(POD_A),
                    before: (names.pod_a, names.cluster_ip, about),
                    after: (names.cluster_ip, names.pod_a, told),
                    fate: |error| Fate::Bounces(error.macs_swapped()),
                }
                .steps()
            });
        }
    });
}

/// Like packets between the two pods, so that both directions are bridged (ADR 1).
#[test]
fn p2_an_error_to_a_backend_on_the_clients_bridge_is_bridged() {
    for_each_cast(|cast| {
        let names = cast.names;
        let flow = Flow {
            client: at(names.pod_c, 40_000),
            frontend: at(names.cluster_ip, 80),
            source: at(names.pod_c, 40_000),
            backend: at(names.pod_d, 8080),
        };
        let world = world(&cast, &flow.backend, true);
        let answered = Some(Hook::Out(POD_C));
        open(&cast, &world, Hook::Pod(POD_C), &flow, answered);
        let [about, _] = flow.answers(&cast);
        let error = error(names.pod_c, names.cluster_ip, [3, 3], &about.quoted(8));
        let mut frame = error.frame();
        let verdict = run(&world, Hook::Pod(POD_C), &mut frame);
        assert_eq!(verdict, Verdict::Continue);
        assert_eq!(frame.bytes()[..6], MAC_D);
    });
}

#[test]
fn p2_on_devices_without_ethernet_headers() {
    for_each_cast(|cast| {
        let names = cast.names;
        let flow = Flow {
            client: at(names.overlay_pod, 40_000),
            frontend: at(names.load_balancer, 80),
            source: at(names.overlay_pod, 40_000),
            backend: at(names.pod_a, 8080),
        };
        let world = world(&cast, &flow.backend, true);
        let mut first = cast.first(&flow.client, &flow.frontend).raw_ip().frame();
        run(&world, Hook::In(OVERLAY), &mut first);
        let [told, about] = flow.questions(&cast);
        let out = |from, packet: &Segment| {
            error(from, names.overlay_pod, [3, 3], &packet.quoted(8)).raw_ip()
        };
        let mut frame = out(names.pod_a, &about).frame();
        let verdict = run(&world, Hook::Out(OVERLAY), &mut frame);
        assert_eq!(verdict, Verdict::Continue);
        let expected = out(names.load_balancer, &told);
        assert_eq!(Dump(frame.bytes()), Dump(&expected.bytes()));
    });
}

#[test]
fn p6_an_error_that_cannot_be_sent_on_is_dropped_and_not_answered() {
    for_each_cast(|cast| {
        let (names, flow) = (cast.names, elsewhere(cast.names));
        let [_, about] = flow.questions(&cast);
        let error = error(names.far_pod, names.node, [3, 3], &about.quoted(8));
        let fresh = || {
            let world = world(&cast, &flow.backend, false);
            open(&cast, &world, Hook::In(UPLINK), &flow, None);
            world
        };
        let story = |change: fn(&World), hops: u8, reason: Counter| {
            let error = error.clone().hop_limit(hops);
            tell(
                || {
                    let world = fresh();
                    change(&world);
                    world
                },
                || {
                    vec![
                        packet("an error", Hook::In(UPLINK), &error, Fate::Dropped(reason)),
                        Step::Counted(reason, 1),
                        Step::Counted(Counter::IcmpTranslated, 0),
                    ]
                },
            );
        };
        story(|_| {}, 1, Counter::DropTtl);
        story(
            |w| w.set_routes(|_| Route::None),
            HOPS,
            Counter::DropNoRoute,
        );
        let small = |world: &World| {
            let mut device = world.devices.get(&UPLINK).expect("the uplink");
            device.mtu = 40;
            world.devices.put(UPLINK, device);
        };
        story(small, HOPS, Counter::DropTooBig);
    });
}

/// ICMP messages that do not concern a translated packet, or that no router would send.
#[test]
fn p4_other_icmp_passes() {
    for_each_cast(|cast| {
        let (names, flow) = (cast.names, here(cast.names));
        let v4 = cast.first(&flow.client, &flow.frontend).is_v4();
        let [_, about] = flow.questions(&cast);
        let quoted = about.quoted(20);
        let of = |from: &str, to: &str, kind, quoted: &[u8]| error(from, to, kind, quoted);
        let told = host(&flow.client);
        let unreachable = if v4 { [3, 3] } else { [1, 4] };
        let echo = if v4 { [8, 0] } else { [128, 0] };
        let redirect = if v4 { [5, 1] } else { [137, 0] };
        let mut not_whole = of(names.pod_a, &told, unreachable, &quoted).bytes();
        if v4 {
            // Sets the "more fragments" flag.
            not_whole[14 + 6] |= 0x20;
        }
        let later = cast.later(&flow.client, &flow.backend).fragment(3, true);
        let other_port = cast.later(&at(names.client, 40_001), &flow.backend);
        let cases = [
            (
                "an echo request",
                of(names.pod_a, &told, echo, &quoted).bytes(),
            ),
            (
                "a redirect",
                of(names.pod_a, &told, redirect, &quoted).bytes(),
            ),
            (
                "to a host other than the quoted source",
                of(names.pod_a, names.elsewhere, unreachable, &quoted).bytes(),
            ),
            (
                "about another flow",
                of(names.pod_a, &told, unreachable, &other_port.quoted(20)).bytes(),
            ),
            (
                "about a later fragment",
                of(names.pod_a, &told, unreachable, &later.quoted(20)).bytes(),
            ),
            (
                "quotes no ports",
                of(names.pod_a, &told, unreachable, &about.quoted(7)).bytes(),
            ),
            (
                "quotes nothing",
                of(names.pod_a, &told, unreachable, &[]).bytes(),
            ),
            (
                "about an ICMP error",
                of(
                    names.pod_a,
                    &told,
                    unreachable,
                    &of(&told, names.pod_a, unreachable, &quoted).quoted(40),
                )
                .bytes(),
            ),
        ];
        let fragment = v4.then_some(("fragmented", not_whole));
        for (what, bytes) in cases.into_iter().chain(fragment) {
            let world = world(&cast, &flow.backend, true);
            let answered = Some(Hook::Out(UPLINK));
            open(&cast, &world, Hook::In(UPLINK), &flow, answered);
            let before = format!("{world:?}");
            for hook in [Hook::Out(UPLINK), Hook::In(UPLINK), Hook::Pod(POD_A)] {
                let mut frame = Frame::new(bytes.clone());
                let verdict = run(&world, hook, &mut frame);
                assert_eq!(verdict, Verdict::Pass, "{what} at {hook:?}");
                assert_eq!(Dump(frame.bytes()), Dump(&bytes), "{what} at {hook:?}");
            }
            assert_eq!(format!("{world:?}"), before, "{what}");
        }
    });
}

/// An error is translated only at hooks where a packet of its flow would be translated.
#[test]
fn p2_errors_are_believed_where_their_flow_is() {
    for_each_cast(|cast| {
        let names = cast.names;
        let hairpin = Flow {
            client: at(names.pod_a, 40_000),
            frontend: at(names.cluster_ip, 80),
            source: at(names.cluster_ip, HAIRPIN_PORT),
            backend: at(names.pod_a, 8080),
        };
        let cases = [
            (hairpin, Hook::Pod(POD_A), Hook::In(UPLINK)),
            (elsewhere(names), Hook::In(UPLINK), Hook::Pod(POD_A)),
        ];
        for (flow, begins, other) in cases {
            let [_, about] = flow.questions(&cast);
            let error = error(
                &host(&flow.backend),
                &host(&flow.source),
                [3, 3],
                &about.quoted(8),
            );
            tell(
                || {
                    let world = world(&cast, &flow.backend, false);
                    open(&cast, &world, begins, &flow, None);
                    world
                },
                || vec![packet("an error", other, &error, Fate::Passes)],
            );
        }
    });
}

/// A frame may have padding behind the IP packet. The padding must not be taken for quoted ports or a checksum.
#[test]
fn p2_what_is_behind_an_error_is_no_part_of_it() {
    for_each_cast(|cast| {
        let (names, flow) = (cast.names, here(cast.names));
        let [told, about] = flow.questions(&cast);
        let behind = |error: &Segment| [error.bytes(), vec![0x77; 24]].concat();
        let of = |from, quoted: &[u8]| error(from, names.client, [3, 3], quoted);
        for (bytes, verdict) in [(8, Verdict::Continue), (7, Verdict::Pass)] {
            let world = world(&cast, &flow.backend, true);
            open(&cast, &world, Hook::In(UPLINK), &flow, None);
            let sent = behind(&of(names.pod_a, &about.quoted(bytes)));
            let mut frame = Frame::new(sent.clone());
            assert_eq!(run(&world, Hook::Out(UPLINK), &mut frame), verdict);
            let expected = match verdict {
                Verdict::Continue => behind(&of(names.node, &told.quoted(bytes))),
                _ => sent,
            };
            assert_eq!(Dump(frame.bytes()), Dump(&expected));
        }
    });
}
