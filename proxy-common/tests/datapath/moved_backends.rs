//! Backends that change during the life of their flows.

use proxy_common::{
    abi::{
        counter::Counter,
        frontend::FrontendKind,
        protocol,
        target::{BackendState, BackendWord, TargetState},
    },
    host::{Segment, Service, World},
};

use crate::{
    fixture::{Cast, Fate, Hook, Step, packet, tell, then},
    node::{BOTH, Names, POD_A, at, node},
};

/// Ids of the target and the first backend of a world's only Service.
const TARGET: u32 = 1;
const OLD: u32 = 1;

struct Pair {
    cast: Cast,
    client: String,
    frontend: String,
    old: String,
    new: String,
}

impl Pair {
    fn of(names: &'static Names, protocol: u8) -> Self {
        Self {
            client: at(names.pod_a, 40_000),
            frontend: at(names.cluster_ip, 80),
            old: at(names.far_pod, 8080),
            new: at(names.pod_b, 8080),
            cast: Cast { names, protocol },
        }
    }

    fn world(&self) -> World {
        let world = node(self.cast.names);
        world.add_service(
            &Service::new(self.cast.protocol)
                .frontend(FrontendKind::ClusterIp, &self.frontend)
                .backend(&self.old),
        );
        world
    }

    /// Replaces the backend by a new one, as the agent does.
    fn replace(&self, old_state: BackendState) -> Step<'_> {
        then("the backend is replaced", move |world| {
            let at = self.new.parse().expect("an address and port");
            let new = world.add_backend(at, self.cast.protocol, true);
            world.point(TARGET, &[new], TargetState::Serve);
            world.set_backend_state(OLD, old_state);
        })
    }

    fn answers<'a>(&self, what: &'static str, segment: &Segment) -> Step<'a> {
        let after = Fate::GoesOn(segment.clone().from(&self.frontend));
        packet(what, Hook::Out(POD_A), segment, after)
    }

    fn opened<'a>(&self, backend: &str) -> Vec<Step<'a>> {
        vec![
            asks(
                "first",
                &self.cast.first(&self.client, &self.frontend),
                backend,
            ),
            self.answers("reply", &self.cast.answer(backend, &self.client)),
        ]
    }
}

fn connections() -> impl Iterator<Item = Pair> {
    let of = |names| [protocol::TCP, protocol::SCTP].map(|protocol| Pair::of(names, protocol));
    BOTH.iter().flat_map(of)
}

fn asks<'a>(what: &'static str, segment: &Segment, backend: &str) -> Step<'a> {
    let after = Fate::GoesOn(segment.clone().to(backend));
    packet(what, Hook::Pod(POD_A), segment, after)
}

#[test]
fn l3_l4_an_established_connection_keeps_its_backend_whatever_the_lists_become() {
    for pair in connections() {
        // Terminating (still serving), and no longer serving: connections go on until they end.
        for state in [BackendState::Serving, BackendState::NotServing] {
            tell(
                || pair.world(),
                || {
                    let later = pair.cast.later(&pair.client, &pair.frontend);
                    let mut story = pair.opened(&pair.old);
                    story.extend([
                        pair.replace(state),
                        asks("a later packet", &later, &pair.old),
                        pair.answers("reply", &pair.cast.later(&pair.old, &pair.client)),
                        Step::Counted(Counter::FlowCreated, 1),
                    ]);
                    story
                },
            );
        }
    }
}

#[test]
fn l3_a_new_connection_on_a_tuple_whose_backend_is_gone_goes_to_another() {
    for pair in connections() {
        tell(
            || pair.world(),
            || {
                let mut story = pair.opened(&pair.old);
                story.push(pair.replace(BackendState::NotServing));
                story.extend(pair.opened(&pair.new));
                story.push(Step::Counted(Counter::FlowCreated, 2));
                story
            },
        );
    }
}

