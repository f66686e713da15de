//! Replies that the node itself sends: TCP RST (RFC 9293 §3.5.2) and ICMP errors (RFC 792, RFC 4443). The
//! packet's own buffer becomes the reply, which goes back out of the device that the packet came in on.

use core::hint;

use super::{Ingress, Verdict, Work, drop, forward};
use crate::{
    abi::{counter::Counter, device::LinkType, protocol},
    checksum::Sum,
    packet::Packet,
    parse::{Headers, ICMP_LEN, tcp_flags},
    tables::PacketTables,
};

const TTL: u8 = 64;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// Bytes of a TCP or SCTP header that an ICMP error quotes.
const QUOTED_TRANSPORT: usize = 20;
/// Maximum length of a quote in 32-bit words: the offset of the transport header fits in a `u8`.
const MAX_QUOTED_WORDS: usize = (u8::MAX as usize + QUOTED_TRANSPORT) / 4;
/// A few spare bytes, see [`error`].
const BEYOND: usize = 4;

/// Which reply the node sends, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Answer {
    /// RST or port unreachable: the Service has no endpoint (semantics B5).
    Refusal,
    /// RST: the backend was deleted (ADR 27).
    End,
    /// Fragmentation needed (IPv4) or packet too big (IPv6), with the MTU (semantics P2).
    TooBig,
    /// Time exceeded (semantics P2).
    TimeExceeded,
}

impl Answer {
    /// From its number: the builder is a separate BPF function, which takes integers.
    #[inline(always)]
    pub const fn from_u32(n: u32) -> Self {
        match n {
            0 => Self::Refusal,
            1 => Self::End,
            2 => Self::TooBig,
            _ => Self::TimeExceeded,
        }
    }

    /// The counter for a sent reply, and the counter for a packet that is dropped because the reply cannot be
    /// sent.
    const fn counters(self) -> (Counter, Counter) {
        match self {
            Self::Refusal => (Counter::RejectedNoEndpoint, Counter::DropAnswer),
            Self::End => (Counter::TcpEnded, Counter::DropAnswer),
            Self::TooBig => (Counter::TooBigAnswered, Counter::DropTooBig),
            Self::TimeExceeded => (Counter::TtlAnswered, Counter::DropTtl),
        }
    }

    /// Type and code of the ICMP error.
    const fn icmp(self, v6: bool) -> [u8; 2] {
        match (self, v6) {
            (Self::Refusal | Self::End, false) => [3, 3],
            (Self::Refusal | Self::End, true) => [1, 4],
            (Self::TooBig, false) => [3, 4],
            (Self::TooBig, true) => [2, 0],
            (Self::TimeExceeded, false) => [11, 0],
            (Self::TimeExceeded, true) => [3, 0],
        }
    }
}

/// Sends a reply to a packet, or drops the packet if it must not be answered or no reply can be built. A later
/// fragment cannot be answered, since it has no transport header. `mtu` is for [`Answer::TooBig`]: bytes from
/// the IP header on.
#[inline(always)]
pub(super) fn give<P: Packet, T: PacketTables>(
    p: &mut P,
    t: &mut T,
    at: Ingress,
    w: &Work,
    answer: Answer,
    mtu: u32,
) -> Verdict {
    let (given, otherwise) = answer.counters();
    if !w.h.has_transport()
        || !is_of_somebody(&w.h)
        || is_to_many(p, at.link)
        || !p.answer(w, answer, mtu)
    {
        return drop(t, otherwise);
    }
    forward::swap_macs(p, at.link);
    t.count(given);
    Verdict::Bounce
}

/// Whether the packet's source is a single host, so that it may be answered (RFC 1122 §3.2.2, RFC 4443 §2.4):
/// not an unspecified, multicast, broadcast or loopback address.
#[inline(always)]
fn is_of_somebody(h: &Headers) -> bool {
    let src = &h.tuple.src;
    if h.v6 {
        return src.octets()[0] != 0xff && !src.is_unspecified() && !src.is_loopback();
    }
    !matches!(src.v4_octets()[0], 0 | 127 | 224..)
}

/// Whether the frame's destination MAC is multicast or broadcast.
#[inline(always)]
fn is_to_many<P: Packet>(p: &mut P, link: LinkType) -> bool {
    matches!(link, LinkType::Ethernet) && p.window::<6>(0).is_none_or(|mac| mac[0] & 1 != 0)
}

/// Turns a packet into the reply to it, except for the MAC addresses. Returns false if it cannot; the packet
/// may then be partly overwritten and must be dropped.
#[inline(always)]
pub fn build<P: Packet>(p: &mut P, h: &Headers, answer: Answer, mtu: u32) -> bool {
    let built = match answer {
        Answer::Refusal | Answer::End if h.tuple.protocol == protocol::TCP => reset(p, h),
        _ => error(p, h, answer.icmp(h.v6), mtu),
    };
    built.is_some()
}

