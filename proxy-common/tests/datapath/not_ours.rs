//! Semantics P4: traffic that is not for the proxy passes unchanged, whatever its form.

use proxy_common::{
    abi::{frontend::FrontendKind, protocol},
    datapath::Verdict,
    host::{Frame, Segment, Service, World},
    parse::sctp_chunk,
};

use crate::{
    fixture::{Dump, Hook, run},
    node::{BOTH, Names, OVERLAY, POD_A, UPLINK, at, node},
};

const PROTOCOLS: [u8; 3] = [protocol::TCP, protocol::UDP, protocol::SCTP];

/// A node with a Service per protocol, which is served to everybody, and a confirmed flow to each.
fn busy(names: &Names) -> World {
    let world = node(names);
    let vip = at(names.load_balancer, 80);
    for protocol in PROTOCOLS {
        world.add_service(
            &Service::new(protocol)
                .frontend(FrontendKind::LoadBalancer, &vip)
                .node_port(names.family, 30_001)
                .backend(&at(names.far_pod, 8080)),
        );
        let client = at(names.pod_a, 1);
        let mut first = Segment::first(protocol, &client, &vip).frame();
        assert_eq!(run(&world, Hook::Pod(POD_A), &mut first), Verdict::Continue);
        let mut answer = Segment::answer(protocol, &at(names.far_pod, 8080), &client).frame();
        assert_eq!(
            run(&world, Hook::Out(POD_A), &mut answer),
            Verdict::Continue
        );
    }
    world
}

/// Passes bytes through each hook. Neither the bytes nor the tables and counters may change.
fn passes(names: &Names, what: &str, bytes: &[u8], hooks: &[Hook]) {
    let world = busy(names);
    let before = format!("{world:?}");
    for &hook in hooks {
        let mut frame = Frame::new(bytes.to_vec());
        let verdict = run(&world, hook, &mut frame);
        assert_eq!(verdict, Verdict::Pass, "{what} at {hook:?}");
        assert_eq!(Dump(frame.bytes()), Dump(bytes), "{what} at {hook:?}");
    }
    assert_eq!(format!("{world:?}"), before, "{what}");
}

const ETHERNET: [Hook; 3] = [Hook::Pod(POD_A), Hook::In(UPLINK), Hook::Out(POD_A)];
const RAW: [Hook; 2] = [Hook::In(OVERLAY), Hook::Out(OVERLAY)];

/// Packets that the proxy would translate if they were well-formed: the first packet of a flow, and packets of
/// both directions of a confirmed flow.
fn ours(names: &Names) -> Vec<Segment> {
    let (client, vip) = (at(names.pod_a, 1), at(names.load_balancer, 80));
    let backend = at(names.far_pod, 8080);
    let of = |protocol| {
        [
            Segment::first(protocol, &client, &vip),
            Segment::later(protocol, &client, &vip),
            Segment::later(protocol, &backend, &client),
        ]
    };
    let all = PROTOCOLS.into_iter().flat_map(of);
    all.map(|segment| segment.payload(b"data")).collect()
}

#[test]
fn p4_a_frame_with_a_vlan_id_belongs_to_another_device() {
    for names in &BOTH {
        for segment in ours(names) {
            for (ethertype, control) in [(0x8100, 0x0005), (0x88a8, 0x0fff), (0x8100, 0xe001)] {
                let bytes = segment.clone().tagged(ethertype, control).bytes();
                passes(names, "a VLAN id", &bytes, &ETHERNET);
            }
        }
    }
}

#[test]
fn p4_a_packet_cut_short_anywhere_passes() {
    for names in &BOTH {
        for segment in ours(names) {
            for (bytes, hooks) in [
                (segment.bytes(), &ETHERNET[..]),
                (segment.clone().raw_ip().bytes(), &RAW[..]),
            ] {
                for len in 0..bytes.len() {
                    passes(names, "cut short", &bytes[..len], hooks);
                }
            }
        }
    }
}

