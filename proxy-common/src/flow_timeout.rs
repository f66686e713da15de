//! When a flow is over. Used by the agent's garbage collector and by the command `flows`.
//!
//! Times are in jiffies (low 32 bits). A flow's idle time is that of its more recently used half. Timeouts
//! equal those of conntrack and kube-proxy where they exist: a shorter one would break connections that
//! conntrack still keeps.

use crate::{
    abi::{
        flow::{FlowValue, Half, flow_flags, seen},
        protocol,
    },
    tables::FlowState,
};

/// Seconds until an idle TCP connection expires: kube-proxy's `conntrack.tcpEstablishedTimeout`.
pub const TCP_ESTABLISHED: u32 = 24 * 60 * 60;
/// Seconds after the first FIN: kube-proxy's `conntrack.tcpCloseWaitTimeout`.
pub const TCP_CLOSING: u32 = 60 * 60;
/// Seconds after the second FIN: `nf_conntrack_tcp_timeout_time_wait`.
pub const TCP_CLOSED: u32 = 120;
/// Seconds after a RST: `nf_conntrack_tcp_timeout_close`.
pub const TCP_RESET: u32 = 10;
/// Seconds for the client to complete the handshake: `nf_conntrack_tcp_timeout_syn_recv`. A flood of SYNs that
/// a backend answers must not stay as long as established connections.
pub const TCP_OPENING: u32 = 60;
/// Seconds without a reply to a SYN. Conntrack allows 120 (`nf_conntrack_tcp_timeout_syn_sent`), but here a
/// retransmitted SYN creates the flow again.
pub const TCP_UNCONFIRMED: u32 = 60;
/// Seconds without a reply to a datagram: `nf_conntrack_udp_timeout`.
pub const UDP_UNCONFIRMED: u32 = 30;
/// Seconds until an idle UDP flow with replies expires: `nf_conntrack_udp_timeout_stream`.
pub const UDP_ANSWERED: u32 = 120;
/// Seconds until an idle SCTP association expires: `nf_conntrack_sctp_timeout_established` since Linux 6.2.
/// Heartbeats come every 30 seconds, and up to five may be lost (RFC 9260 §16).
pub const SCTP_ESTABLISHED: u32 = 210;
/// Seconds after the first side's SHUTDOWN: five times `RTO.Max`, during which it may be retransmitted
/// (RFC 9260 §9.2, §16). Conntrack's 3 seconds would cut off the retransmissions.
pub const SCTP_CLOSING: u32 = 300;
/// Seconds after both sides' SHUTDOWN, since SHUTDOWN COMPLETE may be lost: `RTO.Max` (RFC 9260 §16).
pub const SCTP_CLOSED: u32 = 60;
/// Seconds after an ABORT or SHUTDOWN COMPLETE: `nf_conntrack_sctp_timeout_closed`.
pub const SCTP_RESET: u32 = 10;
/// Seconds after INIT ACK, whose cookie is valid this long: `Valid.Cookie.Life` (RFC 9260 §16).
pub const SCTP_OPENING: u32 = 60;
/// Seconds without a reply to an INIT, which is retransmitted after at most `RTO.Max` (RFC 9260 §16).
pub const SCTP_UNCONFIRMED: u32 = 60;
/// Seconds without a reply after which a claim on a translated source expires. Short, because source ports are
/// scarce.
pub const CLAIM_UNCONFIRMED: u32 = 30;
/// Seconds after which a flow that its client has not fully opened expires, while its table is nearly full.
/// After the same time, packets may take over an unconfirmed claim.
pub const CROWDED: u32 = 3;
/// Seconds until a half without its other half expires.
pub const ORPHAN: u32 = 10;

/// A flow with a packet on one half within this many seconds is kept, without a look at the other half.
/// Exceptions: a UDP flow whose backend no longer serves, and a nearly full table.
pub const ALWAYS_KEPT: u32 = 10;

/// Seconds by which `last_seen` may be ahead of `now`, since the two clock readings differ. A time further
/// ahead is from before the clock wrapped.
const AHEAD: u32 = 60;

/// State of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// No reply yet.
    Unconfirmed,
    /// TCP, SCTP: the backend replied, and the client has not acknowledged.
    Opening,
    /// Both sides have sent.
    Established,
    /// TCP, SCTP: one side has closed.
    Closing,
    /// TCP, SCTP: both sides have closed.
    Closed,
    /// TCP: reset by one side. SCTP: aborted, or shutdown completed.
    Reset,
    /// Only one half exists.
    Orphan,
}

/// Why a flow expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The backend of a UDP flow no longer serves (semantics L3).
    BackendGone,
    /// The flow was idle for longer than its stage allows.
    Idle(Stage),
}

/// Both halves of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHalves {
    /// IANA protocol number.
    pub protocol: u8,
    /// Either half.
    pub one: FlowState,
    /// The other half, if it exists.
    pub other: Option<FlowState>,
    /// Whether the backend still serves, see `balance::serving`.
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
    /// The state of the flow.
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

    /// Jiffies since a packet was last seen on either half.
    pub fn idle(&self, now: u32, hz: u32) -> u32 {
        let one = elapsed(now, self.one.last_seen, hz);
        self.other
            .map_or(one, |other| one.min(elapsed(now, other.last_seen, hz)))
    }

    /// Whether the flow has expired, and why. `crowded`: its table is nearly full. With `hz` 0 (unknown)
    /// nothing expires.
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

    /// Seconds that the flow may be idle in this stage.
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
            // UDP has no further stages.
            (Stage::Opening, _) => TCP_OPENING,
            (Stage::Closing, _) => TCP_CLOSING,
            (Stage::Closed, _) => TCP_CLOSED,
            (Stage::Reset, _) => TCP_RESET,
        }
    }
}

/// Whether one half alone proves that the flow has not expired, so that the other half need not be looked up.
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

/// Jiffies from `then` to `now`; 0 if `then` is slightly ahead, since the clock is not read at the same time.
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
