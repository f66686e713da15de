//! What the headers of a packet say, and numbers in them.

use crate::abi::{flow::FlowKey, protocol};

/// Types of SCTP chunks (RFC 9260 §3.2).
pub mod sctp_chunk {
    /// DATA.
    pub const DATA: u8 = 0;
    /// INIT.
    pub const INIT: u8 = 1;
    /// INIT ACK.
    pub const INIT_ACK: u8 = 2;
    /// ABORT.
    pub const ABORT: u8 = 6;
    /// SHUTDOWN.
    pub const SHUTDOWN: u8 = 7;
    /// SHUTDOWN ACK.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// COOKIE ECHO.
    pub const COOKIE_ECHO: u8 = 10;
    /// COOKIE ACK.
    pub const COOKIE_ACK: u8 = 11;
    /// SHUTDOWN COMPLETE.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Bits of [`Headers::tcp_flags`], as in the TCP header (RFC 9293 §3.1).
pub mod tcp_flags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// Which part of an IP packet it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// All of it.
    #[default]
    Whole,
    /// The first, which has the transport header.
    First,
    /// Another, which has none.
    Later,
}

impl Fragment {
    /// From the offset, and whether more follow.
    #[inline(always)]
    pub(super) const fn of(offset: u16, more: bool) -> Self {
        if offset != 0 {
            Self::Later
        } else if more {
            Self::First
        } else {
            Self::Whole
        }
    }
}

/// Where the headers of a packet are and what they say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Addresses, ports, protocol. A later fragment has no ports of its own, and in IPv6 no protocol.
    pub tuple: FlowKey,
    /// Offset of the IP header. A byte: wherever it is loaded from, the verifier knows how big it can be.
    pub l3: u8,
    /// Offset of the transport header, or of what is instead of it in a later fragment.
    pub l4: u8,
    /// IPv6, not IPv4.
    pub v6: bool,
    /// TCP flags; of SCTP, those that say of a connection what the packet's first chunk says of the association; zero for
    /// other protocols.
    pub tcp_flags: u8,
    /// Hop limit.
    pub ttl: u8,
    /// Whether it is a fragment.
    pub fragment: Fragment,
    /// Of a fragment: the identification of the packet that it is of.
    pub id: u32,
    /// Of SCTP, and of an ICMP error: bytes from the transport header to the end of the IP packet, which the frame may go
    /// beyond.
    pub l4_len: u16,
}

impl Headers {
    /// Whether it has a transport header.
    #[inline(always)]
    pub const fn has_transport(&self) -> bool {
        !matches!(self.fragment, Fragment::Later)
    }

    /// A SYN without ACK, an INIT, or any datagram: what may begin a flow.
    #[inline(always)]
    pub const fn may_begin(&self) -> bool {
        !protocol::has_connections(self.tuple.protocol) || self.is_syn()
    }

    /// A TCP segment with SYN and without ACK, or an INIT of SCTP.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.tcp_flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
    }

    /// Offset of the transport checksum.
    #[inline(always)]
    pub const fn checksum_offset(&self) -> usize {
        self.l4 as usize
            + match self.tuple.protocol {
                protocol::TCP => 16,
                protocol::SCTP => SCTP_CHECKSUM,
                _ => 6,
            }
    }
}

/// Offset of the checksum in SCTP's common header (RFC 9260 §3.1).
pub const SCTP_CHECKSUM: usize = 8;

/// Length of an ICMP error's own header.
pub const ICMP_LEN: usize = 8;

/// Offset of the checksum in it.
pub const ICMP_CHECKSUM: usize = 2;
