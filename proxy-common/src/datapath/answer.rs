//! Answers that this node gives by itself: TCP RST (RFC 9293 §3.5.2), ICMP errors (RFC 792, RFC 4443). A packet is made its own
//! answer, which goes back where it came from.

use super::{Ingress, Verdict, Work, drop, forward};
use crate::{
    abi::{counter::Counter, protocol},
    checksum::Sum,
    packet::Packet,
    parse::{Headers, ICMP_LEN, tcp_flags},
    tables::PacketTables,
};

const TTL: u8 = 64;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// Words of four bytes that an error quotes at most: what is before the ports, and [`quoted_transport`].
const MAX_QUOTED_WORDS: usize = 64;

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
    if !w.h.has_transport() || !p.answer(w, answer, mtu) {
        return drop(t, otherwise);
    }
    forward::swap_macs(p, at.link);
    t.count(given);
    Verdict::Bounce
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

/// An ICMP error is put before what it quotes. So a checksum that is still pending will be written where it belongs: into the
/// quote, which then sums up, from the transport header on, to the complement of what is in the field now.
#[inline(always)]
fn error<P: Packet>(p: &mut P, h: &Headers, [kind, code]: [u8; 2], mtu: u32) -> Option<()> {
    let l3 = usize::from(h.l3);
    let network = usize::from(h.l4 - h.l3);
    let quoted = network + quoted_transport(h);
    let field = h.checksum_offset();
    let pending = h.tuple.protocol != protocol::SCTP && p.checksum_pending(field);
    if p.len() < (l3 + quoted) as u32 {
        return None;
    }
    p.resize((l3 + quoted) as u32)?;
    let mut sum = if pending {
        let pseudo = u16::from_ne_bytes(*p.window::<2>(field)?);
        sum_of(p, l3, network)?.add16(!pseudo)
    } else {
        sum_of(p, l3, quoted)?
    };

    let (ip, protocol) = if h.v6 {
        (IPV6, protocol::ICMPV6)
    } else {
        (IPV4, protocol::ICMP)
    };
    let len = (ICMP_LEN + quoted) as u16;
    p.prepend(l3, (ip + ICMP_LEN) as u32)?;
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
    p.store::<ICMP_LEN>(
        l3 + ip,
        &[
            kind, code, field[0], field[1], rest[0], rest[1], rest[2], rest[3],
        ],
    )
}

/// Bytes of the transport header that an error quotes: eight (RFC 792), and more where its reader wants more: up to the
/// checksum of TCP, if that is pending, up to the initiate tag of SCTP's INIT, without which nobody believes it (RFC 9260 §10).
#[inline(always)]
const fn quoted_transport(h: &Headers) -> usize {
    match h.tuple.protocol {
        protocol::UDP => 8,
        _ => 20,
    }
}

/// Sums up bytes, of which there are a multiple of four.
#[inline(always)]
fn sum_of<P: Packet>(p: &mut P, from: usize, len: usize) -> Option<Sum> {
    let (mut sum, mut word) = (Sum::default(), 0);
    while word < MAX_QUOTED_WORDS && word * 4 < len {
        sum = sum.add(u32::from_ne_bytes(*p.window::<4>(from + word * 4)?));
        word += 1;
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

/// Writes an IP header without options for the way back.
#[inline(always)]
fn ip_header<P: Packet>(p: &mut P, h: &Headers, protocol: u8, payload: u16) -> Option<()> {
    let l3 = usize::from(h.l3);
    if h.v6 {
        let len = payload.to_be_bytes();
        p.store::<8>(l3, &[0x60, 0, 0, 0, len[0], len[1], protocol, TTL])?;
        p.store::<16>(l3 + 8, &h.tuple.dst.octets())?;
        p.store::<16>(l3 + 24, &h.tuple.src.octets())?;
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
