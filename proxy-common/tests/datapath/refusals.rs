//! Semantics B5: a frontend without endpoints refuses connections.

use proxy_common::{
    abi::{counter::Counter, frontend::FrontendKind, protocol, target::TargetState},
    datapath::Verdict,
    host::{Segment, Service, World},
    parse::tcp_flags,
};

use crate::{
    fixture::{Cast, Dump, Fate, Hook, Step, for_each_cast, packet, run, sums_up, tell},
    node::{BOTH, POD_A, UPLINK, at, host, node},
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

/// The RST that refuses a SYN: sequence number zero, and acknowledges the SYN (RFC 9293 §3.5.2).
fn reset(cast: &Cast, client: &str, frontend: &str, seq: u32) -> Segment {
    assert_eq!(cast.protocol, protocol::TCP);
    Segment::tcp(frontend, client)
        .flags(tcp_flags::RST | tcp_flags::ACK)
        .numbers(0, seq.wrapping_add(1))
        .window(0)
        .identification(0)
        .macs_swapped()
}

/// The ICMP error that refuses a datagram: quotes the IP header and eight bytes (RFC 792, RFC 4443). For SCTP
/// it quotes twenty bytes, which include an INIT's initiate tag (RFC 9260 §10).
fn unreachable(sent: &Segment, client: &str, frontend: &str) -> Segment {
    let transport = if sent.protocol() == protocol::SCTP {
        20
    } else {
        8
    };
    let kind = if sent.is_v4() { [3, 3] } else { [1, 4] };
    let quoted = sent.quoted(transport);
    Segment::icmp_error(&host(frontend), &host(client), kind, &quoted)
        .identification(0)
        .macs_swapped()
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
                // An INIT without an initiate tag is malformed.
                if cast.protocol == protocol::SCTP && payload.len() < 4 {
                    continue;
                }
                let sent = cast.first(&client, &frontend).payload(payload);
                let world = world(&cast);
                let mut frame = sent.frame();
                assert_eq!(run(&world, hook, &mut frame), Verdict::Bounce);
                let expected = unreachable(&sent, &client, &frontend);
                assert_eq!(Dump(frame.bytes()), Dump(&expected.bytes()));
                assert_eq!(world.counted(Counter::RejectedNoEndpoint), 1);
            }
        }
    });
}

/// The datagram has a pending checksum. The ICMP message must be right as it is, and a device that still
/// completes the checksum may only change the quoted one.
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
                let header = if sent.is_v4() { 20 } else { 40 };
                let quoted = 14 + header + 8 + header;
                let finished = quoted + 6..quoted + 8;
                for (index, (a, b)) in before.bytes().iter().zip(done.bytes()).enumerate() {
                    assert!(a == b || finished.contains(&index), "byte {index}");
                }
            }
        }
    });
}

/// The reply returns to the device to which the INIT's checksum was left, so the quoted checksum may stay zero.
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
        assert_eq!(Dump(frame.bytes()), Dump(&expected.bytes()));
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
        Dump(&unreachable(&sent, &client, &frontend).bytes())
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
        let (client, frontend) = (
            at(cast.names.pod_a, 40_000),
            at(cast.names.load_balancer, 80),
        );
        let first = cast.first(&client, &frontend).payload(&[7; 20]);
        let odd = if first.is_v4() {
            first.ip_options(&[1; 12])
        } else {
            first.extension(60, &[1; 30]).extension(0, &[])
        };
        // A packet with IP options or extension headers gets no RST, but an ICMP error can quote them.
        let world = world(&cast);
        let mut frame = odd.frame();
        let verdict = run(&world, Hook::Pod(POD_A), &mut frame);
        if cast.protocol == protocol::TCP {
            assert_eq!(verdict, Verdict::Drop(Counter::DropAnswer));
        } else {
            let expected = unreachable(&odd, &client, &frontend);
            assert_eq!(verdict, Verdict::Bounce);
            assert_eq!(Dump(frame.bytes()), Dump(&expected.bytes()));
        }
        let refused = u64::from(cast.protocol != protocol::TCP);
        assert_eq!(world.counted(Counter::DropAnswer), 1 - refused);
        assert_eq!(world.counted(Counter::RejectedNoEndpoint), refused);
    });
}

/// The longest headers that the parser accepts are quoted in full, with a correct checksum.
#[test]
fn b5_a_refusal_behind_the_longest_headers_sums_up() {
    let names = &BOTH[1];
    for protocol in [protocol::UDP, protocol::SCTP] {
        let cast = Cast { names, protocol };
        let (client, frontend) = (at(names.pod_a, 40_000), at(names.load_balancer, 80));
        // 40 bytes of IPv6 and 200 of options: the transport header is at offset 254, and offsets must fit in a
        // `u8`.
        let sent = cast
            .first(&client, &frontend)
            .extension(60, &[0x5a; 198])
            .payload(&[7; 20]);
        let mut frame = sent.frame();
        let verdict = run(&world(&cast), Hook::Pod(POD_A), &mut frame);
        assert_eq!(verdict, Verdict::Bounce);
        let expected = unreachable(&sent, &client, &frontend);
        assert_eq!(Dump(frame.bytes()), Dump(&expected.bytes()));
    }
}
