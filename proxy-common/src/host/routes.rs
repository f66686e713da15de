//! A routing table, and listening sockets.

use crate::{addr::Addr, tables::Route};

/// Routes by prefix. The longest matching prefix wins, as in the kernel's table.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<(Addr, u8, Route)>,
}

impl RouteTable {
    /// Adds a route. `bits` is the prefix length in the address's own family (0–32 for IPv4).
    #[must_use]
    pub fn with(mut self, addr: Addr, bits: u8, route: Route) -> Self {
        let bits = if addr.is_v4() { 96 + bits } else { bits };
        self.routes.push((addr, bits, route));
        self
    }

    /// The route to a destination; `Route::None` if no prefix matches.
    pub fn find(&self, dst: &Addr) -> Route {
        self.routes
            .iter()
            .filter(|(prefix, bits, _)| {
                prefix.is_v4() == dst.is_v4() && common_bits(prefix, dst) >= u32::from(*bits)
            })
            .max_by_key(|(_, bits, _)| *bits)
            .map_or(Route::None, |(_, _, route)| *route)
    }
}

/// Number of leading bits that two addresses share.
fn common_bits(a: &Addr, b: &Addr) -> u32 {
    let (a, b) = (
        u128::from_be_bytes(a.octets()),
        u128::from_be_bytes(b.octets()),
    );
    (a ^ b).leading_zeros()
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    /// IANA protocol number.
    pub protocol: u8,
    /// Address that the socket is bound to. Unspecified: every address of that family.
    pub addr: Addr,
    /// Port, host order.
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_and_families_stay_apart() {
        let device = |ifindex| Route::Device { ifindex };
        let table = RouteTable::default()
            .with(Addr::v4([0; 4]), 0, device(1))
            .with(Addr::v4([10, 0, 0, 0]), 8, device(2))
            .with(Addr::v4([10, 1, 0, 0]), 16, device(3));
        assert_eq!(table.find(&Addr::v4([10, 1, 2, 3])), device(3));
        assert_eq!(table.find(&Addr::v4([10, 2, 2, 3])), device(2));
        assert_eq!(table.find(&Addr::v4([11, 2, 2, 3])), device(1));
        assert_eq!(table.find(&Addr::LOOPBACK_V6), Route::None);
        let v6 = RouteTable::default().with(Addr::UNSPECIFIED_V6, 0, device(4));
        assert_eq!(v6.find(&Addr::v4([10, 1, 2, 3])), Route::None);
    }
}
