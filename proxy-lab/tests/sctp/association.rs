//! Both ends of an association, played with frames: kernels need not speak SCTP for others' to pass through them.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use proxy_common::host::{MacPair, Segment, Transport};
use proxy_common::parse::sctp_chunk;
use proxy_lab::{Checksum, Host, Node, Pod, Result};
use serde_json::Value;

/// SACK (RFC 9260 §3.2).
const SACK: u8 = 3;
const SCTP: u8 = 132;
/// How long a packet may take, and how often it is sent again.
const WAY: Duration = Duration::from_millis(100);
const TRIES: usize = 8;

/// Who says what, and with how many bytes in the chunk: an association from its first packet to its last.
const STORY: [(Side, u8, usize); 11] = [
    (Side::Client, sctp_chunk::INIT, 16),
    (Side::Backend, sctp_chunk::INIT_ACK, 253),
    (Side::Client, sctp_chunk::COOKIE_ECHO, 233),
    (Side::Backend, sctp_chunk::COOKIE_ACK, 0),
    (Side::Client, sctp_chunk::DATA, 1_201),
    (Side::Backend, SACK, 12),
    (Side::Backend, sctp_chunk::DATA, 13),
    (Side::Client, SACK, 12),
    (Side::Client, sctp_chunk::SHUTDOWN, 4),
    (Side::Backend, sctp_chunk::SHUTDOWN_ACK, 0),
    (Side::Client, sctp_chunk::SHUTDOWN_COMPLETE, 0),
];

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Client,
    Backend,
}

impl Side {
    /// The tag that it has chosen, by which the other side verifies its packets. (So does conntrack, on the way.)
    const fn tag(self) -> u32 {
        match self {
            Self::Client => 0x5c70_0001,
            Self::Backend => 0x5c70_0002,
        }
    }
}

/// A host, where it speaks and listens, and the MAC addresses of its frames.
pub struct End<'a> {
    pub host: &'a Host,
    pub at: SocketAddr,
    macs: MacPair,
}

impl<'a> End<'a> {
    pub fn pod(pod: &'a Pod, node: &Node, at: SocketAddr) -> Self {
        Self::new(pod, mac(node, &node.device_of(pod.name())), at)
    }

    /// A host of the LAN that sends to a node.
    pub fn beside(host: &'a Host, node: &Node, at: SocketAddr) -> Self {
        Self::new(host, mac(node, "eth0"), at)
    }

    fn new(host: &'a Host, next: [u8; 6], at: SocketAddr) -> Self {
        let macs = MacPair {
            dst: next,
            src: mac(host, "eth0"),
        };
        Self { host, at, macs }
    }

    /// An INIT of this end's.
    pub fn init(&self, to: SocketAddr) -> Segment {
        self.packet(to, Side::Client, sctp_chunk::INIT, 16)
    }

    fn packet(&self, to: SocketAddr, side: Side, chunk: u8, len: usize) -> Segment {
        let mut payload: Vec<u8> = (0..len).map(|n| n as u8 ^ chunk).collect();
        if [sctp_chunk::INIT, sctp_chunk::INIT_ACK].contains(&chunk) {
            payload[..4].copy_from_slice(&side.tag().to_be_bytes());
        }
        let tag = match (side, chunk) {
            (_, sctp_chunk::INIT) => 0,
            (Side::Client, _) => Side::Backend.tag(),
            (Side::Backend, _) => Side::Client.tag(),
        };
        let transport = Transport::Sctp {
            tag,
            chunk,
            checksum: true,
        };
        Segment::new(self.at, to, transport)
            .payload(&payload)
            .macs(self.macs)
    }
}

/// A whole association of a client with a frontend, each packet of which arrives as it was sent but for addresses and ports, and
/// with a right checksum. Gives whom the backend saw.
pub fn associate(client: &End<'_>, frontend: SocketAddr, backend: &End<'_>) -> Result<SocketAddr> {
    let mut seen = None;
    for (side, chunk, len) in STORY {
        if side == Side::Client {
            let packet = client.packet(frontend, side, chunk, len);
            let (from, to) = carry(client, &packet, backend)?;
            assert_eq!(
                to, backend.at,
                "chunk {chunk} of {} to {frontend}",
                client.at
            );
            assert_eq!(
                *seen.get_or_insert(from),
                from,
                "the client of chunk {chunk}"
            );
        } else {
            let source = seen.expect("the client began");
            let packet = backend.packet(source, side, chunk, len);
            let (from, to) = carry(backend, &packet, client)?;
            let expected = (frontend, client.at);
            assert_eq!((from, to), expected, "chunk {chunk} of {}", backend.at);
        }
    }
    Ok(seen.expect("the client began"))
}

/// Sends a packet until it has come to the other end; from where and to whom it was then.
fn carry(from: &End<'_>, packet: &Segment, to: &End<'_>) -> Result<(SocketAddr, SocketAddr)> {
    let sent = packet.bytes();
    let transport = 14 + if packet.is_v4() { 20 } else { 40 };
    // All but the ports and the checksum, tag and chunks.
    let same = |payload: &[u8]| {
        payload.get(4..8) == Some(&sent[transport + 4..transport + 8])
            && payload.get(12..) == Some(&sent[transport + 12..])
    };
    for _ in 0..TRIES {
        let capture = to.host.capture("eth0", &[])?;
        from.host.inject("eth0", std::slice::from_ref(&sent))?;
        thread::sleep(WAY);
        let captured = capture.stop()?;
        for frame in captured.frames.iter().filter(|frame| !frame.outgoing) {
            let Some(arrived) = frame.packet() else {
                continue;
            };
            if arrived.protocol != SCTP || !same(arrived.payload) {
                continue;
            }
            assert_ne!(frame.checksum, Checksum::Partial, "not final: {frame}");
            if let Err(flaw) = frame.check_sums() {
                panic!("{flaw}: {frame}");
            }
            return Ok(arrived.ends().expect("SCTP has ports"));
        }
    }
    panic!(
        "nothing of {} came to {}, {TRIES} times",
        from.at,
        to.host.name()
    );
}

fn mac(host: &Host, device: &str) -> [u8; 6] {
    let text = host
        .exec(["ip", "-json", "link", "show", "dev", device])
        .expect("is there");
    let found: Value = serde_json::from_str(&text).expect("JSON");
    let octets = found[0]["address"].as_str().expect("a MAC address");
    let octets: Vec<u8> = octets
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).expect("hexadecimal"))
        .collect();
    octets.try_into().expect("six")
}
