//! Frames that the agent must leave alone: of other protocols, tagged, fragmented, malformed. Many look as
//! if they were for a Service.

use std::net::{IpAddr, SocketAddr};

/// Who the frames are of.
#[derive(Debug, Clone, Copy)]
pub struct Parties {
    /// Destination MAC.
    pub to: [u8; 6],
    /// Source MAC, of these frames alone.
    pub from: [u8; 6],
    /// The sender's addresses.
    pub sender: [IpAddr; 2],
    /// The receiver's addresses, with a port.
    pub receiver: [SocketAddr; 2],
    /// A Service that has endpoints.
    pub service: [SocketAddr; 2],
}

/// A frame, and what it is.
pub type Named = (String, Vec<u8>);

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const PAYLOAD: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz: nobody may touch this";

/// All of them.
pub fn all(parties: &Parties) -> Vec<Named> {
    let mut frames = Vec::new();
    other_protocols(parties, &mut frames);
    for (sender, receiver, service) in [0, 1].map(|family| {
        (
            parties.sender[family],
            parties.receiver[family],
            parties.service[family],
        )
    }) {
        let from = SocketAddr::new(sender, 40_001);
        direct(parties, from, receiver, &mut frames);
        not_beginning(parties, from, service, &mut frames);
        tagged(parties, from, service, &mut frames);
        match (sender, service.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => malformed_v4(parties, from, service, &mut frames),
            _ => malformed_v6(parties, from, service, &mut frames),
        }
    }
    frames
}

/// What is no IP at all, or has no ports.
fn other_protocols(parties: &Parties, frames: &mut Vec<Named>) {
    for (what, ethertype) in [
        ("LLDP", 0x88cc),
        ("MPLS", 0x8847),
        ("PPPoE", 0x8864),
        ("an 802.3 length", 0x0040),
        ("a private ethertype", 0x88b5),
    ] {
        frames.push((what.to_owned(), ethernet(parties, ethertype, PAYLOAD)));
    }
    frames.push(("an empty frame".to_owned(), ethernet(parties, IPV4, &[])));
    for family in [0, 1] {
        let (from, to) = (parties.sender[family], parties.service[family].ip());
        for (what, protocol) in [
            ("ICMP", if family == 0 { 1 } else { 58 }),
            ("ESP", 50),
            ("GRE", 47),
            ("SCTP", 132),
            ("UDP-Lite", 136),
            ("protocol 253", 253),
        ] {
            let packet = ip(from, to, protocol, PAYLOAD);
            frames.push((format!("{what} to a Service"), framed(parties, &packet)));
        }
    }
}

/// Plain traffic from one pod to another.
fn direct(parties: &Parties, from: SocketAddr, to: SocketAddr, frames: &mut Vec<Named>) {
    let mut bad_sum = udp(from, to, PAYLOAD);
    bad_sum[6] ^= 0x55;
    let segments = [
        ("a SYN", TCP, tcp(from, to, 0x02, &[])),
        ("a segment", TCP, tcp(from, to, 0x18, PAYLOAD)),
        ("a reset", TCP, tcp(from, to, 0x04, &[])),
        ("all flags at once", TCP, tcp(from, to, 0xff, PAYLOAD)),
        ("a datagram", UDP, udp(from, to, PAYLOAD)),
        (
            "a datagram of full size",
            UDP,
            udp(from, to, &[0xa5; 1_400]),
        ),
        ("a datagram with a wrong checksum", UDP, bad_sum),
    ];
    for (what, protocol, segment) in segments {
        let packet = ip(from.ip(), to.ip(), protocol, &segment);
        frames.push((format!("{what} to {to}"), framed(parties, &packet)));
    }
    let first = first_fragment(from, to);
    frames.push((format!("a first fragment to {to}"), framed(parties, &first)));
}

