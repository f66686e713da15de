//! IP fragments (semantics P3): all fragments of a packet are translated like the first one.

use proxy_common::{
    abi::{counter::Counter, frontend::FrontendKind, protocol, target::TargetState},
    datapath::Verdict,
    host::{Frame, Segment, Service, World, fragments},
};

use crate::{
    fixture::{Cast, Dump, Hook, for_each_cast, run},
    node::{BOTH, HAIRPIN_PORT, POD_A, SNAT_PORT, UPLINK, at, node},
};

const ETHERNET: usize = 14;
/// Payload bytes per fragment.
const PIECE: usize = 40;

fn payload() -> Vec<u8> {
    (0..90).map(|n: u8| n.wrapping_mul(3)).collect()
}

fn pieces(packet: &Segment, id: u32) -> Vec<Vec<u8>> {
    let bytes = packet.clone().payload(&payload()).bytes();
    fragments(&bytes, ETHERNET, id, PIECE)
}

fn put(world: &World, hook: Hook, bytes: &[u8]) -> (Verdict, Frame) {
    let mut frame = Frame::new(bytes.to_vec());
    let verdict = run(world, hook, &mut frame);
    (verdict, frame)
}

/// Sends a packet in fragments. Each result must equal the corresponding fragment of `expected`.
fn goes(world: &World, hook: Hook, packet: &Segment, verdict: Verdict, expected: &Segment) {
    let id = 0x0001_0203;
    let sent = pieces(packet, id);
    assert!(sent.len() >= 3);
    for (number, (piece, expected)) in sent.iter().zip(pieces(expected, id)).enumerate() {
        let what = format!("piece {number} at {hook:?}");
        let (said, frame) = put(world, hook, piece);
        assert_eq!(said, verdict, "{what}");
        assert_eq!(Dump(frame.bytes()), Dump(&expected), "{what}");
    }
}

fn passes(world: &World, hook: Hook, bytes: &[u8], what: &str) {
    let (verdict, frame) = put(world, hook, bytes);
    assert_eq!(verdict, Verdict::Pass, "{what}");
    assert_eq!(Dump(frame.bytes()), Dump(bytes), "{what}");
}

/// A Service with one backend on another node. The backend's port is the frontend's, because SCTP's checksum
/// cannot be updated in a fragment when ports change.
fn service(cast: &Cast) -> (Service, String) {
    let backend = at(cast.names.far_pod, 80);
    let service = Service::new(cast.protocol)
        .frontend(FrontendKind::ClusterIp, &at(cast.names.cluster_ip, 80))
        .frontend(
            FrontendKind::LoadBalancer,
            &at(cast.names.load_balancer, 80),
        )
        .backend(&backend);
    (service, backend)
}

/// A packet of the flow to send in fragments: the first datagram for UDP; else a later packet, after an
/// unfragmented first.
fn begun(world: &World, cast: &Cast, hook: Hook, client: &str, frontend: &str) -> Segment {
    if cast.protocol == protocol::UDP {
        return cast.first(client, frontend);
    }
    put(world, hook, &cast.first(client, frontend).bytes());
    cast.later(client, frontend)
}

#[test]
fn p3_fragments_go_where_the_first_goes_and_come_back() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (client, frontend) = (at(names.pod_a, 40_000), at(names.cluster_ip, 80));
        let (service, backend) = service(&cast);
        let world = node(names);
        world.add_service(&service);
        let (there, back) = (Hook::Pod(POD_A), Hook::Out(POD_A));
        let asked = begun(&world, &cast, there, &client, &frontend);
        let answer = cast.answer(&backend, &client);
        if cast.protocol != protocol::UDP {
            put(&world, back, &answer.bytes());
        }
        let inside = asked.clone().to(&backend);
        goes(&world, there, &asked, Verdict::Continue, &inside);
        // At egress towards the backend they match no flow.
        passes(&world, Hook::Out(UPLINK), &pieces(&inside, 9)[0], "inside");
        passes(&world, Hook::Out(UPLINK), &pieces(&inside, 9)[1], "inside");
        let seen = answer.clone().from(&frontend);
        goes(&world, back, &answer, Verdict::Continue, &seen);
        goes(&world, there, &asked, Verdict::Continue, &inside);
        assert_eq!(world.counted(Counter::FlowCreated), 1);
        assert_eq!(world.counted(Counter::FlowConfirmed), 1);
    });
}

#[test]
fn p3_fragments_of_a_translated_source_go_and_come_back() {
    for_each_cast(|cast| {
        let names = cast.names;
        // The source port is translated, which SCTP fragments do not support.
        if cast.protocol == protocol::SCTP {
            return;
        }
        let (client, frontend) = (at(names.client, 40_000), at(names.load_balancer, 80));
        let (service, backend) = service(&cast);
        let source = at(names.node, SNAT_PORT);
        let world = node(names);
        world.add_service(&service);
        let (hook, verdict) = (Hook::In(UPLINK), Verdict::Forward { ifindex: UPLINK });
        let asked = begun(&world, &cast, hook, &client, &frontend);
        let answer = cast.answer(&backend, &source);
        if cast.protocol == protocol::TCP {
            put(&world, hook, &answer.bytes());
        }
        let inside = asked.clone().from(&source).to(&backend).hop_limit(63);
        goes(&world, hook, &asked, verdict, &inside);
        let seen = answer.clone().from(&frontend).to(&client).hop_limit(63);
        goes(&world, hook, &answer, verdict, &seen);
        goes(&world, hook, &asked, verdict, &inside);
        assert_eq!(world.counted(Counter::FlowCreated), 1);
    });
}

