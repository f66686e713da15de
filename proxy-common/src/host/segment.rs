//! Building packets: TCP segments, UDP datagrams, SCTP packets of one chunk, with all checksums right.

use std::net::{IpAddr, SocketAddr};

use super::frame::{Frame, PendingChecksum, checksum_of, crc32c_of};
use crate::{
    abi::protocol,
    parse::{SCTP_CHECKSUM, sctp_chunk, tcp_flags},
};

/// The MAC addresses of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacPair {
    /// Destination.
    pub dst: [u8; 6],
    /// Source.
    pub src: [u8; 6],
}

impl MacPair {
    /// The way back.
    #[must_use]
    pub const fn swapped(self) -> Self {
        Self {
            dst: self.src,
            src: self.dst,
        }
    }
}

/// What is above IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// [`tcp_flags`].
        flags: u8,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
        /// Window.
        window: u16,
    },
    /// UDP.
    Udp {
        /// Whether it carries a checksum.
        checksum: bool,
    },
    /// SCTP.
    Sctp {
        /// Verification tag.
        tag: u32,
        /// [`sctp_chunk`] of its only chunk, whose value is the payload, not padded.
        chunk: u8,
        /// Whether it carries a checksum.
        checksum: bool,
    },
}

/// A packet to be: what is not said has a plain default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    src: SocketAddr,
    dst: SocketAddr,
    transport: Transport,
    payload: Vec<u8>,
    hop_limit: u8,
    identification: u16,
    link: Option<MacPair>,
    tag: Option<[u16; 2]>,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    fragment: Option<u16>,
}

const MACS: MacPair = MacPair {
    dst: [2, 0, 0, 0, 0, 1],
    src: [2, 0, 0, 0, 0, 2],
};
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_HEADER: u8 = 44;

impl Segment {
    /// A packet in an Ethernet frame. Addresses must be of one family.
    pub fn new(src: SocketAddr, dst: SocketAddr, transport: Transport) -> Self {
        assert_eq!(
            src.is_ipv4(),
            dst.is_ipv4(),
            "{src} and {dst} are of two families"
        );
        Self {
            src,
            dst,
            transport,
            payload: Vec::new(),
            hop_limit: 64,
            identification: 0x1234,
            link: Some(MACS),
            tag: None,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
        }
    }

    /// A TCP segment with ACK, between two `address:port`.
    pub fn tcp(src: &str, dst: &str) -> Self {
        let transport = Transport::Tcp {
            flags: tcp_flags::ACK,
            seq: 1000,
            ack: 2000,
            window: 0xffff,
        };
        Self::new(endpoint(src), endpoint(dst), transport)
    }

    /// A UDP datagram between two `address:port`.
    pub fn udp(src: &str, dst: &str) -> Self {
        let transport = Transport::Udp { checksum: true };
        Self::new(endpoint(src), endpoint(dst), transport)
    }

    /// An SCTP packet with a DATA chunk, between two `address:port`.
    pub fn sctp(src: &str, dst: &str) -> Self {
        let transport = Transport::Sctp {
            tag: 0x1234_5678,
            chunk: sctp_chunk::DATA,
            checksum: true,
        };
        Self::new(endpoint(src), endpoint(dst), transport)
    }

    /// A packet of a protocol (TCP, UDP, SCTP) in the midst of a flow between two `address:port`.
    pub fn later(protocol: u8, src: &str, dst: &str) -> Self {
        match protocol {
            protocol::TCP => Self::tcp(src, dst),
            protocol::SCTP => Self::sctp(src, dst),
            _ => Self::udp(src, dst),
        }
    }

    /// A packet of a protocol between two `address:port`; of TCP, a SYN, of SCTP, an INIT.
    pub fn first(protocol: u8, src: &str, dst: &str) -> Self {
        Self::later(protocol, src, dst).syn()
    }

