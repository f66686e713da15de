//! Parsing packet headers.

mod headers;

use zerocopy::network_endian::U16;

pub use self::headers::{
    Fragment, Headers, ICMP_CHECKSUM, ICMP_LEN, SCTP_CHECKSUM, sctp_chunk, tcp_flags,
};
use crate::{
    abi::{device::LinkType, protocol},
    addr::{Addr, Family},
    packet::Packet,
};

/// Minimum number of transport header bytes that an ICMP error quotes (RFC 792).
const QUOTED: usize = 8;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;

/// Maximum number of IPv6 extension headers. A packet with more is passed.
const MAX_EXTENSIONS: usize = 4;

/// Kind of a packet, as far as the datapath distinguishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP, UDP or SCTP, or a fragment of it. A later IPv6 fragment may be of any protocol.
    Transport,
    /// An ICMP error. Its headers have no ports; see [`parse_quoted`].
    IcmpError,
    /// Any other packet, including malformed ones.
    Other,
}

/// Parses the headers of a packet into `h`. `h` must be zeroed or from an earlier packet, because its padding
/// must be zero.
///
/// A frame with a VLAN id is not parsed: the VLAN device sees the packet again, without the tag. A priority tag
/// (id 0) is skipped.
#[inline(always)]
pub fn parse<P: Packet>(p: &mut P, link: LinkType, h: &mut Headers) -> Kind {
    try_parse(p, link, h).unwrap_or(Kind::Other)
}

#[inline(always)]
fn try_parse<P: Packet>(p: &mut P, link: LinkType, h: &mut Headers) -> Option<Kind> {
    let (l3, family) = match link {
        LinkType::Ethernet => ethernet(p)?,
        LinkType::RawIp => (0, version(p)?),
    };
    h.l3 = l3;
    h.tcp_flags = 0;
    match family {
        Family::V4 => ipv4(p, h, Extent::Whole),
        Family::V6 => ipv6(p, h, Extent::Whole),
    }
}

/// Parses the headers of the packet that an ICMP error quotes, up to the ports (RFC 792, RFC 4443 §2.4).
/// Returns false if they are missing or not TCP, UDP or SCTP.
#[inline(always)]
pub fn parse_quoted<P: Packet>(p: &mut P, error: &Headers, h: &mut Headers) -> bool {
    let l3 = error.l4 as usize + ICMP_LEN;
    if l3 > usize::from(u8::MAX) {
        return false;
    }
    h.l3 = l3 as u8;
    h.tcp_flags = 0;
    let extent = Extent::Quoted {
        end: u32::from(error.l4) + u32::from(error.l4_len),
    };
    let kind = if error.v6 {
        ipv6(p, h, extent)
    } else {
        ipv4(p, h, extent)
    };
    matches!(kind, Some(Kind::Transport)) && h.has_transport()
}

/// How much of a packet is present.
#[derive(Clone, Copy)]
enum Extent {
    Whole,
    /// The headers and at least eight bytes from the transport header on. The quote ends at `end`.
    Quoted {
        end: u32,
    },
}

#[inline(always)]
fn version<P: Packet>(p: &mut P) -> Option<Family> {
    match p.window::<20>(0)?[0] >> 4 {
        4 => Some(Family::V4),
        6 => Some(Family::V6),
        _ => None,
    }
}

#[inline(always)]
fn ethernet<P: Packet>(p: &mut P) -> Option<(u8, Family)> {
    let w = p.window::<14>(0)?;
    let (mut ethertype, mut l3) = (u16::from_be_bytes([w[12], w[13]]), 14u8);
    if ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD {
        let tag = p.window::<4>(14)?;
        if u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff != 0 {
            return None;
        }
        (ethertype, l3) = (u16::from_be_bytes([tag[2], tag[3]]), 18);
    }
    match ethertype {
        ETH_P_IP => Some((l3, Family::V4)),
        ETH_P_IPV6 => Some((l3, Family::V6)),
        _ => None,
    }
}

