//! One address type for both families.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The family of an address. A frontend and its backends have the same family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// An IPv4 or IPv6 address: 16 bytes in network byte order, held as four words in memory order, because BPF
/// copies words and not bytes. IPv4 addresses are mapped, `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2), so that one map
/// key serves both families.
#[derive(
    Clone,
    Copy,
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
#[repr(transparent)]
pub struct Addr([u32; 4]);

impl Addr {
    /// `::`
    pub const UNSPECIFIED_V6: Self = Self([0; 4]);
    /// `0.0.0.0`, as a mapped address.
    pub const UNSPECIFIED_V4: Self = Self::v4([0; 4]);
    /// `::1`
    pub const LOOPBACK_V6: Self = Self([0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])]);

    const V4_MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

    /// The mapped form of an IPv4 address.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self([0, 0, Self::V4_MAPPED, u32::from_ne_bytes(octets)])
    }

    /// The unspecified address of a family, which is the address in node port keys.
    #[inline(always)]
    pub const fn unspecified(family: Family) -> Self {
        match family {
            Family::V4 => Self::UNSPECIFIED_V4,
            Family::V6 => Self::UNSPECIFIED_V6,
        }
    }

    /// Whether this is a mapped IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::V4_MAPPED
    }

    /// The family of this address.
    #[inline(always)]
    pub const fn family(&self) -> Family {
        if self.is_v4() { Family::V4 } else { Family::V6 }
    }

    /// The last four bytes: the IPv4 address, if this is a mapped one.
    #[inline(always)]
    pub const fn v4_octets(&self) -> [u8; 4] {
        self.0[3].to_ne_bytes()
    }

    /// The address as four words in memory order, for comparison and hashing.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.0
    }

    /// The address made of four words in memory order.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The sixteen bytes in network order.
    #[inline(always)]
    pub const fn octets(&self) -> [u8; 16] {
        let (a, b, c, d) = (
            self.0[0].to_ne_bytes(),
            self.0[1].to_ne_bytes(),
            self.0[2].to_ne_bytes(),
            self.0[3].to_ne_bytes(),
        );
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }

    /// The address made of sixteen bytes in network order.
    #[inline(always)]
    pub const fn from_octets(o: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }

    /// Compares word by word. `==` would compile to a call of `memcmp`, which BPF does not have.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        let (a, b) = (&self.0, &other.0);
        a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
    }

    /// `0.0.0.0` or `::`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.same(&Self::UNSPECIFIED_V4) || self.same(&Self::UNSPECIFIED_V6)
    }

    /// `127.0.0.0/8` or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        (self.is_v4() && self.v4_octets()[0] == 127) || self.same(&Self::LOOPBACK_V6)
    }

    /// Converts to the standard library's type.
    pub fn to_ip(self) -> IpAddr {
        if self.is_v4() {
            IpAddr::V4(Ipv4Addr::from(self.v4_octets()))
        } else {
            IpAddr::V6(Ipv6Addr::from(self.octets()))
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_ip(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v4_is_mapped_and_comes_back() {
        let ip: IpAddr = "10.1.2.3".parse().unwrap();
        let a = Addr::from(ip);
        assert!(a.is_v4());
        assert_eq!(a.to_ip(), ip);
        assert_eq!(Addr::from_words(a.words()), a);
        assert_eq!(
            Addr::unspecified(Family::V4).to_ip(),
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        );
    }

    #[test]
    fn unspecified_and_loopback_are_told_apart_by_family() {
        assert!(Addr::UNSPECIFIED_V4.is_v4());
        assert!(!Addr::UNSPECIFIED_V6.is_v4());
        assert!(Addr::v4([127, 9, 9, 9]).is_loopback());
        assert!(Addr::LOOPBACK_V6.is_loopback());
        assert!(!Addr::v4([0, 0, 0, 1]).is_loopback());
    }
}