    /// A packet of a protocol between two `address:port`; of TCP, a SYN with ACK, of SCTP, an INIT ACK.
    pub fn answer(protocol: u8, src: &str, dst: &str) -> Self {
        Self::later(protocol, src, dst).syn_ack()
    }

    /// With these TCP flags; a datagram has none.
    #[must_use]
    pub fn flags(mut self, new: u8) -> Self {
        if let Transport::Tcp { flags, .. } = &mut self.transport {
            *flags = new;
        }
        self
    }

    /// With this SCTP chunk.
    #[must_use]
    pub fn chunk(mut self, new: u8) -> Self {
        if let Transport::Sctp { chunk, .. } = &mut self.transport {
            *chunk = new;
        }
        self
    }

    /// A SYN; an INIT.
    #[must_use]
    pub fn syn(self) -> Self {
        self.flags(tcp_flags::SYN).chunk(sctp_chunk::INIT)
    }

    /// A SYN with ACK; an INIT ACK.
    #[must_use]
    pub fn syn_ack(self) -> Self {
        self.flags(tcp_flags::SYN | tcp_flags::ACK)
            .chunk(sctp_chunk::INIT_ACK)
    }

    /// A FIN with ACK; a SHUTDOWN.
    #[must_use]
    pub fn fin(self) -> Self {
        self.flags(tcp_flags::FIN | tcp_flags::ACK)
            .chunk(sctp_chunk::SHUTDOWN)
    }

    /// A RST with ACK; an ABORT.
    #[must_use]
    pub fn rst(self) -> Self {
        self.flags(tcp_flags::RST | tcp_flags::ACK)
            .chunk(sctp_chunk::ABORT)
    }

    /// With these TCP sequence and acknowledgement numbers.
    #[must_use]
    pub fn numbers(mut self, new_seq: u32, new_ack: u32) -> Self {
        if let Transport::Tcp { seq, ack, .. } = &mut self.transport {
            (*seq, *ack) = (new_seq, new_ack);
        }
        self
    }

    /// With this TCP window.
    #[must_use]
    pub fn window(mut self, new: u16) -> Self {
        if let Transport::Tcp { window, .. } = &mut self.transport {
            *window = new;
        }
        self
    }