#[inline(always)]
fn ipv4<P: Packet>(p: &mut P, h: &mut Headers, extent: Extent) -> Option<Kind> {
    let l3 = usize::from(h.l3);
    let room = p.len().checked_sub(l3 as u32)?;
    let w = p.window::<20>(l3)?;
    let ihl = usize::from(w[0] & 0x0f) * 4;
    let total = u32::from(u16::from_be_bytes([w[2], w[3]]));
    let fragment = u16::from_be_bytes([w[6], w[7]]);
    if w[0] >> 4 != 4 || ihl < 20 {
        return None;
    }
    let end = end(h.l3, total, room, extent)?;
    h.v6 = false;
    h.ttl = w[8];
    h.fragment = Fragment::of(fragment & 0x1fff, fragment & 0x2000 != 0);
    h.id = u32::from(u16::from_be_bytes([w[4], w[5]]));
    h.tuple.protocol = w[9];
    h.tuple.src = Addr::v4([w[12], w[13], w[14], w[15]]);
    h.tuple.dst = Addr::v4([w[16], w[17], w[18], w[19]]);
    transport(p, h, l3 + ihl, end, extent)
}

/// Offset of the end of an IP packet, by its length field `said`. A length of zero is valid only in a GSO
/// packet of more than 64 KiB. A quoted packet ends where the quote does.
#[inline(always)]
fn end(l3: u8, said: u32, room: u32, extent: Extent) -> Option<u32> {
    let len = match (extent, said) {
        (Extent::Quoted { end }, _) => return Some(end),
        (_, 0) if room > 0xffff => room,
        (_, 0) => return None,
        (_, said) if said > room => return None,
        (_, said) => said,
    };
    Some(u32::from(l3) + len)
}

#[inline(always)]
fn ipv6<P: Packet>(p: &mut P, h: &mut Headers, extent: Extent) -> Option<Kind> {
    let l3 = usize::from(h.l3);
    let room = p.len().checked_sub(l3 as u32)?;
    let w = p.window::<40>(l3)?;
    let payload = u32::from(u16::from_be_bytes([w[4], w[5]]));
    let said = if payload == 0 { 0 } else { payload + 40 };
    if w[0] >> 4 != 6 {
        return None;
    }
    let end = end(h.l3, said, room, extent)?;
    h.v6 = true;
    h.ttl = w[7];
    h.fragment = Fragment::Whole;
    h.tuple.src = Addr::from_octets([
        w[8], w[9], w[10], w[11], w[12], w[13], w[14], w[15], w[16], w[17], w[18], w[19], w[20],
        w[21], w[22], w[23],
    ]);
    h.tuple.dst = Addr::from_octets([
        w[24], w[25], w[26], w[27], w[28], w[29], w[30], w[31], w[32], w[33], w[34], w[35], w[36],
        w[37], w[38], w[39],
    ]);
    let mut next = w[6];
    // An IPv4-mapped address is not valid on the wire (RFC 4291 §2.5.5.2), and must not match an IPv4 flow.
    if h.tuple.src.is_v4() || h.tuple.dst.is_v4() {
        return None;
    }
    let (mut l4, mut i) = (l3 + 40, 0);
    while i < MAX_EXTENSIONS {
        match next {
            // Hop-by-hop, routing, destination options (RFC 8200 §4).
            0 | 43 | 60 => {
                let e = p.window::<8>(l4)?;
                next = e[0];
                l4 += (usize::from(e[1]) + 1) * 8;
            }
            44 => {
                let e = p.window::<8>(l4)?;
                let field = u16::from_be_bytes([e[2], e[3]]);
                h.fragment = Fragment::of(field & 0xfff8, field & 1 != 0);
                h.id = u32::from_be_bytes([e[4], e[5], e[6], e[7]]);
                if !h.has_transport() {
                    h.tuple.protocol = 0;
                    h.l4 = u8::try_from(l4 + 8).ok()?;
                    return Some(Kind::Transport);
                }
                next = e[0];
                l4 += 8;
            }
            _ => break,
        }
        i += 1;
    }
    h.tuple.protocol = next;
    transport(p, h, l4, end, extent)
}

