//! Serialisation to bytes, with correct checksums.

use std::net::IpAddr;

use super::{FRAGMENT_HEADER, Segment, Transport};
use crate::{
    abi::protocol,
    host::frame::{Frame, PendingChecksum, checksum_of, crc32c_of},
    parse::{ICMP_CHECKSUM, SCTP_CHECKSUM},
};

impl Segment {
    /// As a packet whose checksums are complete.
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
            Transport::IcmpError { .. } => ICMP_CHECKSUM,
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
            // The fragment header has no length field; this byte is reserved.
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

    pub(super) fn transport(&self, summed: bool) -> Vec<u8> {
        if let Transport::IcmpError { kind, rest } = self.transport {
            return self.icmp_message(kind, rest);
        }
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
            Transport::IcmpError { .. } => {}
        }
        bytes.extend_from_slice(&self.payload);
        if checksum && self.protocol() == protocol::SCTP {
            let sum = crc32c_of(&bytes);
            bytes[SCTP_CHECKSUM..SCTP_CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
        } else if checksum {
            let sum = checksum_of(&[&self.pseudo_header(bytes.len()), &bytes]);
            // A UDP checksum of zero would mean "no checksum" (RFC 768).
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

    pub(super) fn pseudo_header(&self, len: usize) -> Vec<u8> {
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
