//! The end of flows, and reuse of their tuples.

use proxy_common::{
    abi::{counter::Counter, frontend::FrontendKind, protocol},
    host::{Segment, Service, World},
    parse::sctp_chunk,
};

use crate::{
    fixture::{Cast, Fate, Hook, Step, packet, tell, then},
    node::{BOTH, Names, POD_A, SNAT_PORT, UPLINK, at, node},
};

/// The packets that end a connection.
type End = fn(&Connection) -> Vec<Step<'static>>;

/// A TCP connection or an SCTP association.
struct Connection {
    cast: Cast,
    client: String,
    frontend: String,
    backend: String,
}

impl Connection {
    fn of(names: &'static Names, protocol: u8) -> Self {
        Self {
            client: at(names.pod_a, 40_000),
            frontend: at(names.cluster_ip, 80),
            backend: at(names.far_pod, 8080),
            cast: Cast { names, protocol },
        }
    }

    /// TCP and SCTP, IPv4 and IPv6.
    fn all() -> impl Iterator<Item = Self> {
        let of = |names| [protocol::TCP, protocol::SCTP].map(|protocol| Self::of(names, protocol));
        BOTH.iter().flat_map(of)
    }

    fn world(&self) -> World {
        let world = node(self.cast.names);
        world.add_service(
            &Service::new(self.cast.protocol)
                .frontend(FrontendKind::ClusterIp, &self.frontend)
                .backend(&self.backend),
        );
        world
    }

    fn asks<'a>(&self, what: &'static str, make: impl Fn(Segment) -> Segment) -> Step<'a> {
        let segment = make(self.cast.later(&self.client, &self.frontend));
        let after = Fate::GoesOn(segment.clone().to(&self.backend));
        packet(what, Hook::Pod(POD_A), &segment, after)
    }

    fn answers<'a>(&self, what: &'static str, make: impl Fn(Segment) -> Segment) -> Step<'a> {
        let segment = make(self.cast.later(&self.backend, &self.client));
        let after = Fate::GoesOn(segment.clone().from(&self.frontend));
        packet(what, Hook::Out(POD_A), &segment, after)
    }

    fn opened<'a>(&self) -> Vec<Step<'a>> {
        vec![
            self.asks("SYN", Segment::syn),
            self.answers("SYN and ACK", Segment::syn_ack),
            self.asks("ACK", |segment| segment),
        ]
    }
}

fn created<'a>(times: u64) -> Step<'a> {
    Step::Counted(Counter::FlowCreated, times)
}

#[test]
fn p1_a_connection_is_translated_to_its_last_packet() {
    for tcp in Connection::all() {
        tell(
            || tcp.world(),
            || {
                let mut story = tcp.opened();
                story.extend([
                    tcp.asks("a repeated SYN of a live flow", Segment::syn),
                    created(1),
                    tcp.asks("FIN", Segment::fin),
                    tcp.answers("ACK", |segment| segment),
                    tcp.answers("data after the client's FIN", |segment| {
                        segment.payload(b"late")
                    }),
                    tcp.answers("FIN", Segment::fin),
                    tcp.asks("the last ACK", |segment| segment),
                    tcp.answers("FIN again", Segment::fin),
                    tcp.asks("the last ACK again", |segment| segment),
                    created(1),
                ]);
                story
            },
        );
    }
}

#[test]
fn a_port_used_again_after_the_end_begins_another_flow() {
    for tcp in Connection::all() {
        let ends: [End; 3] = [
            |tcp| {
                vec![
                    tcp.asks("FIN", Segment::fin),
                    tcp.answers("FIN", Segment::fin),
                ]
            },
            |tcp| vec![tcp.asks("RST", Segment::rst)],
            |tcp| vec![tcp.answers("RST", Segment::rst)],
        ];
        for end in ends {
            tell(
                || tcp.world(),
                || {
                    let mut story = tcp.opened();
                    story.extend(end(&tcp));
                    story.push(created(1));
                    story.extend(tcp.opened());
                    story.push(created(2));
                    story.push(Step::Counted(Counter::FlowConfirmed, 2));
                    story
                },
            );
        }
    }
}

#[test]
fn a_refused_connection_leaves_nothing_behind() {
    for tcp in Connection::all() {
        tell(
            || tcp.world(),
            || {
                vec![
                    tcp.asks("SYN", Segment::syn),
                    tcp.answers("RST", Segment::rst),
                    Step::Counted(Counter::FlowConfirmed, 0),
                    then("nothing is left", |world| {
                        assert!(world.new_flows.is_empty(), "{world:?}");
                        assert!(world.flows.is_empty(), "{world:?}");
                    }),
                    tcp.asks("SYN", Segment::syn),
                    created(2),
                ]
            },
        );
    }
}

