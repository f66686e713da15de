//! Whether a packet's checksums are right.

use std::net::IpAddr;

use super::{Flaw, ICMP, ICMPV6, Packet, SCTP, TCP, UDP, bytes, word};

impl Packet<'_> {
    /// Whether its checksums are right; if not, which is wrong.
    pub(super) fn check(&self) -> Result<(), Flaw> {
        if !self.header.is_empty() {
            let found = word(self.header, 10)?;
            let right = complement(without(self.header, 10));
            if found != right {
                return Err(Flaw::Ipv4Header { found, right });
            }
        }
        if self.fragment {
            return Ok(());
        }
        let (at, pseudo) = match self.protocol {
            TCP => (16, self.pseudo_header()),
            UDP => (6, self.pseudo_header()),
            ICMP => (2, 0),
            ICMPV6 => (2, self.pseudo_header()),
            SCTP => return self.check_crc(),
            _ => return Ok(()),
        };
        let found = word(self.payload, at)?;
        if self.protocol == UDP && found == 0 {
            return if self.source.is_ipv4() {
                Ok(())
            } else {
                Err(Flaw::Missing)
            };
        }
        let mut right = complement(pseudo + without(self.payload, at));
        if self.protocol == UDP && right == 0 {
            right = 0xffff;
        }
        // Both are zero in one's complement, and receivers accept either. A checksum that the kernel completes is never 0x0000,
        // whatever the protocol (Linux: `skb_checksum_help`).
        let is_other_zero = (found, right) == (0xffff, 0);
        if found == right || is_other_zero {
            Ok(())
        } else {
            Err(Flaw::Transport {
                protocol: self.protocol,
                found,
                right,
            })
        }
    }

    /// SCTP has a CRC over all but its own field, and no pseudo-header (RFC 9260 section 6.8).
    fn check_crc(&self) -> Result<(), Flaw> {
        let found = u32::from_le_bytes(bytes(self.payload, 8)?);
        let right = crc32c(&[&self.payload[..8], &[0; 4], &self.payload[12..]]);
        if found == right {
            Ok(())
        } else {
            Err(Flaw::Crc { found, right })
        }
    }

    /// The sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
    fn pseudo_header(&self) -> u64 {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => sum(&v4.octets()),
            IpAddr::V6(v6) => sum(&v6.octets()),
        };
        octets(self.source)
            + octets(self.destination)
            + u64::from(self.protocol)
            + self.payload.len() as u64
    }
}

/// The sum of 16-bit words in network order, the last padded with zero.
fn sum(data: &[u8]) -> u64 {
    data.chunks(2)
        .map(|pair| {
            u64::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum()
}

/// The sum without the checksum field at `at`.
fn without(data: &[u8], at: usize) -> u64 {
    sum(&data[..at]) + sum(&data[at + 2..])
}

/// `CRC32c` of parts one after the other, bit by bit (RFC 9260 appendix A).
pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

fn complement(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