    /// A datagram or SCTP packet without a checksum (RFC 768, RFC 9653: a field of zero).
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        if let Transport::Udp { checksum } | Transport::Sctp { checksum, .. } = &mut self.transport
        {
            *checksum = false;
        }
        self
    }

    /// From another `address:port`.
    #[must_use]
    pub fn from(mut self, src: &str) -> Self {
        self.src = endpoint(src);
        self
    }

    /// To another `address:port`.
    #[must_use]
    pub fn to(mut self, dst: &str) -> Self {
        self.dst = endpoint(dst);
        self
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        payload.clone_into(&mut self.payload);
        self
    }

    /// With this hop limit.
    #[must_use]
    pub const fn hop_limit(mut self, hops: u8) -> Self {
        self.hop_limit = hops;
        self
    }

    /// With this IPv4 identification.
    #[must_use]
    pub const fn identification(mut self, identification: u16) -> Self {
        self.identification = identification;
        self
    }

    /// With these MAC addresses.
    #[must_use]
    pub const fn macs(mut self, macs: MacPair) -> Self {
        self.link = Some(macs);
        self
    }

    /// With the MAC addresses exchanged.
    #[must_use]
    pub fn macs_swapped(mut self) -> Self {
        self.link = self.link.map(MacPair::swapped);
        self
    }

    /// Without an Ethernet header.
    #[must_use]
    pub const fn raw_ip(mut self) -> Self {
        self.link = None;
        self
    }

    /// With a VLAN tag in its bytes: an Ethertype (0x8100, 0x88a8), and priority and id.
    #[must_use]
    pub const fn tagged(mut self, ethertype: u16, control: u16) -> Self {
        self.tag = Some([ethertype, control]);
        self
    }

    /// With IPv4 options, which are padded to a multiple of four bytes.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        options.clone_into(&mut self.options);
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// With one more IPv6 extension header of this number; its data after the first two bytes are padded.
    #[must_use]
    pub fn extension(mut self, number: u8, data: &[u8]) -> Self {
        let mut data = data.to_vec();
        data.resize((data.len() + 2).next_multiple_of(8) - 2, 0);
        self.extensions.push((number, data));
        self
    }

    /// A fragment: its offset in units of eight bytes, and whether more follow. IPv6 fragments get a header for it,
    /// after the extensions so far.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        if self.src.is_ipv4() {
            self.fragment = Some(offset | if more { MORE_FRAGMENTS } else { 0 });
        } else {
            let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
            self.extensions
                .push((FRAGMENT_HEADER, vec![high, low, 0, 0, 0, 7]));
        }
        self
    }

    /// Whether it is of IPv4.
    pub const fn is_v4(&self) -> bool {
        self.src.is_ipv4()
    }

    /// Its IANA protocol number.
    pub const fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => protocol::TCP,
            Transport::Udp { .. } => protocol::UDP,
            Transport::Sctp { .. } => protocol::SCTP,
        }
    }

    /// Whether it carries a transport checksum.
    pub const fn has_checksum(&self) -> bool {
        matches!(
            self.transport,
            Transport::Tcp { .. }
                | Transport::Udp { checksum: true }
                | Transport::Sctp { checksum: true, .. }
        )
    }

    /// As a packet whose checksums are all there.
    pub fn frame(&self) -> Frame {
        Frame::new(self.bytes())
    }

    /// As a packet whose transport checksum is left to the device.
    pub fn pending_frame(&self) -> Frame {
        let transport = self.transport(false);
        let mut bytes = self.before_transport(transport.len());
        let start = bytes.len();
        let field = start + self.checksum_offset();
        bytes.extend_from_slice(&transport);
        let crc = self.protocol() == protocol::SCTP;
        if !crc {
            let pseudo = !checksum_of(&[&self.pseudo_header(transport.len())]);
            bytes[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        }
        Frame::new(bytes).pending(PendingChecksum { start, field, crc })
    }

    /// As bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let transport = self.transport(true);
        let mut bytes = self.before_transport(transport.len());
        bytes.extend_from_slice(&transport);
        bytes
    }

    fn checksum_offset(&self) -> usize {
        match self.transport {
            Transport::Tcp { .. } => 16,
            Transport::Udp { .. } => 6,
            Transport::Sctp { .. } => SCTP_CHECKSUM,
        }
    }

    fn before_transport(&self, len: usize) -> Vec<u8> {
        let (ethertype, ip) = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                (0x0800, self.ipv4(src.octets(), dst.octets(), len))
            }
            (src, dst) => (0x86dd, self.ipv6(octets(src), octets(dst), len)),
        };
        let mut bytes = Vec::new();
        if let Some(macs) = self.link {
            bytes.extend_from_slice(&macs.dst);
            bytes.extend_from_slice(&macs.src);
            for word in self.tag.into_iter().flatten().chain([ethertype]) {
                bytes.extend_from_slice(&u16::to_be_bytes(word));
            }
        }
        bytes.extend_from_slice(&ip);
        bytes
    }

    fn ipv4(&self, src: [u8; 4], dst: [u8; 4], len: usize) -> Vec<u8> {
        let header = 20 + self.options.len();
        let words = (header / 4) as u8;
        let mut ip = vec![0x40 | words, 0];
        ip.extend_from_slice(&((header + len) as u16).to_be_bytes());
        ip.extend_from_slice(&self.identification.to_be_bytes());
        ip.extend_from_slice(&self.fragment.unwrap_or(0x4000).to_be_bytes());
        ip.extend_from_slice(&[self.hop_limit, self.protocol(), 0, 0]);
        ip.extend_from_slice(&src);
        ip.extend_from_slice(&dst);
        ip.extend_from_slice(&self.options);
        let sum = checksum_of(&[&ip]).to_be_bytes();
        ip[10..12].copy_from_slice(&sum);
        ip
    }

    fn ipv6(&self, src: [u8; 16], dst: [u8; 16], len: usize) -> Vec<u8> {
        let extensions: usize = self.extensions.iter().map(|(_, data)| data.len() + 2).sum();
        let numbers: Vec<u8> = self.extensions.iter().map(|(number, _)| *number).collect();
        let mut next = numbers.iter().copied().chain([self.protocol()]);
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend_from_slice(&((extensions + len) as u16).to_be_bytes());
        ip.extend(next.next());
        ip.push(self.hop_limit);
        ip.extend_from_slice(&src);
        ip.extend_from_slice(&dst);
        for (number, data) in &self.extensions {
            ip.extend(next.next());
            // The fragment header has no length.
            let units = if *number == FRAGMENT_HEADER {
                0
            } else {
                (data.len() + 2) / 8 - 1
            };
            ip.push(units as u8);
            ip.extend_from_slice(data);
        }
        ip
    }

    fn transport(&self, summed: bool) -> Vec<u8> {
        let mut bytes = [self.src.port().to_be_bytes(), self.dst.port().to_be_bytes()].concat();
        let mut checksum = summed;
        match self.transport {
            Transport::Tcp {
                flags,
                seq,
                ack,
                window,
            } => {
                bytes.extend_from_slice(&seq.to_be_bytes());
                bytes.extend_from_slice(&ack.to_be_bytes());
                bytes.extend_from_slice(&[5 << 4, flags]);
                bytes.extend_from_slice(&window.to_be_bytes());
                bytes.extend_from_slice(&[0; 4]);
            }
            Transport::Udp { checksum: wanted } => {
                let len = (8 + self.payload.len()) as u16;
                bytes.extend_from_slice(&len.to_be_bytes());
                bytes.extend_from_slice(&[0, 0]);
                checksum &= wanted;
            }
            Transport::Sctp {
                tag,
                chunk,
                checksum: wanted,
            } => {
                let len = (4 + self.payload.len()) as u16;
                bytes.extend_from_slice(&tag.to_be_bytes());
                bytes.extend_from_slice(&[0; 4]);
                bytes.extend_from_slice(&[chunk, 0]);
                bytes.extend_from_slice(&len.to_be_bytes());
                checksum &= wanted;
            }
        }
        bytes.extend_from_slice(&self.payload);
        if checksum && self.protocol() == protocol::SCTP {
            let sum = crc32c_of(&bytes);
            bytes[SCTP_CHECKSUM..SCTP_CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
        } else if checksum {
            let sum = checksum_of(&[&self.pseudo_header(bytes.len()), &bytes]);
            // A UDP checksum of zero would mean that there is none (RFC 768).
            let sum = if sum == 0 && self.protocol() == protocol::UDP {
                0xffff
            } else {
                sum
            };
            let at = self.checksum_offset();
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }

    fn pseudo_header(&self, len: usize) -> Vec<u8> {
        let mut pseudo = Vec::new();
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                pseudo.extend_from_slice(&src.octets());
                pseudo.extend_from_slice(&dst.octets());
            }
            (src, dst) => {
                pseudo.extend_from_slice(&octets(src));
                pseudo.extend_from_slice(&octets(dst));
            }
        }
        pseudo.extend_from_slice(&(len as u32).to_be_bytes());
        pseudo.extend_from_slice(&[0, self.protocol()]);
        pseudo
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Parses what a caller wrote down: anything else than `address:port` is a mistake in the program.
pub(super) fn endpoint(text: &str) -> SocketAddr {
    match text.parse() {
        Ok(endpoint) => endpoint,
        Err(error) => panic!("{text:?} is no address and port: {error}"),
    }
}
