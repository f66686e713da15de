//! Rewriting a packet from one tuple to another: addresses, ports, checksums, hop limit.

use super::Work;
use crate::{
    abi::{flow::FlowKey, protocol},
    checksum::{Sum, update},
    packet::{ChecksumChange, Packet},
    parse::{Fragment, Headers, ICMP_CHECKSUM, SCTP_CHECKSUM},
};

/// Gives the packet the tuple `out`. With `hop`, also decrements its hop limit. Returns false, with the packet
/// unchanged, if a part of it cannot be accessed. Not inlined, because the sums need much stack.
#[inline(never)]
pub(super) fn rewrite<P: Packet>(p: &mut P, h: &Headers, out: &FlowKey, hop: bool) -> bool {
    try_rewrite(p, h, out, hop).is_some()
}

#[inline(always)]
fn try_rewrite<P: Packet>(p: &mut P, h: &Headers, out: &FlowKey, hop: bool) -> Option<()> {
    let l3 = usize::from(h.l3);
    match h.tuple.protocol {
        _ if !h.has_transport() => {}
        protocol::SCTP => sctp(p, h, out)?,
        _ => ports(p, h, out)?,
    }
    if h.v6 {
        ipv6(p, l3, h, out, hop)
    } else {
        ipv4(p, l3, h, out, hop)
    }
}

/// Translates an ICMP error. It then has the addresses in `Work::key`, and quotes a packet of the flow in
/// `Work::value` as that packet's sender sent it. With `hop`, also decrements the error's hop limit. Returns
/// false if a part of the packet cannot be accessed.
#[inline(always)]
pub(super) fn rewrite_error<P: Packet>(p: &mut P, w: &Work, hop: bool) -> bool {
    try_rewrite_error(p, w, hop).is_some()
}

#[inline(always)]
fn try_rewrite_error<P: Packet>(p: &mut P, w: &Work, hop: bool) -> Option<()> {
    let (h, quoted, inner) = (&w.h, &w.quoted, w.value.out.inverted());
    let mut message = rewrite_quoted_transport(p, h, quoted, &inner)?;
    let l3 = usize::from(quoted.l3);
    if h.v6 {
        // In IPv4, the quoted header's checksum compensates for its addresses.
        message = message.add(addresses(Sum::default(), quoted, &inner).0);
        ipv6(p, l3, quoted, &inner, false)?;
        // The pseudo-header (RFC 4443 §2.3).
        message = message.add(addresses(Sum::default(), h, &w.key).0);
    } else {
        ipv4(p, l3, quoted, &inner, false)?;
    }
    let field = usize::from(h.l4) + ICMP_CHECKSUM;
    let old = u16::from_ne_bytes(*p.window::<2>(field)?);
    p.store::<2>(field, &update(old, message).to_ne_bytes())?;
    let l3 = usize::from(h.l3);
    if h.v6 {
        ipv6(p, l3, h, &w.key, hop)
    } else {
        ipv4(p, l3, h, &w.key, hop)
    }
}

/// Rewrites the quoted ports, and the quoted TCP or UDP checksum if it is there: tracing tools recognise their
/// probes by it. SCTP's checksum would need the whole packet. Returns the change in the sum of the quoted
/// bytes.
#[inline(always)]
fn rewrite_quoted_transport<P: Packet>(
    p: &mut P,
    error: &Headers,
    quoted: &Headers,
    inner: &FlowKey,
) -> Option<Sum> {
    let change = change(quoted, inner);
    let mut written = change.data;
    let field = quoted.checksum_offset();
    let end = usize::from(error.l4) + usize::from(error.l4_len);
    if quoted.tuple.protocol != protocol::SCTP
        && field + 2 <= end
        && let Some(old) = p.window::<2>(field).map(|w| u16::from_ne_bytes(*w))
    {
        let new = change.applied_to(old);
        p.store::<2>(field, &new.to_ne_bytes())?;
        written = written.replace16(old, new);
    }
    p.store::<4>(usize::from(quoted.l4), &inner.port_bytes())?;
    Some(written)
}

/// Rewrites the ports and checksum of TCP or UDP.
#[inline(always)]
fn ports<P: Packet>(p: &mut P, h: &Headers, out: &FlowKey) -> Option<()> {
    let l4 = usize::from(h.l4);
    p.window::<8>(l4)?;
    p.l4_checksum(h.checksum_offset(), change(h, out))?;
    *p.window::<4>(l4)? = out.port_bytes();
    Some(())
}

