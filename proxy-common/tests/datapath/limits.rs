//! Full flow tables: a flow is refused or stays unconfirmed, and a counter is incremented.

use proptest::prelude::*;
use proxy_common::{
    abi::{
        counter::Counter,
        flow::{FlowKey, FlowValue},
        frontend::FrontendKind,
    },
    datapath::Verdict,
    host::{Service, Table, World},
};

use crate::{
    fixture::{Cast, Fate, Hook, Step, for_each_cast, packet, run, tell, then},
    node::{POD_A, UPLINK, at, node},
};

fn world(cast: &Cast) -> World {
    let names = cast.names;
    let world = node(names);
    world.add_service(
        &Service::new(cast.protocol)
            .frontend(FrontendKind::LoadBalancer, &at(names.load_balancer, 80))
            .backend(&at(names.far_pod, 8080)),
    );
    world
}

/// An element that belongs to another flow.
fn stranger() -> FlowKey {
    FlowKey {
        protocol: 255,
        ..FlowKey::default()
    }
}

/// A world in which `FLOWS` has room for only `room` more elements; a flow needs two.
fn crowded(cast: &Cast, room: usize) -> World {
    let mut world = world(cast);
    world.flows = Table::hash(room + 1);
    world.flows.put(stranger(), FlowValue::default());
    world
}

#[test]
fn a_flow_that_finds_flows_full_stays_unconfirmed_until_there_is_room() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (client, frontend) = (at(names.pod_a, 40_000), at(names.load_balancer, 80));
        let backend = at(names.far_pod, 8080);
        let (first, answer) = (
            cast.first(&client, &frontend),
            cast.answer(&backend, &client),
        );
        let asks = || {
            packet(
                "asks",
                Hook::Pod(POD_A),
                &first,
                Fate::GoesOn(first.clone().to(&backend)),
            )
        };
        let answers = || {
            packet(
                "answers",
                Hook::Out(POD_A),
                &answer,
                Fate::GoesOn(answer.clone().from(&frontend)),
            )
        };
        // Without any room, and with room for one of the two halves.
        for room in [0, 1] {
            tell(
                || crowded(&cast, room),
                || {
                    vec![
                        asks(),
                        answers(),
                        Step::Counted(Counter::FlowUnconfirmed, 1),
                        Step::Counted(Counter::FlowConfirmed, 0),
                        then("no half is in FLOWS", |world| {
                            assert_eq!(world.flows.len(), 1, "{world:?}");
                            assert_eq!(world.new_flows.len(), 2, "{world:?}");
                        }),
                        asks(),
                        answers(),
                        Step::Counted(Counter::FlowUnconfirmed, 2),
                    ]
                },
            );
        }
        tell(
            || crowded(&cast, 1),
            || {
                vec![
                    asks(),
                    answers(),
                    then("room", |world| assert!(world.flows.remove(&stranger()))),
                    answers(),
                    Step::Counted(Counter::FlowConfirmed, 1),
                    then("both halves moved", |world| {
                        assert_eq!(world.flows.len(), 2, "{world:?}");
                        assert_eq!(world.new_flows.len(), 0, "{world:?}");
                    }),
                    packet(
                        "a later packet",
                        Hook::Pod(POD_A),
                        &cast.later(&client, &frontend),
                        Fate::GoesOn(cast.later(&client, &backend)),
                    ),
                ]
            },
        );
    });
}

#[test]
fn p6_a_full_table_of_claims_refuses_and_counts() {
    for_each_cast(|cast| {
        let names = cast.names;
        let first = cast.first(&at(names.client, 40_000), &at(names.load_balancer, 80));
        tell(
            || {
                let mut world = world(&cast);
                world.snat_claims = Table::hash(0);
                world
            },
            || {
                vec![
                    packet(
                        "the first packet",
                        Hook::In(UPLINK),
                        &first,
                        Fate::Dropped(Counter::DropFlowTableFull),
                    ),
                    Step::Counted(Counter::DropFlowTableFull, 1),
                    Step::Counted(Counter::FlowCreated, 0),
                ]
            },
        );
    });
}

#[test]
fn a_masqueraded_flow_that_finds_flows_full_is_answered_and_tried_again() {
    for_each_cast(|cast| {
        let names = cast.names;
        let mut world = world(&cast);
        world.flows = Table::hash(0);
        let (client, frontend) = (at(names.client, 40_000), at(names.load_balancer, 80));
        let first = cast.first(&client, &frontend);
        let out = Verdict::Forward { ifindex: UPLINK };
        assert_eq!(run(&world, Hook::In(UPLINK), &mut first.frame()), out);
        let source = at(names.node, crate::node::SNAT_PORT);
        let answer = cast.answer(&at(names.far_pod, 8080), &source);
        for times in 1..3 {
            let mut frame = answer.frame();
            assert_eq!(run(&world, Hook::In(UPLINK), &mut frame), out);
            let back = answer.clone().from(&frontend).to(&client).hop_limit(63);
            assert_eq!(frame, back.frame());
            assert_eq!(world.counted(Counter::FlowUnconfirmed), times);
            assert_eq!(world.counted(Counter::DropFlowTableFull), 0);
            assert_eq!(world.counted(Counter::FlowConfirmed), 0);
        }
    });
}

