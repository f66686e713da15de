//! Reading Ethernet frames: addresses, ports and whether the checksums are right. Pure, and on purpose apart from the
//! datapath's own parser: it judges what the datapath wrote.

mod sums;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const ETHERNET: usize = 14;
const VLAN: [u16; 2] = [0x8100, 0x88a8];
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// An IP packet in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol number (IANA), after IPv6 extension headers.
    pub protocol: u8,
    /// The IPv4 header; empty for IPv6.
    header: &'a [u8],
    /// The transport header and data, without the frame's padding.
    pub payload: &'a [u8],
    /// The packet is a fragment, so its transport checksum cannot be checked.
    pub fragment: bool,
    /// A fragment other than the first: it has no transport header.
    later_fragment: bool,
}

/// Why a frame is not right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It ends within a header, or before the length that the IP header gives.
    #[error("the frame is cut off")]
    Truncated,
    /// The IPv4 header's checksum.
    #[error("the IPv4 header's checksum is wrong: {found:#06x}, not {right:#06x}")]
    Ipv4Header {
        /// In the packet.
        found: u16,
        /// What it should be.
        right: u16,
    },
    /// The checksum of TCP, UDP, ICMP or `ICMPv6`.
    #[error("the checksum of protocol {protocol} is wrong: {found:#06x}, not {right:#06x}")]
    Transport {
        /// The protocol number.
        protocol: u8,
        /// In the packet.
        found: u16,
        /// What it should be.
        right: u16,
    },
    /// The `CRC32c` of SCTP.
    #[error("the checksum of SCTP is wrong: {found:#010x}, not {right:#010x}")]
    Crc {
        /// In the packet.
        found: u32,
        /// What it should be.
        right: u32,
    },
    /// UDP over IPv6 must have one (RFC 8200, section 8.1).
    #[error("UDP over IPv6 without a checksum")]
    Missing,
}

impl<'a> Packet<'a> {
    /// Reads a frame; `None` if it is not IP.
    pub fn read(frame: &'a [u8]) -> Result<Option<Self>, Flaw> {
        let mut at = ETHERNET;
        let mut kind = word(frame, 12)?;
        while VLAN.contains(&kind) {
            kind = word(frame, at + 2)?;
            at += 4;
        }
        let packet = &frame[at.min(frame.len())..];
        match kind {
            ETHERTYPE_IPV4 => Self::v4(packet).map(Some),
            ETHERTYPE_IPV6 => Self::v6(packet).map(Some),
            _ => Ok(None),
        }
    }

    fn v4(packet: &'a [u8]) -> Result<Self, Flaw> {
        let length = usize::from(byte(packet, 0)? & 0x0f) * 4;
        let total = usize::from(word(packet, 2)?);
        let header = packet
            .get(..length)
            .filter(|header| header.len() >= 20)
            .ok_or(Flaw::Truncated)?;
        let payload = packet.get(length..total).ok_or(Flaw::Truncated)?;
        let fragmentation = word(packet, 6)?;
        Ok(Self {
            source: Ipv4Addr::from(bytes::<4>(header, 12)?).into(),
            destination: Ipv4Addr::from(bytes::<4>(header, 16)?).into(),
            protocol: header[9],
            header,
            payload,
            fragment: fragmentation & 0x3fff != 0,
            later_fragment: fragmentation & 0x1fff != 0,
        })
    }

    fn v6(packet: &'a [u8]) -> Result<Self, Flaw> {
        let end = 40 + usize::from(word(packet, 4)?);
        let packet = packet.get(..end).ok_or(Flaw::Truncated)?;
        let (mut protocol, mut at) = (packet[6], 40);
        let (mut fragment, mut later_fragment) = (false, false);
        loop {
            match protocol {
                // Hop-by-hop options, routing, destination options.
                0 | 43 | 60 => {
                    let length = 8 + 8 * usize::from(byte(packet, at + 1)?);
                    protocol = byte(packet, at)?;
                    at += length;
                }
                44 => {
                    let offset = word(packet, at + 2)?;
                    fragment |= offset & 0xfff9 != 0;
                    later_fragment |= offset & 0xfff8 != 0;
                    protocol = byte(packet, at)?;
                    at += 8;
                    if later_fragment {
                        break;
                    }
                }
                _ => break,
            }
        }
        Ok(Self {
            source: Ipv6Addr::from(bytes::<16>(packet, 8)?).into(),
            destination: Ipv6Addr::from(bytes::<16>(packet, 24)?).into(),
            protocol,
            header: &[],
            payload: packet.get(at..).ok_or(Flaw::Truncated)?,
            fragment,
            later_fragment,
        })
    }

