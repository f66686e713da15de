//! The parsed headers of a packet, and protocol constants.

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

/// Whether a packet is a fragment, and which one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// Not a fragment.
    #[default]
    Whole,
    /// The first fragment, which has the transport header.
    First,
    /// Any later fragment, which has no transport header.
    Later,
}

impl Fragment {
    /// From the fragment offset and the "more fragments" flag.
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

/// Offsets and fields of a packet's headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Addresses, ports, protocol. A later fragment has no ports, and in IPv6 no protocol.
    pub tuple: FlowKey,
    /// Offset of the IP header. A `u8`, so that the verifier knows its range wherever it is loaded from.
    pub l3: u8,
    /// Offset of the transport header; in a later fragment, of its data.
    pub l4: u8,
    /// Whether the packet is IPv6; else it is IPv4.
    pub v6: bool,
    /// TCP flags. For SCTP, the flags that correspond to the packet's first chunk. Zero for other protocols.
    pub tcp_flags: u8,
    /// Hop limit.
    pub ttl: u8,
    /// Fragment position.
    pub fragment: Fragment,
    /// IP identification. In IPv6, only fragments have one.
    pub id: u32,
    /// SCTP and ICMP errors only: bytes from the transport header to the end of the IP packet. The frame may be
    /// longer, because of padding.
    pub l4_len: u16,
}

impl Headers {
    /// Whether the packet has a transport header.
    #[inline(always)]
    pub const fn has_transport(&self) -> bool {
        !matches!(self.fragment, Fragment::Later)
    }

    /// Whether the packet can be the first of a flow: a SYN without ACK, an INIT, or any datagram.
    #[inline(always)]
    pub const fn may_begin(&self) -> bool {
        !protocol::has_connections(self.tuple.protocol) || self.is_syn()
    }

    /// Whether the packet is a TCP segment with SYN and without ACK, or an SCTP INIT.
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

/// Length of an ICMP error's header.
pub const ICMP_LEN: usize = 8;

/// Offset of the checksum in the ICMP header.
pub const ICMP_CHECKSUM: usize = 2;
