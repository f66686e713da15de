//! The source address of what is masqueraded out of a device.

use proxy_common::addr::{Addr, Family};

use super::super::observed::{Address, Observed};

/// Chooses source addresses, near enough to what the kernel's MASQUERADE takes.
pub(super) struct Sources<'a> {
    observed: &'a Observed,
    uplinks: Vec<u32>,
}

impl<'a> Sources<'a> {
    pub(super) const fn new(observed: &'a Observed, uplinks: Vec<u32>) -> Self {
        Self { observed, uplinks }
    }

    /// Of a device and, where it has none, of its bridge, IPv4 and IPv6; unspecified: none.
    pub(super) fn of(&self, ifindex: u32, bridge: Option<u32>) -> (Addr, Addr) {
        let of = |family| {
            self.own(ifindex, family)
                .or_else(|| self.own(bridge?, family))
                .or_else(|| self.elsewhere(family))
                .unwrap_or(Addr::unspecified(family))
        };
        (of(Family::V4), of(Family::V6))
    }

    /// A device's first address, if possible one of a subnet: a virtual IP of a fail-over pair is a /32 and moves.
    fn own(&self, ifindex: u32, family: Family) -> Option<Addr> {
        self.observed
            .addresses_of(ifindex)
            .filter(|address| address.family() == family && !address.ip.is_loopback())
            .min_by_key(|address| {
                (
                    address.deprecated,
                    address.secondary,
                    Address::is_single_host(address),
                )
            })
            .map(|address| address.ip.into())
    }

    /// For devices without addresses: what the node calls itself to the outside.
    fn elsewhere(&self, family: Family) -> Option<Addr> {
        let routes = || {
            let all = self.observed.default_routes.iter();
            all.filter(move |route| route.family == family)
        };
        let loopback = || {
            let links = self.observed.links.iter();
            links
                .filter(|(_, link)| link.loopback)
                .map(|(&ifindex, _)| ifindex)
        };
        routes()
            .find_map(|route| route.source.map(Addr::from))
            .or_else(|| routes().find_map(|route| self.own(route.ifindex, family)))
            .or_else(|| {
                let mut devices = self.uplinks.iter().copied().chain(loopback());
                devices.find_map(|ifindex| self.own(ifindex, family))
            })
    }
}
