//! IP fragments: where the ports are that only the first one has.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use crate::addr::Addr;

/// Key of `FRAGMENTS`: what the fragments of one packet share (RFC 791 §3.2, RFC 8200 §4.5).
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
    /// IANA protocol number for IPv4; zero for IPv6, whose later fragments need not say it.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}
const _: () = assert!(size_of::<FragmentKey>() == 40);

/// Value of `FRAGMENTS`: what the first fragment said.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FragmentValue {
    /// Jiffies (low 32 bits) when it came by.
    pub seen: u32,
    /// Source port, network order.
    pub src_port: U16,
    /// Destination port, network order.
    pub dst_port: U16,
    /// IANA protocol number.
    pub protocol: u32,
}
const _: () = assert!(size_of::<FragmentValue>() == 12);
