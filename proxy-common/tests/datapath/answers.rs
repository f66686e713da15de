//! Replies of the node itself to packets that exceed the MTU or have used up their hop limit (semantics P2).

use proxy_common::{
    abi::{counter::Counter, frontend::FrontendKind, protocol},
    addr::Family,
    datapath::Verdict,
    host::{MacPair, Segment, Service, World},
};

use crate::{
    fixture::{Cast, Dump, Fate, Hook, Step, for_each_cast, packet, run, sums_up, tell},
    node::{BOTH, SNAT_PORT, UPLINK, at, node},
};

const MTU: u32 = 1400;

/// A Service whose backend is on another node, behind a device with this MTU.
fn world(cast: &Cast) -> World {
    let names = cast.names;
    let world = node(names);
    world.add_service(
        &Service::new(cast.protocol)
            .frontend(FrontendKind::LoadBalancer, &at(names.load_balancer, 80))
            .backend(&at(names.far_pod, 8080)),
    );
    let mut device = world.devices.get(&UPLINK).expect("the uplink");
    device.mtu = MTU;
    world.devices.put(UPLINK, device);
    world
}

/// A client's first packet and the first reply, each with its sender and its destination address.
fn packets(cast: &Cast) -> [(Segment, &str, &str); 2] {
    let names = cast.names;
    let (client, backend) = (at(names.client, 40_000), at(names.far_pod, 8080));
    let source = at(names.node, SNAT_PORT);
    [
        (
            cast.first(&client, &at(names.load_balancer, 80)),
            names.client,
            names.load_balancer,
        ),
        (cast.answer(&backend, &source), names.far_pod, names.node),
    ]
}

/// For the reply (`index` 1), creates its flow by sending the client's packet first.
fn prepare(cast: &Cast, world: &World, index: usize) {
    if index == 1 {
        let [(first, ..), _] = packets(cast);
        run(world, Hook::In(UPLINK), &mut first.frame());
    }
}

/// The bytes of a packet that an ICMP error about it quotes.
fn quoted(packet: &Segment) -> Vec<u8> {
    packet.quoted(if packet.protocol() == protocol::UDP {
        8
    } else {
        20
    })
}

fn too_big(packet: &Segment, from: &str, to: &str) -> Segment {
    let kind = if packet.is_v4() { [3, 4] } else { [2, 0] };
    Segment::icmp_error(from, to, kind, &quoted(packet))
        .rest(MTU)
        .identification(0)
        .macs_swapped()
}

#[test]
fn p2_what_is_too_big_for_the_way_on_is_told_what_is_not() {
    for_each_cast(|cast| {
        for (index, (small, sender, receiver)) in packets(&cast).into_iter().enumerate() {
            let headers = small.bytes().len() - 14;
            let fits = MTU as usize - headers;
            let big = small.clone().payload(&vec![0x5a; fits + 1]);
            let mut frame = big.frame();
            let world = world(&cast);
            prepare(&cast, &world, index);
            assert_eq!(run(&world, Hook::In(UPLINK), &mut frame), Verdict::Bounce);
            let expected = too_big(&big, receiver, sender);
            assert_eq!(Dump(frame.bytes()), Dump(&expected.bytes()));
            assert_eq!(world.counted(Counter::TooBigAnswered), 1);
            assert_eq!(world.counted(Counter::DropTooBig), 0);

            let just = small.clone().payload(&vec![0x5a; fits]);
            let verdict = run(&world, Hook::In(UPLINK), &mut just.frame());
            assert_eq!(verdict, Verdict::Forward { ifindex: UPLINK });
        }
    });
}