    /// Source and destination with their ports, for TCP, UDP and SCTP.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        if self.later_fragment || ![TCP, UDP, SCTP].contains(&self.protocol) {
            return None;
        }
        let (from, to) = (word(self.payload, 0).ok()?, word(self.payload, 2).ok()?);
        Some((
            SocketAddr::new(self.source, from),
            SocketAddr::new(self.destination, to),
        ))
    }

    /// Source and destination, with their ports, of the packet that an ICMP error quotes the beginning of: without options or
    /// extension headers.
    pub fn quoted_ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let inner = self.payload.get(8..)?;
        let (source, destination, protocol, at): (IpAddr, IpAddr, u8, usize) = match self.protocol {
            ICMP if [3, 4, 11, 12].contains(self.payload.first()?) => (
                Ipv4Addr::from(bytes::<4>(inner, 12).ok()?).into(),
                Ipv4Addr::from(bytes::<4>(inner, 16).ok()?).into(),
                byte(inner, 9).ok()?,
                20,
            ),
            ICMPV6 if (1..=4).contains(self.payload.first()?) => (
                Ipv6Addr::from(bytes::<16>(inner, 8).ok()?).into(),
                Ipv6Addr::from(bytes::<16>(inner, 24).ok()?).into(),
                byte(inner, 6).ok()?,
                40,
            ),
            _ => return None,
        };
        [TCP, UDP, SCTP].contains(&protocol).then_some((
            SocketAddr::new(source, word(inner, at).ok()?),
            SocketAddr::new(destination, word(inner, at + 2).ok()?),
        ))
    }
}

/// Checks a frame's checksums, and returns the first wrong one. Frames without IP pass, and so does the
/// transport checksum of a fragment.
pub fn check_sums(frame: &[u8]) -> Result<(), Flaw> {
    Packet::read(frame)?.map_or(Ok(()), |packet| packet.check())
}

/// [`check_sums`] as yes or no.
pub fn checksums_ok(frame: &[u8]) -> bool {
    check_sums(frame).is_ok()
}

fn byte(data: &[u8], at: usize) -> Result<u8, Flaw> {
    data.get(at).copied().ok_or(Flaw::Truncated)
}

fn bytes<const N: usize>(data: &[u8], at: usize) -> Result<[u8; N], Flaw> {
    data.get(at..at + N)
        .and_then(|part| part.try_into().ok())
        .ok_or(Flaw::Truncated)
}

