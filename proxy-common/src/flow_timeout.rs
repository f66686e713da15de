//! When a flow is over: what the agent's collector and the command `flows` make of a flow's two halves.
//!
//! Times are in jiffies, their low 32 bits. The time that counts is that of the half that was used last. Where
//! conntrack and kube-proxy have a timeout, it is theirs: flows that end later there than here would be cut off.

use crate::{
    abi::{
        flow::{FlowValue, Half, flow_flags, seen},
        protocol,
    },
    tables::FlowState,
};

/// Seconds that an idle TCP connection lives: kube-proxy's `conntrack.tcpEstablishedTimeout`.
pub const TCP_ESTABLISHED: u32 = 24 * 60 * 60;
/// Seconds after the first FIN: kube-proxy's `conntrack.tcpCloseWaitTimeout`.
pub const TCP_CLOSING: u32 = 60 * 60;
/// Seconds after the second FIN: `nf_conntrack_tcp_timeout_time_wait`.
pub const TCP_CLOSED: u32 = 120;
/// Seconds after a RST: `nf_conntrack_tcp_timeout_close`.
pub const TCP_RESET: u32 = 10;
/// Seconds that the client has for its part of the handshake: `nf_conntrack_tcp_timeout_syn_recv`. A flood of SYNs
/// that a backend answers must not stay for as long as connections do.
pub const TCP_OPENING: u32 = 60;
/// Seconds without an answer to a SYN; `nf_conntrack_tcp_timeout_syn_sent` is 120, but the first packet is never
/// looked for again here.
pub const TCP_UNCONFIRMED: u32 = 60;
/// Seconds without an answer to a datagram: `nf_conntrack_udp_timeout`.
pub const UDP_UNCONFIRMED: u32 = 30;
/// Seconds that an answered UDP flow lives: `nf_conntrack_udp_timeout_stream`.
pub const UDP_ANSWERED: u32 = 120;
/// Seconds that an idle SCTP association lives: `nf_conntrack_sctp_timeout_established` since Linux 6.2. Its heartbeats
/// come every 30 seconds, and up to five may be lost (RFC 9260 §16).
pub const SCTP_ESTABLISHED: u32 = 210;
/// Seconds after the first side's SHUTDOWN: five times `RTO.Max`, for which it may be repeated (RFC 9260 §9.2, §16).
/// Conntrack's is 3, and cuts off the repetitions.
pub const SCTP_CLOSING: u32 = 300;
/// Seconds after both sides' SHUTDOWN, while its completion may be lost: `RTO.Max` (RFC 9260 §16).
pub const SCTP_CLOSED: u32 = 60;
/// Seconds after an ABORT, or the completion of a shutdown: `nf_conntrack_sctp_timeout_closed`.
pub const SCTP_RESET: u32 = 10;
/// Seconds for which the cookie of an answer to an INIT is good: `Valid.Cookie.Life` (RFC 9260 §16).
pub const SCTP_OPENING: u32 = 60;
/// Seconds without an answer to an INIT, which is sent again after `RTO.Max` at the latest (RFC 9260 §16).
pub const SCTP_UNCONFIRMED: u32 = 60;
/// Seconds that a translated source is claimed for without an answer: there are few of them.
pub const CLAIM_UNCONFIRMED: u32 = 30;
/// Seconds after which whatever no client has finished opening makes room in a table that is nearly full; after as
/// many, packets may take over a claim.
pub const CROWDED: u32 = 3;
/// Seconds that a half lives without the other, which is of no use to anybody.
pub const ORPHAN: u32 = 10;

/// A half that was used this short a time ago (seconds) is never over, whatever the other one says; unless its
/// backend is gone, or the table is nearly full.
pub const ALWAYS_KEPT: u32 = 10;

/// How far into the future (seconds) a packet may have been seen: between two readings of the clock. What is
/// further ahead was seen before the 32 bits came round.
const AHEAD: u32 = 60;

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// No answer yet.
    Unconfirmed,
    /// A connection (TCP, SCTP): answered, not acknowledged by the client.
    Opening,
    /// Both sides have been heard.
    Established,
    /// A connection: one side has ended.
    Closing,
    /// A connection: both sides have ended.
    Closed,
    /// A connection: broken off by one side, or, of SCTP, over for both.
    Reset,
    /// One half alone is left.
    Orphan,
}

/// Why a flow is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Of UDP, and its backend serves no more (semantics L3).
    BackendGone,
    /// Nothing was heard of it for as long as its stage allows.
    Idle(Stage),
}