#[test]
fn a_flood_evicts_floods_and_never_established_flows() {
    for_each_cast(|cast| {
        let names = cast.names;
        let mut world = world(&cast);
        world.new_flows = Table::lru(16);
        let (client, frontend) = (at(names.pod_a, 40_000), at(names.load_balancer, 80));
        let backend = at(names.far_pod, 8080);
        let first = cast.first(&client, &frontend);
        assert_eq!(
            run(&world, Hook::Pod(POD_A), &mut first.frame()),
            Verdict::Continue
        );
        let mut answer = cast.answer(&backend, &client).frame();
        assert_eq!(
            run(&world, Hook::Out(POD_A), &mut answer),
            Verdict::Continue
        );
        for port in 1..1000 {
            let flood = cast.first(&at(names.pod_a, port), &frontend);
            assert_eq!(
                run(&world, Hook::Pod(POD_A), &mut flood.frame()),
                Verdict::Continue
            );
        }
        assert_eq!(world.new_flows.len(), 16);
        let later = cast.later(&client, &frontend);
        let mut frame = later.frame();
        assert_eq!(run(&world, Hook::Pod(POD_A), &mut frame), Verdict::Continue);
        assert_eq!(frame, later.to(&backend).frame());
        let more = cast.later(&backend, &client);
        let mut frame = more.frame();
        assert_eq!(run(&world, Hook::Out(POD_A), &mut frame), Verdict::Continue);
        assert_eq!(frame, more.from(&frontend).frame());
    });
}

/// A packet of the property below.
#[derive(Clone, Copy, Debug)]
enum Sent {
    First,
    Later,
    Answer,
    Other,
}

/// Puts packets of pods and of clients outside, and what backends answer, through tables with little room. `run` compares what is
/// counted with what becomes of each.
fn flood(cast: &Cast, [flows, claims, new]: [usize; 3], packets: &[(Sent, bool, u16)]) -> u64 {
    let names = cast.names;
    let mut world = world(cast);
    world.flows = Table::hash(flows);
    world.snat_claims = Table::hash(claims);
    world.new_flows = Table::lru(new);
    let (frontend, backend) = (at(names.load_balancer, 80), at(names.far_pod, 8080));
    for &(sent, from_pod, port) in packets {
        let unconfirmed = world.counted(Counter::FlowUnconfirmed);
        let (client, hook) = if from_pod {
            (at(names.pod_a, 40_000 + port), Hook::Pod(POD_A))
        } else {
            (at(names.client, 40_000 + port), Hook::In(UPLINK))
        };
        // Where the source was translated, answers come to the node.
        let (answered, back) = if from_pod {
            (client.clone(), Hook::Out(POD_A))
        } else {
            let port = crate::node::SNAT_PORT + port;
            (at(names.node, port), Hook::In(UPLINK))
        };
        let (segment, hook) = match sent {
            Sent::First => (cast.first(&client, &frontend), hook),
            Sent::Later => (cast.later(&client, &frontend), hook),
            Sent::Answer => (cast.answer(&backend, &answered), back),
            Sent::Other => (cast.later(&backend, &answered), back),
        };
        let verdict = run(&world, hook, &mut segment.frame());
        if world.counted(Counter::FlowUnconfirmed) != unconfirmed {
            assert!(
                !matches!(verdict, Verdict::Drop(_)),
                "{sent:?}: {verdict:?}"
            );
        }
    }
    world.counted(Counter::FlowUnconfirmed) + world.counted(Counter::DropFlowTableFull)
}

fn packets() -> impl Strategy<Value = Vec<(Sent, bool, u16)>> {
    let sent = prop::sample::select(vec![
        Sent::First,
        Sent::First,
        Sent::Later,
        Sent::Answer,
        Sent::Answer,
        Sent::Other,
    ]);
    prop::collection::vec((sent, any::<bool>(), 0..3u16), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn p6_a_packet_is_counted_as_dropped_exactly_when_it_is(
        room in (0..4usize, 0..3usize, 1..6usize),
        packets in packets(),
    ) {
        for_each_cast(|cast| {
            flood(&cast, [room.0, room.1, room.2], &packets);
        });
    }
}

#[test]
fn a_flood_meets_full_tables() {
    let packets: Vec<_> = (0..3)
        .flat_map(|port| [(Sent::First, true, port), (Sent::Answer, true, port)])
        .chain([(Sent::First, false, 0)])
        .collect();
    for_each_cast(|cast| assert_eq!(flood(&cast, [0, 0, 8], &packets), 4));
}
