//! B5: a frontend without endpoints answers by itself.

use proxy_common::{
    abi::{counter::Counter, frontend::FrontendKind, protocol, target::TargetState},
    datapath::Verdict,
    host::{Frame, Segment, Service, World, checksum_of},
    parse::tcp_flags,
};

use crate::{
    fixture::{Cast, Dump, Fate, Hook, Step, for_each_cast, packet, run, tell},
    node::{BOTH, POD_A, UPLINK, at, node},
};

fn world(cast: &Cast) -> World {
    let names = cast.names;
    let world = node(names);
    world.add_service(
        &Service::new(cast.protocol)
            .frontend(FrontendKind::LoadBalancer, &at(names.load_balancer, 80))
            .node_port(names.family, 30_001)
            .state(TargetState::Reject),
    );
    world
}

/// The refusal of a SYN (RFC 9293 §3.5.2): from sequence number zero, acknowledging the SYN.
fn reset(cast: &Cast, client: &str, frontend: &str, seq: u32) -> Segment {
    assert_eq!(cast.protocol, protocol::TCP);
    Segment::tcp(frontend, client)
        .flags(tcp_flags::RST | tcp_flags::ACK)
        .numbers(0, seq.wrapping_add(1))
        .window(0)
        .identification(0)
        .macs_swapped()
}