/// Rewrites the ports of SCTP and its checksum, which covers no addresses (RFC 9260 §6.8).
///
/// A field of zero stays zero. The sender left the checksum to its device (`CHECKSUM_PARTIAL` with
/// `csum_not_inet`; netfilter's `sctp_manip_pkt` leaves it alone, too), or sent none (RFC 9653). One in 2³²
/// real checksums is zero as well.
///
/// The update of any other checksum needs the packet's length, which a first fragment does not have. So a first
/// fragment is rejected if its ports change.
#[inline(always)]
fn sctp<P: Packet>(p: &mut P, h: &Headers, out: &FlowKey) -> Option<()> {
    const LEN: usize = SCTP_CHECKSUM + 4;
    let l4 = usize::from(h.l4);
    let mut w = *p.window::<LEN>(l4)?;
    let ports = out.port_bytes();
    let flipped = u32::from_le_bytes([w[0], w[1], w[2], w[3]]) ^ u32::from_le_bytes(ports);
    if flipped == 0 {
        return Some(());
    }
    let mut field = u32::from_le_bytes([w[8], w[9], w[10], w[11]]);
    if field != 0 {
        if !matches!(h.fragment, Fragment::Whole) {
            return None;
        }
        field ^= p.crc32c_change(flipped, h.l4_len);
    }
    [w[0], w[1], w[2], w[3]] = ports;
    [w[8], w[9], w[10], w[11]] = field.to_le_bytes();
    p.store::<LEN>(l4, &w)
}

#[inline(always)]
fn change(h: &Headers, out: &FlowKey) -> ChecksumChange {
    let v6 = h.v6;
    let pseudo = addresses(Sum::default(), h, out);
    let port =
        |sum: Sum, old: zerocopy::network_endian::U16, new: zerocopy::network_endian::U16| {
            sum.replace16(
                u16::from_ne_bytes(old.to_bytes()),
                u16::from_ne_bytes(new.to_bytes()),
            )
        };
    let data = port(
        port(Sum::default(), h.tuple.src_port, out.src_port),
        h.tuple.dst_port,
        out.dst_port,
    );
    ChecksumChange {
        pseudo,
        data,
        zero_means_none: h.tuple.protocol == protocol::UDP,
        v6,
    }
}

/// The change of the addresses in a sum over the IPv4 header or a pseudo-header.
#[inline(always)]
fn addresses(sum: Sum, h: &Headers, out: &FlowKey) -> Sum {
    let (os, ns) = (h.tuple.src.words(), out.src.words());
    let (od, nd) = (h.tuple.dst.words(), out.dst.words());
    let sum = sum.replace(os[3], ns[3]).replace(od[3], nd[3]);
    if !h.v6 {
        return sum;
    }
    sum.replace(os[0], ns[0])
        .replace(os[1], ns[1])
        .replace(os[2], ns[2])
        .replace(od[0], nd[0])
        .replace(od[1], nd[1])
        .replace(od[2], nd[2])
}

#[inline(always)]
fn ipv4<P: Packet>(p: &mut P, l3: usize, h: &Headers, out: &FlowKey, hop: bool) -> Option<()> {
    let w = p.window::<20>(l3)?;
    let mut sum = addresses(Sum::default(), h, out);
    if hop {
        let old = u16::from_ne_bytes([w[8], w[9]]);
        w[8] = w[8].wrapping_sub(1);
        sum = sum.replace16(old, u16::from_ne_bytes([w[8], w[9]]));
    }
    let field = update(u16::from_ne_bytes([w[10], w[11]]), sum).to_ne_bytes();
    let (s, d) = (out.src.v4_octets(), out.dst.v4_octets());
    (w[10], w[11]) = (field[0], field[1]);
    (w[12], w[13], w[14], w[15]) = (s[0], s[1], s[2], s[3]);
    (w[16], w[17], w[18], w[19]) = (d[0], d[1], d[2], d[3]);
    Some(())
}

#[inline(always)]
fn ipv6<P: Packet>(p: &mut P, l3: usize, h: &Headers, out: &FlowKey, hop: bool) -> Option<()> {
    p.store(l3 + 8, &out.src.octets())?;
    p.store(l3 + 24, &out.dst.octets())?;
    if hop {
        p.store(l3 + 7, &[h.ttl.wrapping_sub(1)])?;
    }
    Some(())
}
