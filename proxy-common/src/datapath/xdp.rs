//! XDP on an uplink. It sends out the packets that it can finish, and leaves all others unmodified to tc on the
//! same device.
//!
//! It handles flows whose backend is on another node, in both directions, with the same result as tc. It
//! decides before it writes. Packets left to tc already have their flow, so tc uses the same backend.

use super::{
    Ingress, Verdict, Work, answer, begin, drop, flow, forward, may_be_snat_reply, rewrite::rewrite,
};
use crate::{
    abi::{
        counter::Counter,
        device::{LinkType, device_flags},
        flow::flow_flags,
        frontend::Scope,
        protocol,
    },
    packet::Packet,
    parse::{Fragment, Headers, Kind, parse},
    tables::{FlowTable, PacketTables, Route, RouteQuery},
};

const ETH_HLEN: u8 = 14;

/// Ingress of an uplink with Ethernet headers, before tc.
#[inline(always)]
pub fn xdp_ingress<P: Packet, T: PacketTables>(
    p: &mut P,
    t: &mut T,
    w: &mut Work,
    at: Ingress,
) -> Verdict {
    // Fragments are left to tc, where later fragments find the ports that the first one stored. ICMP errors are
    // left to tc because they are rare.
    if !matches!(parse(p, LinkType::Ethernet, &mut w.h), Kind::Transport)
        || !matches!(w.h.fragment, Fragment::Whole)
    {
        return Verdict::Pass;
    }
    let reply = match known(p, t, w, at) {
        Known::Forward => None,
        Known::Back(entry) => Some(entry),
        Known::Pass => return Verdict::Pass,
        Known::No => {
            if !w.h.may_begin() || !is_for_us(p, t, at) {
                return Verdict::Pass;
            }
            let step = t.begin_early(w, at.ifindex);
            match begin::finish(t, w, step) {
                begin::Step::Translate => None,
                begin::Step::Drop(
                    reason @ (Counter::DropSourceRange | Counter::DropNoLocalEndpoint),
                ) => return drop(t, reason),
                // tc comes to the same result and acts on it.
                begin::Step::Pass | begin::Step::Refuse | begin::Step::Drop(_) => {
                    return Verdict::Pass;
                }
            }
        }
    };
    let Some(way) = way(p, t, at, w) else {
        t.count(Counter::XdpPassed);
        return Verdict::Pass;
    };
    if let Some(entry) = reply {
        flow::accept_reply(t, w, entry);
    }
    if !rewrite(p, &w.h, &w.value.out, true) {
        return Verdict::Pass;
    }
    if let Some(macs) = p.window::<12>(0) {
        *macs = way.macs;
    }
    t.count(Counter::XdpSent);
    if way.returns {
        Verdict::Bounce
    } else {
        Verdict::Send {
            ifindex: way.ifindex,
        }
    }
}

/// What the flow tables say about a packet.
enum Known<F> {
    /// From a client, to be translated as `Work::value` says.
    Forward,
    /// A reply to a translated source. Not recorded in the flow tables yet.
    Back(F),
    /// Leave it unchanged.
    Pass,
    /// No flow matches.
    No,
}

#[inline(always)]
fn known<P: Packet, T: PacketTables>(
    p: &mut P,
    t: &mut T,
    w: &mut Work,
    at: Ingress,
) -> Known<T::Flow> {
    if let Some(entry) = t.flow(FlowTable::Confirmed, &w.h.tuple) {
        if !is_for_us(p, t, at) {
            return Known::Pass;
        }
        match flow::established(t, w, entry) {
            flow::Step::Translate => return Known::Forward,
            // Only tc sends RSTs.
            flow::Step::Pass | flow::Step::End => return Known::Pass,
            flow::Step::Begin => {}
        }
    }
    if may_be_snat_reply(&t.settings(), w.h.tuple.dst_port.get(), Scope::External)
        && let Some(entry) = flow::snat_reply(t, w)
    {
        return if is_for_us(p, t, at) {
            Known::Back(entry)
        } else {
            Known::Pass
        };
    }
    Known::No
}

/// Whether the frame is addressed to this device. XDP also sees other frames, which tc calls
/// `PACKET_OTHERHOST`.
#[inline(always)]
fn is_for_us<P: Packet, T: PacketTables>(p: &mut P, t: &mut T, at: Ingress) -> bool {
    match (t.device(at.ifindex), p.window::<6>(0)) {
        (Some(device), Some(mac)) => *mac == device.mac,
        _ => false,
    }
}

/// How a packet leaves.
struct Way {
    ifindex: u32,
    /// Whether to return `XDP_TX`: the packet leaves by the device that it came in on.
    returns: bool,
    /// Destination MAC, then source MAC.
    macs: [u8; 12],
}

/// The route of a packet of the flow in `Work`, if XDP can send it.
#[inline(always)]
fn way<P: Packet, T: PacketTables>(p: &mut P, t: &mut T, at: Ingress, w: &Work) -> Option<Way> {
    const OUT_OF_HERE: u8 = flow_flags::SNAT | flow_flags::HAIRPIN;
    if w.value.flags & OUT_OF_HERE != flow_flags::SNAT
        || w.h.ttl <= 1
        // The kernel must strip a VLAN tag, even a priority tag.
        || w.h.l3 != ETH_HLEN
        || may_be_pending(p, &w.h)
    {
        return None;
    }
    let query = RouteQuery {
        src: &w.h.tuple.src,
        dst: &w.value.out.dst,
        protocol: w.h.tuple.protocol,
        ifindex: at.ifindex,
    };
    let Route::Neighbour { ifindex, mac } = t.route(query) else {
        return None;
    };
    let device = t.device(ifindex)?;
    // A frame can always leave by the device that XDP runs on, with `XDP_TX` or a redirect.
    let same = ifindex == at.ifindex;
    let reached = same || device.flags & device_flags::XDP_OUT != 0;
    if !reached || forward::wire_len(p, &w.h) > device.mtu {
        return None;
    }
    let ([d0, d1, d2, d3, d4, d5], [s0, s1, s2, s3, s4, s5]) = (mac, device.mac);
    Some(Way {
        ifindex,
        returns: same && device.flags & device_flags::XDP_NO_TX == 0,
        macs: [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5],
    })
}

/// Whether the transport checksum may be left to the sender's device (`CHECKSUM_PARTIAL`). XDP cannot know:
/// this occurs on a veth, between virtual machines on one host, and in generic mode. A frame that XDP sends
/// needs a complete checksum. So a field equal to the pseudo-header's sum counts as pending; one in 65,536
/// complete checksums looks the same and also goes to tc. SCTP's field is zero while pending ([`rewrite`]).
#[inline(always)]
fn may_be_pending<P: Packet>(p: &mut P, h: &Headers) -> bool {
    if h.tuple.protocol == protocol::SCTP {
        return p
            .window::<4>(h.checksum_offset())
            .is_none_or(|field| *field == [0; 4]);
    }
    let said = if h.v6 {
        p.window::<40>(usize::from(h.l3))
            .map(|w| u16::from_be_bytes([w[4], w[5]]).wrapping_add(40))
    } else {
        p.window::<20>(usize::from(h.l3))
            .map(|w| u16::from_be_bytes([w[2], w[3]]))
    };
    let field = p.window::<2>(h.checksum_offset()).map(|w| *w);
    let (Some(said), Some(field)) = (said, field) else {
        return true;
    };
    let len = said.wrapping_sub(u16::from(h.l4 - h.l3));
    answer::pseudo_header(h, h.tuple.protocol, len).fold() == u16::from_ne_bytes(field)
}