#[test]
fn l3_a_udp_flow_moves_as_soon_as_its_backend_no_longer_serves() {
    for names in &BOTH {
        let pair = Pair::of(names, protocol::UDP);
        for state in [BackendState::NotServing, BackendState::Gone] {
            tell(
                || pair.world(),
                || {
                    let mut story = pair.opened(&pair.old);
                    story.push(pair.replace(state));
                    story.extend(pair.opened(&pair.new));
                    story.push(Step::Counted(Counter::FlowConfirmed, 2));
                    story
                },
            );
        }
        tell(
            || pair.world(),
            || {
                let mut story = pair.opened(&pair.old);
                // Terminating but still serving: the backend keeps its flows (semantics L4).
                story.push(pair.replace(BackendState::Serving));
                story.extend(pair.opened(&pair.old));
                story.push(Step::Counted(Counter::FlowCreated, 1));
                story
            },
        );
    }
}

#[test]
fn l3_an_unanswered_flow_moves_too() {
    for names in &BOTH {
        for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP] {
            let pair = Pair::of(names, protocol);
            let first = pair.cast.first(&pair.client, &pair.frontend);
            tell(
                || pair.world(),
                || {
                    vec![
                        asks("first", &first, &pair.old),
                        pair.replace(BackendState::NotServing),
                        asks("retransmitted", &first, &pair.new),
                        pair.answers("reply", &pair.cast.answer(&pair.new, &pair.client)),
                    ]
                },
            );
        }
    }
}

#[test]
fn l3_the_first_endpoint_of_a_service_that_had_none_takes_its_flows() {
    for names in &BOTH {
        let pair = Pair::of(names, protocol::UDP);
        let first = pair.cast.first(&pair.client, &pair.frontend);
        tell(
            || {
                let world = pair.world();
                world.set_backend_state(OLD, BackendState::Gone);
                world.point(TARGET, &[], TargetState::Drop);
                world
            },
            || {
                vec![
                    packet(
                        "no endpoint yet",
                        Hook::Pod(POD_A),
                        &first,
                        Fate::Dropped(Counter::DropNoLocalEndpoint),
                    ),
                    pair.replace(BackendState::Gone),
                    asks("the first endpoint", &first, &pair.new),
                ]
            },
        );
        tell(
            || pair.world(),
            || {
                let mut story = pair.opened(&pair.old);
                story.extend([
                    then("all endpoints go", |world| {
                        world.point(TARGET, &[], TargetState::Drop);
                        world.set_backend_state(OLD, BackendState::NotServing);
                    }),
                    packet(
                        "an established flow without an endpoint",
                        Hook::Pod(POD_A),
                        &first,
                        Fate::Dropped(Counter::DropNoLocalEndpoint),
                    ),
                    pair.replace(BackendState::NotServing),
                    asks("to the new endpoint", &first, &pair.new),
                ]);
                story
            },
        );
    }
}

#[test]
fn an_id_used_again_for_a_stranger_gets_no_flow_of_its_predecessor() {
    for names in &BOTH {
        for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP] {
            let pair = Pair::of(names, protocol);
            tell(
                || pair.world(),
                || {
                    let mut story = pair.opened(&pair.old);
                    story.push(pair.replace(BackendState::Gone));
                    story.push(then("the id is reused", |world| {
                        let mut stranger = world.backends.get(OLD).expect("the id");
                        stranger.port = 9.into();
                        stranger.word = BackendWord::new(2, BackendState::Serving);
                        world.backends.set(OLD, stranger);
                    }));
                    story.extend(pair.opened(&pair.new));
                    story
                },
            );
        }
    }
}

#[test]
fn a_slot_whose_backend_went_away_just_now_is_passed_over() {
    for names in &BOTH {
        let cast = Cast {
            names,
            protocol: protocol::TCP,
        };
        let frontend = at(names.cluster_ip, 80);
        let (gone, left) = (at(names.far_pod, 1), at(names.far_pod, 2));
        let world = node(names);
        let placed = world.add_service(
            &Service::new(cast.protocol)
                .frontend(FrontendKind::ClusterIp, &frontend)
                .backend(&gone)
                .backend(&gone)
                .backend(&left),
        );
        for (index, id) in placed.backends.iter().enumerate() {
            if index != 2 {
                world.set_backend_state(*id, BackendState::NotServing);
            }
        }
        for port in 1..200 {
            let first = cast.first(&at(names.pod_a, port), &frontend);
            let mut frame = first.frame();
            let verdict = crate::fixture::run(&world, Hook::Pod(POD_A), &mut frame);
            assert_eq!(verdict, proxy_common::datapath::Verdict::Continue, "{port}");
            assert_eq!(frame, first.clone().to(&left).frame());
        }
    }
}
