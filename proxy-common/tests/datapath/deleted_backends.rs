//! TCP connections to a deleted backend, with `--end-tcp-of-deleted-backends` (ADR 27). The client's next
//! packet is answered with a RST that the client's stack accepts, and the flow is removed.

use proxy_common::{
    abi::{
        counter::Counter,
        frontend::FrontendKind,
        protocol,
        settings::settings_flags,
        target::{BackendState, BackendWord},
    },
    host::{Segment, Service, World},
    parse::tcp_flags,
};

use crate::{
    fixture::{Fate, Hook, Step, packet, tell, then},
    node::{BOTH, Names, POD_A, SNAT_PORT, UPLINK, at, node},
};

const BACKEND: u32 = 1;

/// A connection from a pod, or from a client outside with a translated source.
struct Connection {
    hook: Hook,
    client: String,
    frontend: String,
    /// The client's `address:port` as the backend sees it.
    source: String,
    backend: String,
    out: Option<u32>,
}

impl Connection {
    fn all(names: &Names) -> [Self; 2] {
        let (frontend, backend) = (at(names.load_balancer, 80), at(names.far_pod, 8080));
        [
            Self {
                hook: Hook::Pod(POD_A),
                client: at(names.pod_a, 40_000),
                source: at(names.pod_a, 40_000),
                frontend: frontend.clone(),
                backend: backend.clone(),
                out: None,
            },
            Self {
                hook: Hook::In(UPLINK),
                client: at(names.client, 40_000),
                source: at(names.node, SNAT_PORT),
                frontend,
                backend,
                out: Some(UPLINK),
            },
        ]
    }

    fn world(&self, names: &'static Names, ends: bool) -> World {
        let world = node(names);
        if ends {
            world.configure(|settings| settings.flags |= settings_flags::END_TCP);
        }
        world.add_service(
            &Service::new(protocol::TCP)
                .frontend(FrontendKind::LoadBalancer, &self.frontend)
                .backend(&self.backend),
        );
        world
    }

    fn asks(&self) -> Segment {
        Segment::tcp(&self.client, &self.frontend).numbers(1000, 5000)
    }

    fn goes_on<'a>(&self, what: &'static str, segment: &Segment) -> Step<'a> {
        let after = segment.clone().from(&self.source).to(&self.backend);
        let fate = match self.out {
            Some(device) => Fate::Leaves(device, after.hop_limit(63)),
            None => Fate::GoesOn(after),
        };
        packet(what, self.hook, segment, fate)
    }

    fn answered<'a>(&self) -> Step<'a> {
        let answer = Segment::tcp(&self.backend, &self.source).syn_ack();
        let after = answer.clone().from(&self.frontend).to(&self.client);
        match self.out {
            Some(device) => packet(
                "SYN and ACK",
                Hook::In(device),
                &answer,
                Fate::Leaves(device, after.hop_limit(63)),
            ),
            None => packet(
                "SYN and ACK",
                Hook::Out(POD_A),
                &answer,
                Fate::GoesOn(after),
            ),
        }
    }

    fn opened<'a>(&self) -> Vec<Step<'a>> {
        vec![
            self.goes_on("SYN", &Segment::tcp(&self.client, &self.frontend).syn()),
            self.answered(),
            self.goes_on("ACK", &self.asks()),
        ]
    }

    /// The RST for a segment with ACK: its sequence number is the acknowledged one (RFC 9293 §3.5.2).
    fn reset(&self) -> Segment {
        Segment::tcp(&self.frontend, &self.client)
            .flags(tcp_flags::RST)
            .numbers(5000, 0)
            .window(0)
            .identification(0)
            .macs_swapped()
    }
}

/// Runs a story for both families and both kinds of connection.
fn tell_of_all<'a>(ends: bool, story: impl Fn(&Connection) -> Vec<Step<'a>>) {
    for names in &BOTH {
        for connection in Connection::all(names) {
            tell(
                || connection.world(names, ends),
                || {
                    let mut all = connection.opened();
                    all.extend(story(&connection));
                    all
                },
            );
        }
    }
}