fn first_fragment(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let datagram = udp(from, to, PAYLOAD);
    if from.is_ipv4() {
        return with(ip(from.ip(), to.ip(), UDP, &datagram), 6, 0x20);
    }
    let header = [UDP, 0, 0, 1, 0, 0, 0, 7];
    ip(from.ip(), to.ip(), 44, &[&header, &datagram[..]].concat())
}

/// To a Service, but the beginning of nothing that it serves.
fn not_beginning(parties: &Parties, from: SocketAddr, to: SocketAddr, frames: &mut Vec<Named>) {
    let other_port = SocketAddr::new(to.ip(), to.port() + 1);
    let segments = [
        ("a segment of no flow", TCP, tcp(from, to, 0x18, PAYLOAD)),
        ("a FIN of no flow", TCP, tcp(from, to, 0x11, &[])),
        ("a SYN-ACK of no flow", TCP, tcp(from, to, 0x12, &[])),
        (
            "a SYN to another port",
            TCP,
            tcp(from, other_port, 0x02, &[]),
        ),
        (
            "a datagram to another port",
            UDP,
            udp(from, other_port, PAYLOAD),
        ),
    ];
    for (what, protocol, segment) in segments {
        let packet = ip(from.ip(), to.ip(), protocol, &segment);
        frames.push((format!("{what}, to {to}"), framed(parties, &packet)));
    }
    // From the Service's own address, which no host has.
    let packet = ip(to.ip(), from.ip(), UDP, &udp(to, from, PAYLOAD));
    frames.push((format!("a datagram from {to}"), framed(parties, &packet)));
}

/// A frame in a foreign VLAN, whose devices are separate: a Service's address there belongs to other hosts.
fn tagged(parties: &Parties, from: SocketAddr, to: SocketAddr, frames: &mut Vec<Named>) {
    let datagram = ip(from.ip(), to.ip(), UDP, &udp(from, to, PAYLOAD));
    let syn = ip(from.ip(), to.ip(), TCP, &tcp(from, to, 0x02, &[]));
    for (what, tags) in [
        ("VLAN 5", &[(0x8100_u16, 5_u16)][..]),
        ("VLAN 4094, priority 7", &[(0x8100, 0xeffe)]),
        ("VLAN 7 in VLAN 5", &[(0x88a8, 5), (0x8100, 7)]),
        ("priority 3 in VLAN 5", &[(0x8100, 5), (0x8100, 0x6000)]),
    ] {
        for (kind, packet) in [("datagram", &datagram), ("SYN", &syn)] {
            frames.push((
                format!("a {kind} to {to} in {what}"),
                in_vlans(parties, tags, packet),
            ));
        }
    }
}

/// To a Service, but no IPv4 packet of a kind that could be translated.
fn malformed_v4(parties: &Parties, from: SocketAddr, to: SocketAddr, frames: &mut Vec<Named>) {
    let datagram = || ip(from.ip(), to.ip(), UDP, &udp(from, to, PAYLOAD));
    let syn = || ip(from.ip(), to.ip(), TCP, &tcp(from, to, 0x02, &[]));
    let mut add = |what: &str, packet: Vec<u8>| {
        frames.push((format!("{what}, to {to}"), ethernet(parties, IPV4, &packet)));
    };
    add("version 5", with(datagram(), 0, 0x55));
    add(
        "version 6 under IPv4's ethertype",
        with(datagram(), 0, 0x65),
    );
    add("a header of 16 bytes", with(datagram(), 0, 0x44));
    add(
        "a header of 60 bytes that ends the packet",
        with(syn(), 0, 0x4f),
    );
    add("a length beyond the frame", with(datagram(), 3, 0xff));
    add("a length within the IP header", with(datagram(), 3, 12));
    add("a length within the UDP header", with(datagram(), 3, 24));
    add("a length within the TCP header", with(syn(), 3, 30));
    add("a TCP header that is cut off", syn()[..32].to_vec());
    add("a UDP header that is cut off", datagram()[..24].to_vec());
    add("an IP header that is cut off", datagram()[..12].to_vec());
    // Fragments of packets whose first fragment was never seen.
    add("a later fragment", with(with(datagram(), 6, 0x20), 7, 0x10));
    add("a last fragment", with(datagram(), 7, 0x10));
}