#[test]
fn p3_fragments_of_a_pod_to_itself_are_turned_round() {
    for_each_cast(|cast| {
        let names = cast.names;
        if cast.protocol == protocol::SCTP {
            return;
        }
        let (client, server) = (at(names.pod_a, 40_000), at(names.pod_a, 80));
        let frontend = at(names.cluster_ip, 80);
        let source = at(names.cluster_ip, HAIRPIN_PORT);
        let world = node(names);
        world.add_service(
            &Service::new(cast.protocol)
                .frontend(FrontendKind::ClusterIp, &frontend)
                .local_backend(&server),
        );
        let hook = Hook::Pod(POD_A);
        let asked = begun(&world, &cast, hook, &client, &frontend);
        if cast.protocol == protocol::TCP {
            put(&world, hook, &cast.answer(&server, &source).bytes());
        }
        let inside = asked.clone().from(&source).to(&server).macs_swapped();
        goes(&world, hook, &asked, Verdict::Bounce, &inside);
        let answer = cast.answer(&server, &source);
        let seen = answer.clone().from(&frontend).to(&client).macs_swapped();
        goes(&world, hook, &answer, Verdict::Bounce, &seen);
    });
}

#[test]
fn p3_who_comes_before_the_first_or_long_after_it_is_left_alone() {
    for names in &BOTH {
        let cast = Cast {
            names,
            protocol: protocol::UDP,
        };
        let (client, frontend) = (at(names.pod_a, 40_000), at(names.cluster_ip, 80));
        let world = node(names);
        world.add_service(&service(&cast).0);
        let (hook, packet) = (Hook::Pod(POD_A), cast.first(&client, &frontend));
        let mine = pieces(&packet, 1);
        passes(&world, hook, &mine[1], "before the first");
        put(&world, hook, &mine[0]);
        assert_eq!(put(&world, hook, &mine[2]).0, Verdict::Continue);
        passes(
            &world,
            hook,
            &pieces(&packet, 2)[1],
            "another identification",
        );
        let from_another = pieces(&cast.first(&at(names.pod_b, 40_000), &frontend), 1);
        passes(&world, hook, &from_another[1], "another client");
        if packet.is_v4() {
            let by_tcp = Segment::later(protocol::TCP, &client, &frontend);
            passes(&world, hook, &pieces(&by_tcp, 1)[1], "another protocol");
        }
        world.pass_seconds(30);
        assert_eq!(put(&world, hook, &mine[1]).0, Verdict::Continue);
        world.pass_seconds(1);
        passes(&world, hook, &mine[1], "too late");
        // The sender reuses the identification.
        put(&world, hook, &mine[0]);
        assert_eq!(put(&world, hook, &mine[1]).0, Verdict::Continue);
    }
}

#[test]
fn p4_fragments_that_are_not_ours_leave_nothing_behind() {
    for_each_cast(|cast| {
        let names = cast.names;
        let world = node(names);
        world.add_service(&service(&cast).0);
        let (client, server) = (at(names.pod_a, 40_000), at(names.elsewhere, 80));
        let packet = cast.first(&client, &server);
        for hook in [Hook::Pod(POD_A), Hook::In(UPLINK), Hook::Out(POD_A)] {
            for piece in pieces(&packet, 3) {
                passes(&world, hook, &piece, "not ours");
            }
        }
        assert!(world.fragments.is_empty());
    });
}

#[test]
fn b5_a_refused_packet_is_refused_once() {
    for names in &BOTH {
        let world = node(names);
        let frontend = at(names.cluster_ip, 80);
        world.add_service(
            &Service::new(protocol::UDP)
                .frontend(FrontendKind::ClusterIp, &frontend)
                .state(TargetState::Reject),
        );
        let packet = Segment::udp(&at(names.pod_a, 40_000), &frontend);
        let verdicts: Vec<_> = pieces(&packet, 4)
            .iter()
            .map(|piece| put(&world, Hook::Pod(POD_A), piece).0)
            .collect();
        let dropped = Verdict::Drop(Counter::DropAnswer);
        assert_eq!(verdicts, [Verdict::Bounce, dropped, dropped]);
    }
}

#[test]
fn p3_sctp_whose_port_would_change_is_dropped_in_pieces() {
    for names in &BOTH {
        let world = node(names);
        let (client, frontend) = (at(names.pod_a, 40_000), at(names.cluster_ip, 80));
        let backend = at(names.far_pod, 8080);
        world.add_service(
            &Service::new(protocol::SCTP)
                .frontend(FrontendKind::ClusterIp, &frontend)
                .backend(&backend),
        );
        let first = Segment::first(protocol::SCTP, &client, &frontend);
        let answer = Segment::answer(protocol::SCTP, &backend, &client);
        put(&world, Hook::Pod(POD_A), &first.bytes());
        put(&world, Hook::Out(POD_A), &answer.bytes());
        let packet = Segment::later(protocol::SCTP, &client, &frontend);
        let (verdict, _) = put(&world, Hook::Pod(POD_A), &pieces(&packet, 5)[0]);
        assert_eq!(verdict, Verdict::Drop(Counter::DropRewrite));
    }
}
