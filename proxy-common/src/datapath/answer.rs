//! Answers that this node gives by itself: TCP RST (RFC 9293 §3.5.2), ICMP errors (RFC 792, RFC 4443). A packet is made its own
//! answer, which goes back where it came from.

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
/// Bytes of the transport header that an error quotes of all but UDP.
const QUOTED_TRANSPORT: usize = 20;
/// Words of four bytes that an error quotes at most, since offsets are kept in a byte.
const MAX_QUOTED_WORDS: usize = (u8::MAX as usize + QUOTED_TRANSPORT) / 4;
/// A few bytes more.
const BEYOND: usize = 4;

/// What a packet is answered with, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Answer {
    /// RST or port unreachable: its Service has no endpoint (semantics B5).
    Refusal,
    /// RST: its backend was deleted (ADR 27).
    End,
    /// Fragmentation needed, or packet too big: how much is not is told (semantics P2).
    TooBig,
    /// Time exceeded (semantics P2).
    TimeExceeded,
}

impl Answer {
    /// From its number, since a shell may make what builds answers a function of its own.
    #[inline(always)]
    pub const fn from_u32(n: u32) -> Self {
        match n {
            0 => Self::Refusal,
            1 => Self::End,
            2 => Self::TooBig,
            _ => Self::TimeExceeded,
        }
    }

    /// What it is counted as; and what else, where it cannot be given.
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

/// Answers a packet; a fragment other than the first has nothing to answer to. What is too big is told of the `mtu`: bytes,
/// from the IP header on.
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

/// Whether a packet's source is one host, which may be answered (RFC 1122 §3.2.2, RFC 4443 §2.4): not unspecified, a group,
/// everybody, or a loopback.
#[inline(always)]
fn is_of_somebody(h: &Headers) -> bool {
    let src = &h.tuple.src;
    if h.v6 {
        return src.octets()[0] != 0xff && !src.is_unspecified() && !src.is_loopback();
    }
    !matches!(src.v4_octets()[0], 0 | 127 | 224..)
}

/// Whether a frame is addressed to a group.
#[inline(always)]
fn is_to_many<P: Packet>(p: &mut P, link: LinkType) -> bool {
    matches!(link, LinkType::Ethernet) && p.window::<6>(0).is_none_or(|mac| mac[0] & 1 != 0)
}

/// Makes a packet its answer, up to the MAC addresses. Says no where that can't be: what is left of it is of no use.
#[inline(always)]
pub fn build<P: Packet>(p: &mut P, h: &Headers, answer: Answer, mtu: u32) -> bool {
    let built = match answer {
        Answer::Refusal | Answer::End if h.tuple.protocol == protocol::TCP => reset(p, h),
        _ => error(p, h, answer.icmp(h.v6), mtu),
    };
    built.is_some()
}

/// An ICMP error quotes the beginning of the packet, which is moved to behind its headers.
///
/// A checksum that the sender left to its device would be written into the quote: by devices that go by the place, not by those
/// that look for a TCP or UDP header there. So the bytes that it covers from are taken out of the packet: the kernel then knows of
/// none.
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
    // The sum that a device has made of all bytes is forgotten by the kernel where their number changes.
    p.resize((end + BEYOND) as u32)?;
    p.resize(end as u32)?;
    let mut sum = move_words(p, l3, quote + removed, quoted)?;
    if pending {
        p.remove(l3, covered as u32)?;
        // Before Linux 6.2, the kernel looks what is gone before it goes.
        p.remove(l3, BEYOND as u32)?;
    }

    let len = (ICMP_LEN + quoted) as u16;
    ip_header(p, h, protocol, len)?;
    if h.v6 {
        sum = sum.add(pseudo_header(h, protocol, len).0);
    }
    // RFC 1191 §4, RFC 4443 §3.2.
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

/// Bytes of the transport header that an error quotes: eight (RFC 792); of TCP, all but the options; of SCTP, up to the initiate
/// tag of an INIT, without which nobody believes it (RFC 9260 §10).
#[inline(always)]
const fn quoted_transport_len(h: &Headers) -> usize {
    match h.tuple.protocol {
        protocol::UDP => 8,
        _ => QUOTED_TRANSPORT,
    }
}

/// Moves bytes, of which there are a multiple of four, towards the end, the last first since the two places may overlap, and
/// sums them up.
#[inline(always)]
fn move_words<P: Packet>(p: &mut P, from: usize, to: usize, len: usize) -> Option<Sum> {
    let (mut sum, mut left, mut moved) = (Sum::default(), len / 4, 0);
    while moved < MAX_QUOTED_WORDS && left > 0 {
        left -= 1;
        // As a number: compilers would look at a window from its end, which the verifier refuses.
        let at = hint::black_box(left * 4);
        let word = *p.window::<4>(from + at)?;
        *p.window::<4>(to + at)? = word;
        sum = sum.add(u32::from_ne_bytes(word));
        moved += 1;
    }
    Some(sum)
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

/// Writes an IP header without options for the way back. Of a packet that was cut or extended, the kernel keeps no sum.
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
/// acknowledged. Not built behind IP options or extension headers.
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