#[inline(always)]
fn transport<P: Packet>(
    p: &mut P,
    h: &mut Headers,
    l4: usize,
    end: u32,
    extent: Extent,
) -> Option<Kind> {
    const TCP: usize = 20;
    const UDP: usize = 8;
    // The common header, and the header of the first chunk.
    const SCTP: usize = 12 + 4;
    if l4 > usize::from(u8::MAX) {
        return None;
    }
    h.l4 = l4 as u8;
    if !h.has_transport() {
        return has_ports(h.tuple.protocol).then_some(Kind::Transport);
    }
    if matches!(extent, Extent::Quoted { .. }) {
        if (l4 + QUOTED) as u32 > end {
            return None;
        }
        let w = p.window::<QUOTED>(l4)?;
        h.tuple.src_port = U16::from_bytes([w[0], w[1]]);
        h.tuple.dst_port = U16::from_bytes([w[2], w[3]]);
        return has_ports(h.tuple.protocol).then_some(Kind::Transport);
    }
    if is_icmp(h) {
        return icmp_error(p, h, l4, end);
    }
    let len = match h.tuple.protocol {
        protocol::TCP => TCP,
        protocol::SCTP => SCTP,
        _ => UDP,
    };
    if (l4 + len) as u32 > end {
        return None;
    }
    let w = match h.tuple.protocol {
        protocol::TCP => {
            let w = p.window::<TCP>(l4)?;
            h.tcp_flags = w[13];
            [w[0], w[1], w[2], w[3]]
        }
        protocol::UDP => {
            let w = p.window::<UDP>(l4)?;
            [w[0], w[1], w[2], w[3]]
        }
        protocol::SCTP => {
            let w = p.window::<SCTP>(l4)?;
            h.tcp_flags = sctp_flags(w[12]);
            h.l4_len = u16::try_from(end - l4 as u32).ok()?;
            [w[0], w[1], w[2], w[3]]
        }
        _ => return None,
    };
    h.tuple.src_port = U16::from_bytes([w[0], w[1]]);
    h.tuple.dst_port = U16::from_bytes([w[2], w[3]]);
    Some(Kind::Transport)
}

#[inline(always)]
const fn is_icmp(h: &Headers) -> bool {
    h.tuple.protocol
        == if h.v6 {
            protocol::ICMPV6
        } else {
            protocol::ICMP
        }
}

/// An unfragmented ICMP error, if the message is one.
#[inline(always)]
fn icmp_error<P: Packet>(p: &mut P, h: &mut Headers, l4: usize, end: u32) -> Option<Kind> {
    if (l4 + ICMP_LEN) as u32 > end || !matches!(h.fragment, Fragment::Whole) {
        return None;
    }
    h.l4_len = u16::try_from(end - l4 as u32).ok()?;
    let kind = p.window::<ICMP_LEN>(l4)?[0];
    let is_error = if h.v6 {
        // Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443 §3).
        matches!(kind, 1..=4)
    } else {
        // Destination unreachable, source quench, time exceeded, parameter problem (RFC 792).
        matches!(kind, 3 | 4 | 11 | 12)
    };
    is_error.then_some(Kind::IcmpError)
}

#[inline(always)]
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
}

/// The TCP flags that correspond to a packet's first SCTP chunk. ABORT and SHUTDOWN COMPLETE end the
/// association for both sides at once, like RST. Later chunks are ignored: a SHUTDOWN bundled behind a SACK
/// still shows, because the other side answers it with SHUTDOWN ACK.
#[inline(always)]
const fn sctp_flags(chunk: u8) -> u8 {
    match chunk {
        sctp_chunk::INIT => tcp_flags::SYN,
        sctp_chunk::INIT_ACK => tcp_flags::SYN | tcp_flags::ACK,
        sctp_chunk::SHUTDOWN | sctp_chunk::SHUTDOWN_ACK => tcp_flags::FIN,
        sctp_chunk::ABORT | sctp_chunk::SHUTDOWN_COMPLETE => tcp_flags::RST,
        _ => 0,
    }
}