fn set<'a>(state: BackendState) -> Step<'a> {
    then("the backend changes", move |world| {
        world.set_backend_state(BACKEND, state);
    })
}

#[test]
fn l3_the_next_packet_of_a_client_is_refused_when_its_backend_was_deleted() {
    for payload in [&b""[..], b"odd", &[0x5a; 600]] {
        tell_of_all(true, |connection| {
            let segment = connection.asks().payload(payload);
            vec![
                set(BackendState::Gone),
                packet(
                    "refused",
                    connection.hook,
                    &segment,
                    Fate::Bounces(connection.reset()),
                ),
                Step::Counted(Counter::TcpEnded, 1),
                then("nothing is left", |world| {
                    let left = (
                        world.flows.len(),
                        world.new_flows.len(),
                        world.snat_claims.len(),
                    );
                    assert_eq!(left, (0, 0, 0), "{world:?}");
                }),
                packet(
                    "belongs to no flow",
                    connection.hook,
                    &segment,
                    Fate::Passes,
                ),
                Step::Counted(Counter::TcpEnded, 1),
            ]
        });
    }
}

#[test]
fn l3_a_backend_in_a_deleted_ones_place_is_another() {
    tell_of_all(true, |connection| {
        vec![
            then("the id is reused", |world| {
                let mut backend = world.backends.get(BACKEND).expect("the backend");
                let generation = backend.word.generation() + 1;
                backend.word = BackendWord::new(generation, BackendState::Serving);
                world.backends.set(BACKEND, backend);
            }),
            packet(
                "refused",
                connection.hook,
                &connection.asks(),
                Fate::Bounces(connection.reset()),
            ),
        ]
    });
}

#[test]
fn l4_a_backend_that_does_not_serve_keeps_its_connections() {
    tell_of_all(true, |connection| {
        vec![
            set(BackendState::NotServing),
            connection.goes_on("data", &connection.asks().payload(b"data")),
            connection.goes_on("FIN", &connection.asks().fin()),
            Step::Counted(Counter::TcpEnded, 0),
        ]
    });
}

#[test]
fn l3_nothing_is_ended_where_that_is_not_asked_for() {
    tell_of_all(false, |connection| {
        vec![
            set(BackendState::Gone),
            connection.goes_on("data", &connection.asks().payload(b"data")),
            Step::Counted(Counter::TcpEnded, 0),
        ]
    });
}

#[test]
fn l3_a_client_that_breaks_off_itself_is_not_answered() {
    tell_of_all(true, |connection| {
        vec![
            set(BackendState::Gone),
            connection.goes_on("RST", &connection.asks().rst()),
            Step::Counted(Counter::TcpEnded, 0),
        ]
    });
}

#[test]
fn l3_a_connection_that_goes_straight_to_the_backend_is_not_ended() {
    for names in &BOTH {
        let [connection, _] = Connection::all(names);
        // The connection to the frontend holds the client's own port to this backend.
        let moved = at(names.pod_a, SNAT_PORT);
        let asks = |what, segment: Segment| {
            let segment = segment.to(&connection.backend);
            let after = segment.clone().from(&moved);
            packet(what, connection.hook, &segment, Fate::GoesOn(after))
        };
        let syn = Segment::tcp(&connection.client, &connection.frontend).syn();
        let answer = Segment::tcp(&connection.backend, &moved).syn_ack();
        let answered = answer.clone().to(&connection.client);
        tell(
            || connection.world(names, true),
            || {
                let mut story = connection.opened();
                story.extend([
                    asks("a SYN to the backend itself", syn.clone()),
                    packet(
                        "is answered",
                        Hook::Out(POD_A),
                        &answer,
                        Fate::GoesOn(answered.clone()),
                    ),
                    set(BackendState::Gone),
                    asks("goes on", connection.asks()),
                    Step::Counted(Counter::TcpEnded, 0),
                ]);
                story
            },
        );
    }
}