#[test]
fn a_masqueraded_connection_that_was_closed_begins_again() {
    for Connection { cast, .. } in Connection::all() {
        let names = cast.names;
        let (client, frontend) = (at(names.client, 50_000), at(names.load_balancer, 80));
        let (source, backend) = (at(names.node, SNAT_PORT), at(names.far_pod, 8080));
        let asks = |what, segment: &Segment| {
            let after = segment.clone().from(&source).to(&backend).hop_limit(63);
            packet(what, Hook::In(UPLINK), segment, Fate::Leaves(UPLINK, after))
        };
        let answers = |what, segment: &Segment| {
            let after = segment.clone().from(&frontend).to(&client).hop_limit(63);
            packet(what, Hook::In(UPLINK), segment, Fate::Leaves(UPLINK, after))
        };
        let (to, from) = (
            cast.later(&client, &frontend),
            cast.later(&backend, &source),
        );
        tell(
            || {
                let world = node(names);
                world.add_service(
                    &Service::new(cast.protocol)
                        .frontend(FrontendKind::LoadBalancer, &frontend)
                        .backend(&backend),
                );
                world
            },
            || {
                vec![
                    asks("SYN", &to.clone().syn()),
                    answers("SYN and ACK", &from.clone().syn_ack()),
                    asks("ACK", &to),
                    answers("FIN", &from.clone().fin()),
                    asks("FIN", &to.clone().fin()),
                    answers("ACK", &from),
                    created(1),
                    asks("SYN of the next connection", &to.clone().syn()),
                    created(2),
                    answers("SYN and ACK", &from.clone().syn_ack()),
                    asks("ACK", &to),
                    Step::Counted(Counter::FlowConfirmed, 2),
                    then("the tables hold one flow", |world| {
                        assert_eq!(world.flows.len(), 1, "{world:?}");
                        assert_eq!(world.snat_claims.len(), 1, "{world:?}");
                        assert_eq!(world.new_flows.len(), 0, "{world:?}");
                    }),
                ]
            },
        );
    }
}

#[test]
fn a_connection_that_the_backend_begins_on_the_flows_tuple_ends_the_flow() {
    for names in &BOTH {
        let tcp = Connection::of(names, protocol::TCP);
        let begins = Segment::tcp(&tcp.backend, &tcp.client).syn();
        let answers = Segment::tcp(&tcp.client, &tcp.backend).syn_ack();
        tell(
            || tcp.world(),
            || {
                let mut story = tcp.opened();
                story.extend([
                    packet(
                        "a SYN from the backend",
                        Hook::In(UPLINK),
                        &begins,
                        Fate::Passes,
                    ),
                    then("the flow is gone", |world| {
                        assert!(world.flows.is_empty(), "{world:?}");
                    }),
                    packet(
                        "the SYN at egress to the client",
                        Hook::Out(POD_A),
                        &begins,
                        Fate::Passes,
                    ),
                    packet("the reply to it", Hook::Pod(POD_A), &answers, Fate::Passes),
                ]);
                story
            },
        );
    }
}

/// The shutdown sequence of RFC 9260 §9.2.
#[test]
fn an_association_that_was_shut_down_leaves_its_port_to_another() {
    for names in &BOTH {
        let sctp = Connection::of(names, protocol::SCTP);
        let chunk = |kind| move |segment: Segment| segment.chunk(kind);
        tell(
            || sctp.world(),
            || {
                let mut story = sctp.opened();
                story.extend([
                    sctp.answers("SHUTDOWN", chunk(sctp_chunk::SHUTDOWN)),
                    sctp.asks("data on its way", |segment| segment.payload(b"late")),
                    sctp.asks("SHUTDOWN ACK", chunk(sctp_chunk::SHUTDOWN_ACK)),
                    sctp.answers("SHUTDOWN COMPLETE", chunk(sctp_chunk::SHUTDOWN_COMPLETE)),
                    created(1),
                ]);
                story.extend(sctp.opened());
                story.push(created(2));
                story
            },
        );
    }
}

/// RFC 9260 §5.2: if both sides send INIT, or the backend restarts, it is still one association.
#[test]
fn an_init_of_the_backend_on_the_flows_tuple_belongs_to_it() {
    for names in &BOTH {
        let sctp = Connection::of(names, protocol::SCTP);
        let begins = Segment::sctp(&sctp.backend, &sctp.client).syn();
        tell(
            || sctp.world(),
            || {
                let mut story = sctp.opened();
                story.extend([
                    packet(
                        "an INIT from the backend",
                        Hook::In(UPLINK),
                        &begins,
                        Fate::Passes,
                    ),
                    sctp.answers("INIT to the client", Segment::syn),
                    sctp.asks("INIT ACK", Segment::syn_ack),
                    sctp.answers("data", |segment| segment),
                    created(1),
                ]);
                story
            },
        );
    }
}
