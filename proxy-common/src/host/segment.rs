//! Builders for test packets: TCP segments, UDP datagrams, SCTP packets with one chunk, ICMP errors.

mod bytes;
mod icmp;

use std::net::{IpAddr, SocketAddr};

use crate::{
    abi::protocol,
    parse::{sctp_chunk, tcp_flags},
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
    /// The same MAC addresses in the reply direction.
    #[must_use]
    pub const fn swapped(self) -> Self {
        Self {
            dst: self.src,
            src: self.dst,
        }
    }
}

/// Transport header.
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
        /// Whether the checksum is computed; otherwise the field is zero.
        checksum: bool,
    },
    /// SCTP.
    Sctp {
        /// Verification tag.
        tag: u32,
        /// Type of its only chunk ([`sctp_chunk`]). The chunk's value is the payload, without padding.
        chunk: u8,
        /// Whether the checksum is computed; otherwise the field is zero.
        checksum: bool,
    },
    /// ICMP error of the packet's family. The ports of the addresses are unused.
    IcmpError {
        /// Type and code.
        kind: [u8; 2],
        /// The four bytes after the checksum.
        rest: u32,
    },
}

/// A packet under construction. Unset fields have defaults.
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
    /// A packet in an Ethernet frame. Both addresses must be of the same family.
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

    /// A TCP segment with ACK. Addresses are `address:port`.
    pub fn tcp(src: &str, dst: &str) -> Self {
        let transport = Transport::Tcp {
            flags: tcp_flags::ACK,
            seq: 1000,
            ack: 2000,
            window: 0xffff,
        };
        Self::new(endpoint(src), endpoint(dst), transport)
    }

    /// A UDP datagram. Addresses are `address:port`.
    pub fn udp(src: &str, dst: &str) -> Self {
        let transport = Transport::Udp { checksum: true };
        Self::new(endpoint(src), endpoint(dst), transport)
    }

    /// An SCTP packet with a DATA chunk. Addresses are `address:port`.
    pub fn sctp(src: &str, dst: &str) -> Self {
        let transport = Transport::Sctp {
            tag: 0x1234_5678,
            chunk: sctp_chunk::DATA,
            checksum: true,
        };
        Self::new(endpoint(src), endpoint(dst), transport)
    }

    /// A packet in the middle of a flow: TCP ACK, SCTP DATA or a UDP datagram. Addresses are `address:port`.
    pub fn later(protocol: u8, src: &str, dst: &str) -> Self {
        match protocol {
            protocol::TCP => Self::tcp(src, dst),
            protocol::SCTP => Self::sctp(src, dst),
            _ => Self::udp(src, dst),
        }
    }

    /// A client's first packet: TCP SYN, SCTP INIT or a UDP datagram. Addresses are `address:port`.
    pub fn first(protocol: u8, src: &str, dst: &str) -> Self {
        Self::later(protocol, src, dst).syn()
    }

    /// A server's first reply: TCP SYN ACK, SCTP INIT ACK or a UDP datagram. Addresses are `address:port`.
    pub fn answer(protocol: u8, src: &str, dst: &str) -> Self {
        Self::later(protocol, src, dst).syn_ack()
    }

    /// With these TCP flags. No effect on other protocols.
    #[must_use]
    pub fn flags(mut self, new: u8) -> Self {
        if let Transport::Tcp { flags, .. } = &mut self.transport {
            *flags = new;
        }
        self
    }

    /// With this SCTP chunk type. No effect on other protocols.
    #[must_use]
    pub fn chunk(mut self, new: u8) -> Self {
        if let Transport::Sctp { chunk, .. } = &mut self.transport {
            *chunk = new;
        }
        self
    }

    /// As a SYN or INIT.
    #[must_use]
    pub fn syn(self) -> Self {
        self.flags(tcp_flags::SYN).chunk(sctp_chunk::INIT)
    }

    /// As a SYN ACK or INIT ACK.
    #[must_use]
    pub fn syn_ack(self) -> Self {
        self.flags(tcp_flags::SYN | tcp_flags::ACK)
            .chunk(sctp_chunk::INIT_ACK)
    }

    /// As a FIN ACK or SHUTDOWN.
    #[must_use]
    pub fn fin(self) -> Self {
        self.flags(tcp_flags::FIN | tcp_flags::ACK)
            .chunk(sctp_chunk::SHUTDOWN)
    }

    /// As a RST ACK or ABORT.
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

    /// Without a checksum in UDP or SCTP: the field is zero (RFC 768, RFC 9653).
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        if let Transport::Udp { checksum } | Transport::Sctp { checksum, .. } = &mut self.transport
        {
            *checksum = false;
        }
        self
    }

    /// With another source `address:port`.
    #[must_use]
    pub fn from(mut self, src: &str) -> Self {
        self.src = endpoint(src);
        self
    }

    /// With another destination `address:port`.
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

    /// With a VLAN tag in the frame's bytes: `ethertype` is 0x8100 or 0x88a8; `control` is priority and VLAN
    /// id.
    #[must_use]
    pub const fn tagged(mut self, ethertype: u16, control: u16) -> Self {
        self.tag = Some([ethertype, control]);
        self
    }

    /// With IPv4 options, padded to a multiple of four bytes.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        options.clone_into(&mut self.options);
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an IPv6 extension header of this type. `data` follows its first two bytes and is padded.
    #[must_use]
    pub fn extension(mut self, number: u8, data: &[u8]) -> Self {
        let mut data = data.to_vec();
        data.resize((data.len() + 2).next_multiple_of(8) - 2, 0);
        self.extensions.push((number, data));
        self
    }

    /// As a fragment: its offset in units of eight bytes, and whether more follow. In IPv6, adds a fragment
    /// header after the extension headers added so far.
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

    /// Whether the packet is IPv4.
    pub const fn is_v4(&self) -> bool {
        self.src.is_ipv4()
    }

    /// IANA protocol number of the packet.
    pub const fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => protocol::TCP,
            Transport::Udp { .. } => protocol::UDP,
            Transport::Sctp { .. } => protocol::SCTP,
            Transport::IcmpError { .. } if self.is_v4() => protocol::ICMP,
            Transport::IcmpError { .. } => protocol::ICMPV6,
        }
    }

    /// Whether the packet has a transport checksum, which can be left to the device.
    pub const fn has_checksum(&self) -> bool {
        matches!(
            self.transport,
            Transport::Tcp { .. }
                | Transport::Udp { checksum: true }
                | Transport::Sctp { checksum: true, .. }
        )
    }
}

/// Parses `address:port`. Panics on anything else, which is a bug in the caller.
pub(super) fn endpoint(text: &str) -> SocketAddr {
    match text.parse() {
        Ok(endpoint) => endpoint,
        Err(error) => panic!("{text:?} is not an address and port: {error}"),
    }
}

/// Parses an address. Panics on anything else, which is a bug in the caller.
fn address(text: &str) -> IpAddr {
    match text.parse() {
        Ok(address) => address,
        Err(error) => panic!("{text:?} is not an address: {error}"),
    }
}