/// If the packet's checksum is pending, as after GRO, it must not end up in the quote. The message's checksum
/// must be right before and after a device completes checksums.
#[test]
fn p2_an_answer_sums_up_where_the_packets_checksum_was_pending() {
    for_each_cast(|cast| {
        if cast.protocol == protocol::SCTP {
            return;
        }
        for (index, (packet, sender, receiver)) in packets(&cast).into_iter().enumerate() {
            for len in 1400..1420 {
                let big = packet.clone().payload(&vec![len as u8; len]);
                let mut frame = big.pending_frame();
                let world = world(&cast);
                prepare(&cast, &world, index);
                assert_eq!(run(&world, Hook::In(UPLINK), &mut frame), Verdict::Bounce);
                let done = frame.completed();
                sums_up(&done, big.is_v4());
                let expected = too_big(&big, receiver, sender).bytes();
                // All bytes but the two checksums are the same as without a pending checksum.
                let icmp = 14 + if big.is_v4() { 20 } else { 40 };
                let transport = icmp + 8 + icmp - 14;
                let field = transport
                    + if cast.protocol == protocol::TCP {
                        16
                    } else {
                        6
                    };
                for (at, (a, b)) in done.bytes().iter().zip(&expected).enumerate() {
                    let sum =
                        (icmp + 2..icmp + 4).contains(&at) || (field..field + 2).contains(&at);
                    assert!(a == b || sum, "byte {at}");
                }
            }
        }
    });
}

/// The length of a segment on the wire is its payload plus its headers, including TCP options.
#[test]
fn p2_a_packet_that_will_be_cut_is_as_big_as_its_pieces() {
    for names in &BOTH {
        let cast = Cast {
            names,
            protocol: protocol::TCP,
        };
        let [(first, ..), _] = packets(&cast);
        let big = first.payload(&[7; 4000]);
        let headers = if big.is_v4() { 40 } else { 60 };
        for (segment, expected) in [
            (MTU - headers, Verdict::Forward { ifindex: UPLINK }),
            (MTU - headers + 1, Verdict::Bounce),
        ] {
            let mut cut = big.frame().segmented(segment);
            let verdict = run(&world(&cast), Hook::In(UPLINK), &mut cut);
            assert_eq!(verdict, expected, "{segment}");
        }
    }
}

#[test]
fn p2_where_the_hops_are_used_up_tracing_learns_of_this_node() {
    for_each_cast(|cast| {
        for (index, (segment, sender, receiver)) in packets(&cast).into_iter().enumerate() {
            for hops in [0, 1] {
                // Makes an INIT 20 bytes long, as much as an error quotes of it.
                let probe = segment.clone().payload(&[0x5a; 4]).hop_limit(hops);
                let kind = if probe.is_v4() { [11, 0] } else { [3, 0] };
                let told = Segment::icmp_error(receiver, sender, kind, &quoted(&probe))
                    .identification(0)
                    .macs_swapped();
                let fresh = || {
                    let world = world(&cast);
                    prepare(&cast, &world, index);
                    world
                };
                let mut frame = probe.frame();
                assert_eq!(run(&fresh(), Hook::In(UPLINK), &mut frame), Verdict::Bounce);
                assert_eq!(Dump(frame.bytes()), Dump(&told.bytes()));
                // A later fragment cannot be answered.
                let later = probe.fragment(3, false);
                tell(fresh, || {
                    vec![
                        packet("a fragment", Hook::In(UPLINK), &later, Fate::Passes),
                        Step::Counted(Counter::TtlAnswered, 0),
                    ]
                });
            }
        }
    });
}

/// Packets from or to an address that is not a single host are not answered (RFC 1122 §3.2.2).
#[test]
fn p2_only_one_host_is_answered() {
    for_each_cast(|cast| {
        let names = cast.names;
        let frontend = at(names.load_balancer, 80);
        let sources: &[&str] = match names.family {
            Family::V4 => &["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"],
            Family::V6 => &["::", "::1", "ff02::1"],
        };
        for source in sources {
            let probe = cast.first(&at(source, 40_000), &frontend).hop_limit(1);
            let dropped = Fate::Dropped(Counter::DropTtl);
            tell(
                || world(&cast),
                || vec![packet(source, Hook::In(UPLINK), &probe, dropped.clone())],
            );
        }
        let probe = cast
            .first(&at(names.client, 40_000), &frontend)
            .macs(MacPair {
                dst: [0xff; 6],
                src: [2, 0, 0, 0, 0, 0xfe],
            });
        let mut frame = probe.hop_limit(1).frame();
        let verdict = run(&world(&cast), Hook::In(UPLINK), &mut frame);
        assert_eq!(verdict, Verdict::Drop(Counter::DropTtl), "broadcast frame");
    });
}
