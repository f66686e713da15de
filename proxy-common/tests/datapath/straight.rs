//! A client uses one port for a frontend and for a direct connection to the frontend's backend. The two
//! conversations must have different tuples.

use proxy_common::{
    abi::{counter::Counter, protocol},
    host::{Segment, World},
};

use crate::{
    claims::{twins, vips},
    fixture::{Cast, Fate, Hook, Step, for_each_cast, packet, tell, then},
    node::{POD_A, SNAT_PORT, at},
};

/// A pod and a backend with two Services, for a protocol with connections.
struct Pair {
    cast: Cast,
    client: String,
    /// The client with the translated source port.
    moved: String,
    backend: String,
    vip: String,
}

fn for_each_pair(tell: impl Fn(&Pair)) {
    for_each_cast(|cast| {
        if protocol::has_connections(cast.protocol) {
            tell(&Pair {
                cast,
                client: at(cast.names.pod_a, 40_000),
                moved: at(cast.names.pod_a, SNAT_PORT),
                backend: at(cast.names.far_pod, 8080),
                vip: vips(cast.names)[0].clone(),
            });
        }
    });
}

impl Pair {
    fn world(&self) -> World {
        twins(&self.cast, &[&self.backend])
    }

    /// The client's SYN to `to` is translated to come from `from` and go to the backend.
    fn asks<'a>(&self, to: &str, from: &str) -> Step<'a> {
        let syn = self.cast.first(&self.client, to);
        let after = syn.clone().from(from).to(&self.backend);
        packet("asks", Hook::Pod(POD_A), &syn, Fate::GoesOn(after))
    }

    /// The client's SYN to the backend itself passes unchanged.
    fn asks_straight<'a>(&self) -> Step<'a> {
        let syn = self.cast.first(&self.client, &self.backend);
        packet(
            "asks the backend itself",
            Hook::Pod(POD_A),
            &syn,
            Fate::Passes,
        )
    }

    /// The backend's reply is translated to come from `from` and go to the client.
    fn answers<'a>(&self, answer: &Segment, from: &str) -> Step<'a> {
        let after = answer.clone().from(from).to(&self.client);
        packet("answers", Hook::Out(POD_A), answer, Fate::GoesOn(after))
    }

    fn answer(&self, to: &str) -> Segment {
        self.cast.answer(&self.backend, to)
    }

    fn answers_straight<'a>(&self) -> Step<'a> {
        let answer = self.answer(&self.client);
        packet(
            "answers the direct connection",
            Hook::Out(POD_A),
            &answer,
            Fate::Passes,
        )
    }
}

#[test]
fn a_connection_straight_to_the_pod_ends_an_unanswered_flow() {
    for_each_pair(|pair| {
        tell(
            || pair.world(),
            || {
                vec![
                    pair.asks(&pair.vip, &pair.client),
                    pair.asks_straight(),
                    pair.answers_straight(),
                    then("the flow is removed", |world| {
                        assert!(world.new_flows.is_empty(), "{world:?}");
                    }),
                ]
            },
        );
    });
}

#[test]
fn a_connection_straight_to_the_pod_goes_beside_a_living_flow() {
    for_each_pair(|pair| {
        let through = pair.cast.later(&pair.backend, &pair.client);
        let straight = pair.cast.later(&pair.backend, &pair.moved);
        tell(
            || pair.world(),
            || {
                vec![
                    pair.asks(&pair.vip, &pair.client),
                    pair.answers(&pair.answer(&pair.client), &pair.vip),
                    pair.asks(&pair.backend, &pair.moved),
                    // Retransmitted, and then confirmed.
                    pair.asks(&pair.backend, &pair.moved),
                    pair.answers(&pair.answer(&pair.moved), &pair.backend),
                    // Replies of both conversations are told apart.
                    pair.answers(&through, &pair.vip),
                    pair.answers(&straight, &pair.backend),
                    Step::Counted(Counter::FlowCreated, 2),
                    Step::Counted(Counter::FlowConfirmed, 2),
                ]
            },
        );
    });
}

#[test]
fn a_connection_straight_to_the_pod_ends_a_flow_that_was_closed() {
    for_each_pair(|pair| {
        let reset = pair.cast.later(&pair.backend, &pair.client).rst();
        tell(
            || pair.world(),
            || {
                vec![
                    pair.asks(&pair.vip, &pair.client),
                    pair.answers(&pair.answer(&pair.client), &pair.vip),
                    pair.answers(&reset, &pair.vip),
                    pair.asks_straight(),
                    pair.answers_straight(),
                    then("the flow is removed", |world| {
                        assert!(world.flows.is_empty(), "{world:?}");
                    }),
                ]
            },
        );
    });
}

#[test]
fn a_connection_straight_to_the_pod_is_never_dropped_for_want_of_a_port() {
    for_each_pair(|pair| {
        tell(
            || pair.world(),
            || {
                vec![
                    pair.asks(&pair.vip, &pair.client),
                    pair.answers(&pair.answer(&pair.client), &pair.vip),
                    // A flow to the other Service takes the only port.
                    pair.asks(&vips(pair.cast.names)[1], &pair.moved),
                    pair.asks_straight(),
                ]
            },
        );
    });
}

#[test]
fn a_vip_after_a_connection_straight_to_the_pod_is_unanswered_and_then_takes_another_port() {
    for_each_pair(|pair| {
        // An SCTP endpoint answers an INIT even on a known tuple.
        if pair.cast.protocol != protocol::TCP {
            return;
        }
        // The backend already has a connection with this tuple, and answers the SYN with a challenge ACK
        // (RFC 9293 §3.10.7.4).
        let challenge = Segment::tcp(&pair.backend, &pair.client);
        tell(
            || pair.world(),
            || {
                vec![
                    pair.asks_straight(),
                    pair.asks(&pair.vip, &pair.client),
                    packet("challenge ACK", Hook::Out(POD_A), &challenge, Fate::Passes),
                    then("a second passes", |world| world.pass_seconds(1)),
                    pair.asks(&pair.vip, &pair.moved),
                    pair.answers(&pair.answer(&pair.moved), &pair.vip),
                    packet(
                        "the direct connection goes on",
                        Hook::Out(POD_A),
                        &challenge,
                        Fate::Passes,
                    ),
                    Step::Counted(Counter::FlowConfirmed, 1),
                ]
            },
        );
    });
}

#[test]
fn a_datagram_or_init_that_is_repeated_keeps_its_source_port() {
    for_each_cast(|cast| {
        if cast.protocol == protocol::TCP {
            return;
        }
        let (client, backend) = (at(cast.names.pod_a, 40_000), at(cast.names.far_pod, 8080));
        let first = cast.first(&client, &vips(cast.names)[0]);
        let fate = Fate::GoesOn(first.clone().to(&backend));
        tell(
            || twins(&cast, &[&backend]),
            || {
                vec![
                    packet("asks", Hook::Pod(POD_A), &first, fate.clone()),
                    then("time passes", |world| world.pass_seconds(2)),
                    packet("asks", Hook::Pod(POD_A), &first, fate.clone()),
                ]
            },
        );
    });
}
