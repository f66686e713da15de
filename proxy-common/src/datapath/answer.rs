//! Refusing: TCP RST (RFC 9293 §3.5.2), ICMP port unreachable (RFC 792), `ICMPv6` port unreachable (RFC 4443 §3.1).

use crate::{
    abi::protocol,
    checksum::Sum,
    packet::Packet,
    parse::{Headers, tcp_flags},
};

const TTL: u8 = 64;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// Bytes of the transport header that an ICMP error quotes.
const QUOTED: usize = 8;
/// What it quotes beside of SCTP: up to the initiate tag of an INIT, without which nobody believes it (RFC 9260 §10).
const QUOTED_MORE: usize = 12;
const ICMP_LEN: usize = 8;

/// Makes a packet to a frontend without endpoints its own refusal, up to the MAC addresses (semantics B5). Says no,
/// with the packet as it came, if it has IP options or extension headers.
#[inline(always)]
pub fn refuse<P: Packet>(p: &mut P, h: &Headers) -> bool {
    let plain = usize::from(h.l4 - h.l3) == if h.v6 { IPV6 } else { IPV4 };
    if !plain {
        return false;
    }
    let built = if h.tuple.protocol == protocol::TCP {
        reset(p, h)
    } else if h.v6 {
        unreachable_v6(p, h)
    } else {
        unreachable_v4(p, h)
    };
    built.is_some()
}

/// The pseudo-header's sum without the length's high half, which is always zero here.
#[inline(always)]
pub(super) fn pseudo_header(h: &Headers, protocol: u8, len: u16) -> Sum {
    let (s, d) = (h.tuple.src.words(), h.tuple.dst.words());
    let sum = Sum::default()
        .add(s[3])
        .add(d[3])
        .add16(u16::from(protocol).to_be())
        .add16(len.to_be());
    if !h.v6 {
        return sum;
    }
    sum.add(s[0])
        .add(s[1])
        .add(s[2])
        .add(d[0])
        .add(d[1])
        .add(d[2])
}

/// Rewrites the IP header for the way back.
#[inline(always)]
fn ip_header<P: Packet>(p: &mut P, h: &Headers, protocol: u8, payload: u16) -> Option<()> {
    let l3 = usize::from(h.l3);
    if h.v6 {
        let len = payload.to_be_bytes();
        let w = p.window::<8>(l3)?;
        *w = [0x60, 0, 0, 0, len[0], len[1], protocol, TTL];
        *p.window::<16>(l3 + 8)? = h.tuple.dst.octets();
        *p.window::<16>(l3 + 24)? = h.tuple.src.octets();
    } else {
        let w = p.window::<IPV4>(l3)?;
        let len = (payload + IPV4 as u16).to_be_bytes();
        let (s, d) = (h.tuple.dst.v4_octets(), h.tuple.src.v4_octets());
        *w = [
            0x45, 0, len[0], len[1], 0, 0, 0x40, 0, TTL, protocol, 0, 0, s[0], s[1], s[2], s[3],
            d[0], d[1], d[2], d[3],
        ];
        let sum = (!Sum::default().bytes(w).fold()).to_ne_bytes();
        (w[10], w[11]) = (sum[0], sum[1]);
    }
    Some(())
}