/// The refusal of a datagram (RFC 792, RFC 4443): the IP header and eight bytes of what was sent, in an ICMP message; of SCTP
/// as many as hold an INIT's tag (RFC 9260 §10).
fn unreachable(sent: &Segment, client: &str, frontend: &str) -> Vec<u8> {
    let quoted = if sent.protocol() == protocol::SCTP {
        20
    } else {
        8
    };
    let sent = sent.bytes();
    let v4 = sent[12..14] == [8, 0];
    let (header, number, kind) = if v4 {
        (20, 1, [3, 3])
    } else {
        (40, 58, [1, 4])
    };
    let mut message = [&kind[..], &[0; 6], &sent[14..14 + header + quoted]].concat();

    let around = Segment::udp(frontend, client)
        .identification(0)
        .payload(&vec![0; message.len() - 8])
        .macs_swapped();
    let mut answer = around.bytes();
    answer.truncate(14 + header);
    let field = if v4 { 14 + 9 } else { 14 + 6 };
    answer[field] = number;
    let sum = if v4 {
        answer[14 + 10..14 + 12].fill(0);
        let ip = checksum_of(&[&answer[14..14 + 20]]);
        answer[14 + 10..14 + 12].copy_from_slice(&ip.to_be_bytes());
        checksum_of(&[&message])
    } else {
        let len = (message.len() as u32).to_be_bytes();
        checksum_of(&[&answer[14 + 8..14 + 40], &len, &[0, 0, 0, number], &message])
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    answer.extend_from_slice(&message);
    answer
}

#[test]
fn b5_a_syn_is_answered_with_a_reset_that_acknowledges_it() {
    for_each_cast(|cast| {
        if cast.protocol != protocol::TCP {
            return;
        }
        let names = cast.names;
        for (hook, client) in [
            (Hook::Pod(POD_A), at(names.pod_a, 40_000)),
            (Hook::In(UPLINK), at(names.client, 40_000)),
        ] {
            for frontend in [at(names.load_balancer, 80), at(names.node, 30_001)] {
                for seq in [0, 1000, u32::MAX] {
                    for payload in [&b""[..], b"odd", &[0x5a; 600]] {
                        let syn = cast
                            .first(&client, &frontend)
                            .numbers(seq, 0)
                            .payload(payload);
                        tell(
                            || world(&cast),
                            || {
                                vec![
                                    packet(
                                        "refused",
                                        hook,
                                        &syn,
                                        Fate::Bounces(reset(&cast, &client, &frontend, seq)),
                                    ),
                                    Step::Counted(Counter::RejectedNoEndpoint, 1),
                                    Step::Counted(Counter::FlowCreated, 0),
                                ]
                            },
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn b5_a_datagram_or_init_is_answered_with_port_unreachable_that_quotes_it() {
    for_each_cast(|cast| {
        if cast.protocol == protocol::TCP {
            return;
        }
        let names = cast.names;
        for (hook, client) in [
            (Hook::Pod(POD_A), at(names.pod_a, 40_000)),
            (Hook::In(UPLINK), at(names.client, 40_000)),
        ] {
            let frontend = at(names.load_balancer, 80);
            for payload in [&b""[..], b"odd", b"even", &[0x5a; 1400]] {
                // An INIT that has no tag to quote is nobody's.
                if cast.protocol == protocol::SCTP && payload.len() < 4 {
                    continue;
                }
                let sent = cast.first(&client, &frontend).payload(payload);
                let world = world(&cast);
                let mut frame = sent.frame();
                assert_eq!(run(&world, hook, &mut frame), Verdict::Bounce);
                let expected = unreachable(&sent, &client, &frontend);
                assert_eq!(Dump(frame.bytes()), Dump(&expected));
                assert_eq!(world.counted(Counter::RejectedNoEndpoint), 1);
            }
        }
    });
}

/// The sender's device finishes the checksum of the datagram that it thinks this still is.
#[test]
fn b5_port_unreachable_sums_up_right_where_the_datagrams_checksum_was_pending() {
    for_each_cast(|cast| {
        if cast.protocol != protocol::UDP {
            return;
        }
        let names = cast.names;
        for payload in [&b""[..], b"odd", b"even", &[0x5a; 1400]] {
            for port in 1..50 {
                let sent = cast
                    .first(&at(names.pod_a, port), &at(names.load_balancer, 80))
                    .payload(payload);
                let mut frame = sent.pending_frame();
                assert_eq!(
                    run(&world(&cast), Hook::Pod(POD_A), &mut frame),
                    Verdict::Bounce
                );
                let before = frame.clone();
                let done = frame.completed();
                sums_up(&done, sent.is_v4());
                // Whoever takes the message before any device has finished it sees the same.
                let header = if sent.is_v4() { 20 } else { 40 };
                let unused = 14 + header + 4..14 + header + 8;
                for (index, (a, b)) in before.bytes().iter().zip(done.bytes()).enumerate() {
                    assert!(a == b || unused.contains(&index), "byte {index}");
                }
            }
        }
    });
}

fn sums_up(frame: &Frame, v4: bool) {
    let bytes = frame.bytes();
    if v4 {
        assert_eq!(checksum_of(&[&bytes[14..34]]), 0, "IPv4 header");
        assert_eq!(checksum_of(&[&bytes[34..]]), 0, "ICMP");
    } else {
        let len = (bytes.len() as u32 - 54).to_be_bytes();
        let sum = checksum_of(&[&bytes[22..54], &len, &[0, 0, 0, 58], &bytes[54..]]);
        assert_eq!(sum, 0, "ICMPv6");
    }
}

/// Its device is the one that it goes back to, and need not write it: the quote is whole.
#[test]
fn b5_port_unreachable_quotes_an_init_whose_checksum_was_pending() {
    for names in &BOTH {
        let cast = Cast {
            names,
            protocol: protocol::SCTP,
        };
        let (client, frontend) = (at(names.pod_a, 40_000), at(names.load_balancer, 80));
        let sent = cast.first(&client, &frontend).payload(&[0x5a; 16]);
        let mut frame = sent.pending_frame();
        let verdict = run(&world(&cast), Hook::Pod(POD_A), &mut frame);
        assert_eq!(verdict, Verdict::Bounce);
        let quoted = sent.without_checksum();
        let expected = unreachable(&quoted, &client, &frontend);
        assert_eq!(Dump(frame.bytes()), Dump(&expected));
    }
}

#[test]
fn b5_without_a_checksum_a_datagram_is_refused_all_the_same() {
    let cast = Cast {
        names: &BOTH[0],
        protocol: protocol::UDP,
    };
    let (client, frontend) = (
        at(cast.names.pod_a, 40_000),
        at(cast.names.load_balancer, 80),
    );
    let sent = cast.first(&client, &frontend).without_checksum();
    let mut frame = sent.frame();
    assert_eq!(
        run(&world(&cast), Hook::Pod(POD_A), &mut frame),
        Verdict::Bounce
    );
    assert_eq!(
        Dump(frame.bytes()),
        Dump(&unreachable(&sent, &client, &frontend))
    );
}

#[test]
fn b5_p5_only_what_begins_a_connection_is_refused() {
    for_each_cast(|cast| {
        if cast.protocol == protocol::UDP {
            return;
        }
        let (client, frontend) = (
            at(cast.names.pod_a, 40_000),
            at(cast.names.load_balancer, 80),
        );
        let base = cast.later(&client, &frontend);
        let story = || {
            [
                base.clone(),
                base.clone().rst(),
                base.clone().fin(),
                base.clone().syn_ack(),
            ]
            .map(|segment| packet("mid-flow", Hook::Pod(POD_A), &segment, Fate::Passes))
            .into()
        };
        tell(|| world(&cast), story);
    });
}

#[test]
fn p6_a_refusal_that_cannot_be_built_is_a_drop_that_is_counted() {
    for_each_cast(|cast| {
        let names = cast.names;
        let first = cast.first(&at(names.pod_a, 40_000), &at(names.load_balancer, 80));
        let odd = if first.is_v4() {
            first.ip_options(&[1, 1, 1, 1])
        } else {
            first.extension(60, &[])
        };
        tell(
            || world(&cast),
            || {
                vec![
                    packet(
                        "with options or extensions",
                        Hook::Pod(POD_A),
                        &odd,
                        Fate::Dropped(Counter::DropAnswer),
                    ),
                    Step::Counted(Counter::DropAnswer, 1),
                    Step::Counted(Counter::RejectedNoEndpoint, 0),
                ]
            },
        );
    });
}