/// To a Service, but no IPv6 packet of a kind that could be translated.
fn malformed_v6(parties: &Parties, from: SocketAddr, to: SocketAddr, frames: &mut Vec<Named>) {
    let datagram = udp(from, to, PAYLOAD);
    let plain = || ip(from.ip(), to.ip(), UDP, &datagram);
    let mut add = |what: &str, packet: Vec<u8>| {
        frames.push((format!("{what}, to {to}"), ethernet(parties, IPV6, &packet)));
    };
    add("version 4 under IPv6's ethertype", with(plain(), 0, 0x45));
    add("a length beyond the frame", with(plain(), 4, 0x10));
    add("a length within the UDP header", with(plain(), 5, 4));
    add("a UDP header that is cut off", plain()[..44].to_vec());
    add("an IP header that is cut off", plain()[..20].to_vec());
    // The next header, then a length of 0: eight bytes.
    let chained = |headers: &[u8]| {
        let mut payload = Vec::new();
        for next in headers.iter().skip(1).chain([&UDP]) {
            payload.extend([*next, 0, 0, 0, 0, 0, 0, 0]);
        }
        payload.extend(&datagram);
        ip(from.ip(), to.ip(), headers[0], &payload)
    };
    add(
        "more extension headers than anybody sends",
        chained(&[60; 9]),
    );
    add(
        "an extension header that ends beyond the packet",
        with(chained(&[60]), 41, 0xff),
    );
    // The fragment header: offset and flag in its third and fourth byte.
    add("a later fragment", with(chained(&[44]), 43, 0x11));
    add("a last fragment", with(chained(&[44]), 43, 0x10));
    add(
        "a later fragment behind other headers",
        with(chained(&[0, 60, 44]), 59, 0x11),
    );
    let mut mapped = plain();
    mapped[8..20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    add("an IPv4-mapped source", mapped);
}

fn with(mut packet: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    packet[at] = byte;
    packet
}

fn ethernet(parties: &Parties, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    in_vlans_of(parties, &[], ethertype, payload)
}

fn framed(parties: &Parties, packet: &[u8]) -> Vec<u8> {
    in_vlans(parties, &[], packet)
}

fn in_vlans(parties: &Parties, tags: &[(u16, u16)], packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
    in_vlans_of(parties, tags, ethertype, packet)
}

fn in_vlans_of(parties: &Parties, tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [parties.to, parties.from].concat();
    for (kind, tag) in tags {
        frame.extend(kind.to_be_bytes());
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend((length + 20).to_be_bytes());
            header.extend([0x12, 0x34, 0, 0, 64, protocol, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = sum(&[&header]).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            [&header, payload].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([protocol, 64]);
            header.extend(from.octets());
            header.extend(to.octets());
            [&header, payload].concat()
        }
        _ => panic!("{from} and {to} are of two families"),
    }
}

fn tcp(from: SocketAddr, to: SocketAddr, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    header.extend([
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        2,
        5 << 4,
        flags,
        0xff,
        0xff,
        0,
        0,
        0,
        0,
    ]);
    let mut segment = [&header, payload].concat();
    let sum = sum(&[&pseudo_header(from, to, TCP, segment.len()), &segment]).to_be_bytes();
    segment[16..18].copy_from_slice(&sum);
    segment
}

fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut datagram = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    datagram.extend((payload.len() as u16 + 8).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let sum = sum(&[&pseudo_header(from, to, UDP, datagram.len()), &datagram]).to_be_bytes();
    datagram[6..8].copy_from_slice(&sum);
    datagram
}

fn pseudo_header(from: SocketAddr, to: SocketAddr, protocol: u8, length: usize) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let mut pseudo = [octets(from.ip()), octets(to.ip())].concat();
    pseudo.extend((length as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    pseudo
}

/// The internet checksum of parts that have even lengths, the last one excepted.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