/// Both halves of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHalves {
    /// IANA protocol number.
    pub protocol: u8,
    /// Either half.
    pub one: FlowState,
    /// The other, where it is there.
    pub other: Option<FlowState>,
    /// Whether the backend still serves, as `balance::serving` has it.
    pub serving: bool,
}

impl From<&FlowValue> for FlowState {
    fn from(value: &FlowValue) -> Self {
        Self {
            last_seen: value.last_seen,
            half: value.half,
            flags: value.flags,
            seen: value.seen,
        }
    }
}

impl FlowHalves {
    /// How far the flow has come.
    pub const fn stage(&self) -> Stage {
        let Some(other) = self.other else {
            return Stage::Orphan;
        };
        let (one, both) = (self.one, self.one.seen & other.seen);
        if (one.flags | other.flags) & flow_flags::CONFIRMED == 0 {
            return Stage::Unconfirmed;
        }
        if !protocol::has_connections(self.protocol) {
            return Stage::Established;
        }
        let any = one.seen | other.seen;
        let client = if one.half == Half::Forward as u8 {
            one
        } else {
            other
        };
        if any & seen::RST != 0 {
            Stage::Reset
        } else if both & seen::FIN != 0 {
            Stage::Closed
        } else if any & seen::FIN != 0 {
            Stage::Closing
        } else if client.seen & seen::DATA == 0 {
            Stage::Opening
        } else {
            Stage::Established
        }
    }

    /// Jiffies since either half was used.
    pub fn idle(&self, now: u32, hz: u32) -> u32 {
        let one = elapsed(now, self.one.last_seen, hz);
        self.other
            .map_or(one, |other| one.min(elapsed(now, other.last_seen, hz)))
    }

    /// Whether the flow is over, and why. `crowded`: its table is nearly full. Without a frequency nothing is over.
    pub fn expired(&self, now: u32, hz: u32, crowded: bool) -> Option<Reason> {
        if hz == 0 {
            return None;
        }
        if !protocol::has_connections(self.protocol) && !self.serving {
            return Some(Reason::BackendGone);
        }
        let stage = self.stage();
        let limit = self.limit(stage, crowded).saturating_mul(hz);
        (self.idle(now, hz) > limit).then_some(Reason::Idle(stage))
    }

    /// Seconds that the flow may be idle.
    const fn limit(&self, stage: Stage, crowded: bool) -> u32 {
        match (stage, self.protocol) {
            (Stage::Unconfirmed | Stage::Opening | Stage::Orphan, _) if crowded => CROWDED,
            (Stage::Orphan, _) => ORPHAN,
            (Stage::Unconfirmed, _) if self.one.flags & flow_flags::SNAT != 0 => CLAIM_UNCONFIRMED,
            (Stage::Unconfirmed, protocol::SCTP) => SCTP_UNCONFIRMED,
            (Stage::Opening, protocol::SCTP) => SCTP_OPENING,
            (Stage::Established, protocol::SCTP) => SCTP_ESTABLISHED,
            (Stage::Closing, protocol::SCTP) => SCTP_CLOSING,
            (Stage::Closed, protocol::SCTP) => SCTP_CLOSED,
            (Stage::Reset, protocol::SCTP) => SCTP_RESET,
            (Stage::Unconfirmed, protocol::TCP) => TCP_UNCONFIRMED,
            (Stage::Established, protocol::TCP) => TCP_ESTABLISHED,
            (Stage::Unconfirmed, _) => UDP_UNCONFIRMED,
            (Stage::Established, _) => UDP_ANSWERED,
            // Datagrams have no further stages.
            (Stage::Opening, _) => TCP_OPENING,
            (Stage::Closing, _) => TCP_CLOSING,
            (Stage::Closed, _) => TCP_CLOSED,
            (Stage::Reset, _) => TCP_RESET,
        }
    }
}

/// Whether one half alone says that its flow is not over, so that the other need not be looked up.
pub fn is_kept(
    one: &FlowState,
    protocol: u8,
    serving: bool,
    now: u32,
    hz: u32,
    crowded: bool,
) -> bool {
    let least = if crowded { CROWDED } else { ALWAYS_KEPT };
    (protocol::has_connections(protocol) || serving)
        && elapsed(now, one.last_seen, hz) <= least.saturating_mul(hz)
}

/// Jiffies from then to now; 0 if `then` is a little later, since clocks are not read at the same time.
pub const fn elapsed(now: u32, then: u32, hz: u32) -> u32 {
    let ahead = then.wrapping_sub(now);
    if ahead <= AHEAD.saturating_mul(hz) {
        0
    } else {
        now.wrapping_sub(then)
    }
}

#[cfg(test)]
mod tests;
