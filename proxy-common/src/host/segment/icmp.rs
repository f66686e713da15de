//! ICMP errors, whose payload is the start of another packet.

use std::net::SocketAddr;

use super::{Segment, Transport, address};
use crate::{abi::protocol, host::frame::checksum_of, parse::ICMP_CHECKSUM};

impl Segment {
    /// An ICMP error of this type and code between two addresses, which quotes a packet (see
    /// [`quoted`](Self::quoted)).
    pub fn icmp_error(src: &str, dst: &str, kind: [u8; 2], quoted: &[u8]) -> Self {
        let at = |text| SocketAddr::new(address(text), 0);
        let transport = Transport::IcmpError { kind, rest: 0 };
        Self::new(at(src), at(dst), transport).payload(quoted)
    }

    /// With these four bytes after the checksum, as a number in host order.
    #[must_use]
    pub fn rest(mut self, new: u32) -> Self {
        if let Transport::IcmpError { rest, .. } = &mut self.transport {
            *rest = new;
        }
        self
    }

    /// The part of this packet that an ICMP error quotes: its IP headers and `transport` bytes from the
    /// transport header on.
    pub fn quoted(&self, transport: usize) -> Vec<u8> {
        let mut packet = self.clone();
        (packet.link, packet.tag) = (None, None);
        let mut bytes = packet.bytes();
        let headers = bytes.len() - packet.transport(true).len();
        bytes.truncate(headers + transport);
        bytes
    }

    /// The ICMP message. In IPv6 its checksum covers a pseudo-header, too.
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
