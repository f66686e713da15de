//! IP fragments: ports of a fragmented packet, since only its first fragment carries them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use crate::addr::Addr;

/// Key of `FRAGMENTS`: the fields that all fragments of a packet share (RFC 791 §3.2, RFC 8200 §4.5).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address, as in the packet.
    pub src: Addr,
    /// Destination address, as in the packet.
    pub dst: Addr,
    /// Identification: 16 bits of IPv4, 32 of IPv6.
    pub id: u32,
    /// IANA protocol number for IPv4. Zero for IPv6, where later fragments need not carry the protocol.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}
const _: () = assert!(size_of::<FragmentKey>() == 40);

/// Value of `FRAGMENTS`: ports and protocol from the first fragment.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FragmentValue {
    /// Time when the first fragment arrived, in jiffies (low 32 bits).
    pub seen: u32,
    /// Source port, network order.
    pub src_port: U16,
    /// Destination port, network order.
    pub dst_port: U16,
    /// IANA protocol number.
    pub protocol: u32,
}
const _: () = assert!(size_of::<FragmentValue>() == 12);
