//! SCTP's checksum covers no addresses, and its update needs only the length of the data after the ports
//! (RFC 9260 §6.8). Tests for all protocols cover the rest of SCTP.

use proxy_common::{
    abi::{frontend::FrontendKind, protocol},
    datapath::Verdict,
    host::{Frame, Segment, Service, World},
};

use crate::{
    fixture::{Dump, Hook, run},
    node::{BOTH, Names, POD_A, at, node},
};

/// A node with an SCTP Service. Its backend has this port; the ClusterIP's port is 80.
fn world(names: &Names, port: u16) -> World {
    let world = node(names);
    world.add_service(
        &Service::new(protocol::SCTP)
            .frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 80))
            .backend(&at(names.far_pod, port)),
    );
    world
}

fn init(names: &Names, len: usize) -> Segment {
    let payload: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
    Segment::sctp(&at(names.pod_a, 40_000), &at(names.cluster_ip, 80))
        .syn()
        .payload(&payload)
}

#[test]
fn p1_the_checksum_follows_the_ports_at_every_length() {
    for names in &BOTH {
        let world = world(names, 8080);
        for len in (0..70).chain([255, 256, 257, 1460, 8_999, 65_000]) {
            let sent = init(names, len);
            let mut frame = sent.frame();
            let verdict = run(&world, Hook::Pod(POD_A), &mut frame);
            assert_eq!(verdict, Verdict::Continue, "{len}");
            let expected = sent.to(&at(names.far_pod, 8080));
            assert_eq!(Dump(frame.bytes()), Dump(&expected.bytes()), "{len}");
        }
    }
}

#[test]
fn p1_what_a_device_pads_a_short_frame_with_is_not_summed_up() {
    for names in &BOTH {
        for padding in 1..20 {
            let sent = init(names, 1);
            let padded = |segment: &Segment| {
                let mut bytes = segment.bytes();
                bytes.extend((0..padding).map(|n| 0xa0 | n));
                bytes
            };
            let mut frame = Frame::new(padded(&sent));
            let verdict = run(&world(names, 8080), Hook::Pod(POD_A), &mut frame);
            assert_eq!(verdict, Verdict::Continue);
            let expected = padded(&sent.to(&at(names.far_pod, 8080)));
            assert_eq!(Dump(frame.bytes()), Dump(&expected), "{padding}");
        }
    }
}

#[test]
fn p1_where_the_port_stays_so_does_the_checksum() {
    for names in &BOTH {
        let sent = init(names, 16);
        let field = |bytes: &[u8]| {
            let l4 = 14 + if sent.is_v4() { 20 } else { 40 };
            bytes[l4 + 8..l4 + 12].to_vec()
        };
        let mut frame = sent.frame();
        let verdict = run(&world(names, 80), Hook::Pod(POD_A), &mut frame);
        assert_eq!(verdict, Verdict::Continue);
        assert_eq!(field(frame.bytes()), field(&sent.bytes()));
        let expected = sent.clone().to(&at(names.far_pod, 80));
        assert_eq!(Dump(frame.bytes()), Dump(&expected.bytes()));
    }
}

/// A checksum of zero was left to the device, or none was sent (RFC 9653).
#[test]
fn p1_a_checksum_of_zero_stays() {
    for names in &BOTH {
        let sent = init(names, 16).without_checksum();
        let mut frame = sent.frame();
        let verdict = run(&world(names, 8080), Hook::Pod(POD_A), &mut frame);
        assert_eq!(verdict, Verdict::Continue);
        let expected = sent.to(&at(names.far_pod, 8080));
        assert_eq!(Dump(frame.bytes()), Dump(&expected.bytes()));
    }
}