/// A segment with ACK is answered from where its sender expects the other side to go on; one without, such as a SYN, is
/// acknowledged.
#[inline(always)]
fn reset<P: Packet>(p: &mut P, h: &Headers) -> Option<()> {
    const LEN: usize = 20;
    let l4 = usize::from(h.l4);
    let pending = p.checksum_pending(l4 + 16);
    let w = p.window::<LEN>(l4)?;
    let seq = u32::from_be_bytes([w[4], w[5], w[6], w[7]]);
    let (seq, ack, flags) = if h.tcp_flags & tcp_flags::ACK != 0 {
        ([w[8], w[9], w[10], w[11]], [0; 4], tcp_flags::RST)
    } else {
        let ack = seq.wrapping_add(1).to_be_bytes();
        ([0; 4], ack, tcp_flags::RST | tcp_flags::ACK)
    };
    p.resize((l4 + LEN) as u32)?;
    ip_header(p, h, protocol::TCP, LEN as u16)?;
    let (s, d) = (h.tuple.dst_port.to_bytes(), h.tuple.src_port.to_bytes());
    let w = p.window::<LEN>(l4)?;
    *w = [
        s[0],
        s[1],
        d[0],
        d[1],
        seq[0],
        seq[1],
        seq[2],
        seq[3],
        ack[0],
        ack[1],
        ack[2],
        ack[3],
        5 << 4,
        flags,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let pseudo = pseudo_header(h, protocol::TCP, LEN as u16);
    // The sender's device sums up the segment itself where that is still pending.
    let field = if pending {
        pseudo.fold()
    } else {
        !pseudo.bytes(w).fold()
    }
    .to_ne_bytes();
    (w[16], w[17]) = (field[0], field[1]);
    Some(())
}

#[inline(always)]
fn unreachable_v4<P: Packet>(p: &mut P, h: &Headers) -> Option<()> {
    let (l3, l4) = (usize::from(h.l3), usize::from(h.l4));
    let more = more(h);
    let len = ICMP_LEN + IPV4 + QUOTED + more;
    p.resize((l4 + len) as u32)?;
    let rest = quote_more(p, more, l4, IPV4)?;
    let quoted = quote::<P, { (IPV4 + QUOTED) / 4 }>(p, l3, l4 + ICMP_LEN)?.add(rest.0);
    ip_header(p, h, protocol::ICMP, len as u16)?;
    let field = (!quoted.add16(u16::from_ne_bytes([3, 3])).fold()).to_ne_bytes();
    // A checksum still pending from the datagram is written into the last two bytes here, which are unused: since
    // the message sums up to zero, what is written does not change that. SCTP's would be written into the quote: by a
    // device without SCTP offload, to which a packet that came in with it pending does not go back.
    *p.window::<ICMP_LEN>(l4)? = [3, 3, field[0], field[1], 0, 0, 0, 0];
    Some(())
}

#[inline(always)]
fn unreachable_v6<P: Packet>(p: &mut P, h: &Headers) -> Option<()> {
    let (l3, l4) = (usize::from(h.l3), usize::from(h.l4));
    let more = more(h);
    let pending = more == 0 && p.checksum_pending(l4 + 6);
    let len = ICMP_LEN + IPV6 + QUOTED + more;
    p.resize((l4 + len) as u32)?;
    let rest = quote_more(p, more, l4, IPV6)?;
    let quoted = quote::<P, { (IPV6 + QUOTED) / 4 }>(p, l3, l4 + ICMP_LEN)?.add(rest.0);
    ip_header(p, h, protocol::ICMPV6, len as u16)?;
    let pseudo = pseudo_header(h, protocol::ICMPV6, len as u16);
    let sum = quoted.add(pseudo.0).add16(u16::from_ne_bytes([1, 4]));
    let field = (!sum.fold()).to_ne_bytes();
    // Where a checksum is still pending from the datagram, the device replaces the last two bytes (unused here) by
    // the complement of the sum over the message and these bytes: with the pseudo-header's sum in them, what comes
    // out sums up right, pseudo-header included.
    let unused = if pending { pseudo.fold() } else { 0 }.to_ne_bytes();
    *p.window::<ICMP_LEN>(l4)? = [1, 4, field[0], field[1], 0, 0, unused[0], unused[1]];
    Some(())
}

/// Bytes that an error quotes beside the usual ones.
#[inline(always)]
const fn more(h: &Headers) -> usize {
    if h.tuple.protocol == protocol::SCTP {
        QUOTED_MORE
    } else {
        0
    }
}

/// Moves what is quoted beside the usual bytes, before those, and sums it up.
#[inline(always)]
fn quote_more<P: Packet>(p: &mut P, more: usize, l4: usize, ip: usize) -> Option<Sum> {
    if more == 0 {
        return Some(Sum::default());
    }
    let from = l4 + QUOTED;
    quote::<P, { QUOTED_MORE / 4 }>(p, from, from + ICMP_LEN + ip)
}

/// Moves `WORDS` words to where an error quotes them, the last first since the two places overlap, and sums them up.
#[inline(always)]
fn quote<P: Packet, const WORDS: usize>(p: &mut P, from: usize, to: usize) -> Option<Sum> {
    let (mut sum, mut left) = (Sum::default(), WORDS);
    while left > 0 {
        left -= 1;
        let word = *p.window::<4>(from + left * 4)?;
        *p.window::<4>(to + left * 4)? = word;
        sum = sum.add(u32::from_ne_bytes(word));
    }
    Some(sum)
}