#[test]
fn p4_a_packet_cut_short_whose_length_was_made_to_fit_passes_until_its_headers_are_whole() {
    for names in &BOTH {
        for segment in ours(names) {
            let bytes = segment.clone().raw_ip().bytes();
            let (ip, whole) = match (segment.is_v4(), segment.protocol()) {
                (true, protocol::TCP) => (20, 40),
                (true, protocol::SCTP) => (20, 36),
                (true, _) => (20, 28),
                (false, protocol::TCP) => (40, 60),
                (false, protocol::SCTP) => (40, 56),
                (false, _) => (40, 48),
            };
            for len in ip..whole {
                for trailing in [0, 60] {
                    let mut short = bytes[..len].to_vec();
                    if segment.is_v4() {
                        short[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                    } else {
                        short[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
                    }
                    // The padding of a short frame is not part of the packet.
                    short.extend_from_slice(&bytes[len..]);
                    short.extend(std::iter::repeat_n(0, trailing));
                    passes(names, "headers beyond the packet's end", &short, &RAW);
                }
            }
        }
    }
}

#[test]
fn p4_lengths_and_versions_that_lie_pass() {
    let v4 = &BOTH[0];
    for segment in ours(v4) {
        let good = segment.bytes();
        let lies: [(&str, usize, &[u8]); 9] = [
            ("version 6 in an IPv4 frame", 14, &[0x65]),
            ("version 0", 14, &[0x05]),
            ("a header of 16 bytes", 14, &[0x44]),
            ("a header beyond the packet", 14, &[0x4f]),
            ("longer than it is", 16, &[0xff, 0xff]),
            (
                "one byte longer than it is",
                16,
                &((good.len() - 14 + 1) as u16).to_be_bytes(),
            ),
            ("no length at all", 16, &[0, 0]),
            ("a length of its IP header alone", 16, &[0, 20]),
            ("another Ethertype", 12, &[0x08, 0x06]),
        ];
        for (what, at, lie) in lies {
            let mut bytes = good.clone();
            bytes[at..at + lie.len()].copy_from_slice(lie);
            passes(v4, what, &bytes, &ETHERNET);
        }
    }
    let v6 = &BOTH[1];
    for segment in ours(v6) {
        let good = segment.bytes();
        let lies: [(&str, usize, &[u8]); 6] = [
            ("version 4 in an IPv6 frame", 14, &[0x40]),
            ("version 7", 14, &[0x70]),
            ("longer than it is", 18, &[0xff, 0xff]),
            (
                "one byte longer than it is",
                18,
                &((good.len() - 54 + 1) as u16).to_be_bytes(),
            ),
            ("no payload", 18, &[0, 0]),
            ("the Ethertype of IPv4", 12, &[0x08, 0x00]),
        ];
        for (what, at, lie) in lies {
            let mut bytes = good.clone();
            bytes[at..at + lie.len()].copy_from_slice(lie);
            passes(v6, what, &bytes, &ETHERNET);
        }
    }
}

#[test]
fn p4_other_protocols_pass() {
    for names in &BOTH {
        for segment in ours(names) {
            let field = if names.family == proxy_common::addr::Family::V4 {
                14 + 9
            } else {
                14 + 6
            };
            // ICMP, IGMP, IP in IP, IPv6 in IP, GRE, ESP, AH, ICMPv6, no next header.
            for number in [1, 2, 4, 41, 47, 50, 51, 58, 59, 255] {
                let mut bytes = segment.bytes();
                bytes[field] = number;
                passes(names, "another protocol", &bytes, &ETHERNET);
            }
        }
    }
}

#[test]
fn p4_later_fragments_pass() {
    for names in &BOTH {
        for segment in ours(names) {
            for (offset, more) in [(1, true), (1, false), (0x1fff, false)] {
                let bytes = segment.clone().fragment(offset, more).bytes();
                passes(names, "a later fragment", &bytes, &ETHERNET);
            }
        }
    }
}

#[test]
fn p4_extension_headers_that_lie_or_never_end_pass() {
    let names = &BOTH[1];
    for segment in ours(names) {
        let many = (0..5).fold(segment.clone(), |segment, _| segment.extension(60, &[]));
        passes(
            names,
            "more extensions than are parsed",
            &many.bytes(),
            &ETHERNET,
        );
        let long = segment.clone().extension(60, &[0; 246]);
        passes(names, "an extension of 248 bytes", &long.bytes(), &ETHERNET);

        let mut lying = segment.clone().extension(60, &[]).bytes();
        lying[14 + 40 + 1] = 255;
        passes(names, "an extension beyond the packet", &lying, &ETHERNET);
        let mut inside = segment.clone().extension(60, &[]).bytes();
        inside[14 + 40 + 1] = 1;
        passes(
            names,
            "an extension that covers the transport header",
            &inside,
            &ETHERNET,
        );
    }
}

#[test]
fn p4_an_ipv4_address_in_ipv6_clothes_is_nobodys() {
    let v4 = &BOTH[0];
    let mapped = |ip: &str, port| format!("[::ffff:{ip}]:{port}");
    for protocol in PROTOCOLS {
        let to = mapped(v4.load_balancer, 80);
        let bytes = Segment::first(protocol, "[2001:db8::5]:7", &to).bytes();
        passes(v4, "to a mapped address", &bytes, &ETHERNET);
        let bytes = Segment::first(protocol, &mapped(v4.pod_a, 1), &to).bytes();
        passes(v4, "between mapped addresses", &bytes, &ETHERNET);
    }
}

#[test]
fn p4_what_no_frontend_takes_passes() {
    for names in &BOTH {
        for protocol in PROTOCOLS {
            let client = at(names.pod_a, 40_000);
            for (address, port) in [
                (names.load_balancer, 81),
                (names.elsewhere, 80),
                (names.node, 80),
                (names.far_pod, 8080),
                (names.quiet_node, 30_001),
            ] {
                let segment = Segment::first(protocol, &client, &at(address, port));
                passes(names, "no frontend", &segment.bytes(), &ETHERNET);
            }
        }
    }
}

#[test]
fn p5_a_mid_flow_packet_without_state_passes() {
    for names in &BOTH {
        let (client, vip) = (at(names.pod_a, 40_000), at(names.load_balancer, 80));
        let base = Segment::tcp(&client, &vip).payload(b"on it goes");
        for segment in [
            base.clone(),
            base.clone().fin(),
            base.clone().rst(),
            base.clone().syn_ack(),
            base.clone().flags(0),
            base.clone().flags(!proxy_common::parse::tcp_flags::SYN),
        ] {
            passes(names, "no state", &segment.bytes(), &ETHERNET);
        }
        // All chunks but INIT, in associations without state.
        for chunk in (0..=u8::MAX).filter(|chunk| *chunk != sctp_chunk::INIT) {
            let segment = Segment::sctp(&client, &vip).chunk(chunk);
            passes(names, "no state", &segment.bytes(), &ETHERNET);
        }
    }
}