/// Builds an ICMP error. It quotes the start of the packet, which is moved behind the new headers.
///
/// If the transport checksum is left to the sender's device, some devices would write it into the quote: those
/// that use the stored offset, not those that look for a TCP or UDP header. To prevent that, the bytes from
/// which the checksum starts are removed from the packet, and the kernel then forgets the pending checksum.
#[inline(always)]
fn error<P: Packet>(p: &mut P, h: &Headers, [kind, code]: [u8; 2], mtu: u32) -> Option<()> {
    let l3 = usize::from(h.l3);
    let quoted = usize::from(h.l4 - h.l3) + quoted_transport_len(h);
    if p.len() < (l3 + quoted) as u32 {
        return None;
    }
    let (ip, protocol) = if h.v6 {
        (IPV6, protocol::ICMPV6)
    } else {
        (IPV4, protocol::ICMP)
    };
    let pending = p.checksum_pending(h.checksum_offset());
    let covered = usize::from(h.l4) + BEYOND;
    let removed = if pending { covered + BEYOND } else { 0 };
    let quote = l3 + ip + ICMP_LEN;
    let end = quote + removed + quoted;
    // Resizing makes the kernel discard a sum that a device computed over the received bytes
    // (`CHECKSUM_COMPLETE`). The length must change for that, so it changes twice.
    p.resize((end + BEYOND) as u32)?;
    p.resize(end as u32)?;
    let mut sum = move_words(p, l3, quote + removed, quoted)?;
    if pending {
        p.remove(l3, covered as u32)?;
        // Two removals, because kernels before 6.2 check for the pending checksum before they remove the bytes.
        p.remove(l3, BEYOND as u32)?;
    }

    let len = (ICMP_LEN + quoted) as u16;
    ip_header(p, h, protocol, len)?;
    if h.v6 {
        sum = sum.add(pseudo_header(h, protocol, len).0);
    }
    // The MTU fills the low 16 bits in IPv4 (RFC 1191 §4), all 32 bits in IPv6 (RFC 4443 §3.2).
    let rest = mtu.to_be_bytes();
    sum = sum
        .add16(u16::from_ne_bytes([kind, code]))
        .add(u32::from_ne_bytes(rest));
    let field = (!sum.fold()).to_ne_bytes();
    *p.window::<ICMP_LEN>(l3 + ip)? = [
        kind, code, field[0], field[1], rest[0], rest[1], rest[2], rest[3],
    ];
    Some(())
}

/// Bytes of the transport header to quote. UDP: 8 (RFC 792). TCP: all but the options. SCTP: up to an INIT's
/// initiate tag, without which the receiver ignores the error (RFC 9260 §10).
#[inline(always)]
const fn quoted_transport_len(h: &Headers) -> usize {
    match h.tuple.protocol {
        protocol::UDP => 8,
        _ => QUOTED_TRANSPORT,
    }
}

/// Moves `len` bytes (a multiple of four) towards the packet's end and sums them. Starts with the last word,
/// since source and destination may overlap.
#[inline(always)]
fn move_words<P: Packet>(p: &mut P, from: usize, to: usize, len: usize) -> Option<Sum> {
    let (mut sum, mut left, mut moved) = (Sum::default(), len / 4, 0);
    while moved < MAX_QUOTED_WORDS && left > 0 {
        left -= 1;
        // `black_box`: LLVM would otherwise address the words backwards from the end of the window, which the
        // verifier rejects.
        let at = hint::black_box(left * 4);
        let word = *p.window::<4>(from + at)?;
        *p.window::<4>(to + at)? = word;
        sum = sum.add(u32::from_ne_bytes(word));
        moved += 1;
    }
    Some(sum)
}

/// Sum of the pseudo-header. The high half of an IPv6 length is left out, since it is always zero here.
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

/// Writes an IP header without options for the reverse direction. The packet was resized before, so the kernel
/// keeps no sum over it that would need an update.
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

/// Builds a RST (RFC 9293 §3.5.2). Its sequence number is the packet's acknowledgement number, if the packet
/// has ACK. Otherwise (as for a SYN) it is zero, and the RST acknowledges the packet. Fails if the packet has
/// IP options or extension headers.
#[inline(always)]
fn reset<P: Packet>(p: &mut P, h: &Headers) -> Option<()> {
    const LEN: usize = 20;
    let (l4, plain) = (usize::from(h.l4), if h.v6 { IPV6 } else { IPV4 });
    if usize::from(h.l4 - h.l3) != plain {
        return None;
    }
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
    // If the checksum is still pending, the device completes it over the RST.
    let field = if pending {
        pseudo.fold()
    } else {
        !pseudo.bytes(w).fold()
    }
    .to_ne_bytes();
    (w[16], w[17]) = (field[0], field[1]);
    Some(())
}
