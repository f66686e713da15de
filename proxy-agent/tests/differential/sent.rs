//! A packet on its way, and what its bytes say.

use proxy_agent::dataplane::load::PacketProgram;
use proxy_common::{
    abi::{device::LinkType, flow::FlowKey, protocol},
    datapath::Verdict,
    host::Frame,
    parse::{Headers, Kind, parse, tcp_flags},
};

use crate::{
    namespace::{OVERLAY, mac},
    services::{REFUSING_PORT, link},
};

/// Of all devices, in bytes.
const SMALLEST_MTU: usize = 1400;

/// Where a packet meets the datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Sent by the pod behind a device.
    Pod(u32),
    /// In by an uplink or overlay.
    In(u32),
    /// In by an uplink, before tc.
    Xdp(u32),
    /// Out by a device.
    Out(u32),
}

impl Hook {
    pub const fn ifindex(self) -> u32 {
        match self {
            Self::Pod(ifindex) | Self::In(ifindex) | Self::Xdp(ifindex) | Self::Out(ifindex) => {
                ifindex
            }
        }
    }

    /// The program of tc; none at XDP.
    pub const fn program(self) -> Option<PacketProgram> {
        Some(match self {
            Self::Pod(_) => PacketProgram::PodIngress,
            Self::In(OVERLAY) => PacketProgram::UplinkIngressL3,
            Self::In(_) => PacketProgram::UplinkIngress,
            Self::Xdp(_) => return None,
            Self::Out(OVERLAY) => PacketProgram::EgressL3,
            Self::Out(_) => PacketProgram::Egress,
        })
    }
}

/// A packet on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub hook: Hook,
    pub bytes: Vec<u8>,
    /// `gso_size`
    pub segment: u32,
    /// Bytes that are linear; 0: all.
    pub linear: u32,
    /// Whether its device has summed it up (`CHECKSUM_COMPLETE`).
    pub summed: bool,
}

/// What became of it: its tuples before and after, where it had any.
#[derive(Clone, Copy, Debug)]
pub struct Became {
    pub verdict: Verdict,
    pub before: Option<FlowKey>,
    pub after: Option<FlowKey>,
}

impl Sent {
    fn headers(&self) -> Option<Headers> {
        headers(&Frame::new(self.bytes.clone()), link(self.hook.ifindex()))
    }

    /// A SYN that closes its flow as well: another of the same begins another flow.
    pub fn ends_what_it_begins(&self) -> bool {
        let closing = tcp_flags::FIN | tcp_flags::RST;
        self.headers()
            .is_some_and(|h| h.is_syn() && h.tcp_flags & closing != 0)
    }

    pub fn is_later_fragment(&self) -> bool {
        self.headers().is_some_and(|h| !h.has_transport())
    }

    /// Whether a sum over the whole packet must still hold afterwards. Not where the packet may be made an answer (who cuts one
    /// forgets its sum; the test run does not see that), nor where it carries no checksum that changes with its ports (of SCTP the sum is told of both); a packet
    /// that begins with its IP header is summed up from within by the test run.
    pub fn sum_can_hold(&self) -> bool {
        let link = link(self.hook.ifindex());
        link == LinkType::Ethernet
            && self.headers().is_none_or(|h| {
                let at = h.checksum_offset();
                let field = self.bytes.get(at..at + 2);
                let no_sum = field.is_none_or(|field| field == [0, 0]);
                let changes = h.has_transport() && h.tuple.protocol != protocol::SCTP;
                let answered = h.tuple.dst_port.get() == REFUSING_PORT
                    || h.ttl <= 1
                    || self.bytes.len().max(self.segment as usize + 60) > SMALLEST_MTU;
                !(answered || changes && no_sum)
            })
    }
}

fn headers(frame: &Frame, link: LinkType) -> Option<Headers> {
    let mut h = Headers::default();
    let kind = parse(&mut frame.clone(), link, &mut h);
    matches!(kind, Kind::Transport).then_some(h)
}

/// The tuple of a packet that says it.
pub fn tuple(frame: &Frame, link: LinkType) -> Option<FlowKey> {
    headers(frame, link)
        .filter(Headers::has_transport)
        .map(|h| h.tuple)
}

/// Whether the kernel says `PACKET_OTHERHOST` of a frame that came in by a device (`eth_type_trans`).
pub fn is_for_another_host(bytes: &[u8], ifindex: u32) -> bool {
    bytes[0] & 1 == 0 && bytes[..6] != mac(ifindex)
}

/// What the kernel takes for the protocol of a test run's packet (`eth_type_trans`): bytes 12 and 13, or for a length
/// `ETH_P_802_3` before `0xffff` and else `ETH_P_802_2`.
pub fn protocol_of(bytes: &[u8]) -> [u8; 2] {
    let found = [bytes[12], bytes[13]];
    if u16::from_be_bytes(found) >= 0x600 {
        found
    } else if bytes.get(14..16) == Some(&[0xff, 0xff]) {
        [0, 1]
    } else {
        [0, 4]
    }
}