fn word(data: &[u8], at: usize) -> Result<u16, Flaw> {
    bytes(data, at).map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::{sums::crc32c, *};

    fn frame(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let text = String::from_utf8(digits).expect("hexadecimal");
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal"))
            .collect()
    }

    /// The IPv4 header that textbooks sum up (checksum 0xb861), with a UDP datagram without one.
    const UDP4_WITHOUT: &str = "ffffffffffff 020000000001 0800
        4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7
        0035 e97c 005f 0000";

    #[test]
    fn a_known_ipv4_header() {
        let mut known = frame(UDP4_WITHOUT);
        assert_eq!(
            check_sums(&known),
            Err(Flaw::Truncated),
            "the IP header says 115 bytes"
        );
        known.resize(ETHERNET + 0x73, 0);
        assert_eq!(check_sums(&known), Ok(()));
        known[ETHERNET + 8] -= 1;
        assert_eq!(
            check_sums(&known),
            Err(Flaw::Ipv4Header {
                found: 0xb861,
                right: 0xb961
            })
        );
    }

    #[test]
    fn sums_are_computed_over_the_pseudo_header_and_odd_lengths() {
        // UDP over IPv6, one byte of data: ports 1 → 2, length 9, from ::1 to ::1.
        // 0001 + 0001 (addresses) + 0009 (length) + 0011 (protocol) + 0001 + 0002 + 0009 + 6100 = 6128, complement 9ed7.
        let mut odd = frame(
            "ffffffffffff 020000000001 86dd 6000 0000 0009 1140
             00000000000000000000000000000001 00000000000000000000000000000001 0001 0002 0009 9ed7 61",
        );
        assert_eq!(check_sums(&odd), Ok(()));
        odd.extend([0; 5]);
        assert_eq!(check_sums(&odd), Ok(()), "padding does not count");
        let at = ETHERNET + 40;
        odd[at + 1] = 3;
        assert_eq!(
            check_sums(&odd),
            Err(Flaw::Transport {
                protocol: UDP,
                found: 0x9ed7,
                right: 0x9ed5
            })
        );
        odd[at + 6] = 0;
        odd[at + 7] = 0;
        assert_eq!(check_sums(&odd), Err(Flaw::Missing));
    }

    #[test]
    fn both_zeros_of_ones_complement_are_right() {
        // TCP over IPv6 from ::1 to ::1, 20 bytes of header: all but the checksum adds up to 0xffff.
        let tcp = |checksum: &str| {
            frame(&format!(
                "ffffffffffff 020000000001 86dd 6000 0000 0014 0640
                 00000000000000000000000000000001 00000000000000000000000000000001
                 0001 0002 00000000 00000000 5010 afd0 {checksum} 0000"
            ))
        };
        assert_eq!(check_sums(&tcp("0000")), Ok(()));
        assert_eq!(check_sums(&tcp("ffff")), Ok(()));
        assert!(check_sums(&tcp("fffe")).is_err());
    }

    #[test]
    fn sctp_has_a_crc_without_a_pseudo_header() {
        assert_eq!(crc32c(&[b"1234", b"56789"]), 0xe306_9283);
        // An ABORT (12 bytes of header, 4 of chunk) from port 80 to 40000 with tag 0x12345678, padded by the device.
        let packet = "0050 9c40 12345678 00000000 06000004";
        let crc = crc32c(&[&frame(packet)]).to_le_bytes();
        let mut abort = frame(
            "ffffffffffff 020000000001 86dd 6000 0000 0010 8440
             00000000000000000000000000000001 00000000000000000000000000000002",
        );
        abort.extend(frame(packet));
        let at = ETHERNET + 40 + 8;
        abort[at..at + 4].copy_from_slice(&crc);
        abort.extend([0xff; 6]);
        assert_eq!(check_sums(&abort), Ok(()));
        let packet = Packet::read(&abort).expect("whole").expect("IP");
        let (from, to) = packet.ends().expect("SCTP");
        assert_eq!((from.port(), to.port()), (80, 40_000));
        abort[at - 6] ^= 1;
        assert!(matches!(check_sums(&abort), Err(Flaw::Crc { .. })));
    }

    #[test]
    fn ports_are_read_behind_tags_and_extension_headers() {
        // VLAN 5, IPv6, hop-by-hop options of 8 bytes, UDP 1 → 2.
        let tagged = frame(
            "ffffffffffff 020000000001 8100 0005 86dd 6000 0000 0011 0040
             00000000000000000000000000000001 00000000000000000000000000000002
             1100 0104 00000000 0001 0002 0009 0000 61",
        );
        let packet = Packet::read(&tagged).expect("whole").expect("IP");
        let (from, to) = packet.ends().expect("UDP");
        assert_eq!(
            (from.to_string(), to.to_string()),
            ("[::1]:1".to_owned(), "[::2]:2".to_owned())
        );
        assert_eq!(packet.payload.len(), 9);
    }

    #[test]
    fn later_fragments_have_no_ports_and_other_protocols_no_flaws() {
        let mut fragment = frame(UDP4_WITHOUT);
        fragment.resize(ETHERNET + 0x73, 0);
        fragment[ETHERNET + 6] = 0x20;
        fragment[ETHERNET + 7] = 0x10;
        let packet = Packet::read(&fragment).expect("whole").expect("IP");
        assert!(packet.fragment && packet.ends().is_none());
        let arp = frame("ffffffffffff 020000000001 0806 0001");
        assert_eq!(check_sums(&arp), Ok(()));
        assert_eq!(check_sums(&arp[..10]), Err(Flaw::Truncated));
    }
}
