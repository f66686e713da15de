//! ICMP errors, whose payload is the beginning of a packet.

use std::net::SocketAddr;

use super::{Segment, Transport, address};
use crate::{abi::protocol, host::frame::checksum_of, parse::ICMP_CHECKSUM};

impl Segment {
    /// An ICMP error between two addresses, of this type and code, that [quotes](Self::quoted) a packet.
    pub fn icmp_error(src: &str, dst: &str, kind: [u8; 2], quoted: &[u8]) -> Self {
        let at = |text| SocketAddr::new(address(text), 0);
        let transport = Transport::IcmpError { kind, rest: 0 };
        Self::new(at(src), at(dst), transport).payload(quoted)
    }

    /// An ICMP error with these four bytes behind the checksum, as a number.
    #[must_use]
    pub fn rest(mut self, new: u32) -> Self {
        if let Transport::IcmpError { rest, .. } = &mut self.transport {
            *rest = new;
        }
        self
    }

    /// What an error quotes of this packet: its headers, with so many bytes from the transport header on.
    pub fn quoted(&self, transport: usize) -> Vec<u8> {
        let mut packet = self.clone();
        (packet.link, packet.tag) = (None, None);
        let mut bytes = packet.bytes();
        let headers = bytes.len() - packet.transport(true).len();
        bytes.truncate(headers + transport);
        bytes
    }

    /// The message of an error, whose checksum covers a pseudo-header in IPv6 alone.
    pub(super) fn icmp_message(&self, kind: [u8; 2], rest: u32) -> Vec<u8> {
        let mut message = [&kind[..], &[0, 0], &rest.to_be_bytes(), &self.payload].concat();
        let sum = if self.protocol() == protocol::ICMPV6 {
            checksum_of(&[&self.pseudo_header(message.len()), &message])
        } else {
            checksum_of(&[&message])
        };
        message[ICMP_CHECKSUM..ICMP_CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
        message
    }
}
