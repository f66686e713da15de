//! Which sockets a backend's end concerns.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::{
    abi::{
        frontend::{FrontendKey, Scope},
        socket::{SocketFrontend, SocketKey},
    },
    addr::Addr,
};
use zerocopy::network_endian::U16;

use crate::{
    dataplane::sys::sock_diag::{self, Connected},
    delta::Gone,
};

/// Places of backends that are gone, by protocol, and the Service ports that had them: the same endpoint may go on serving
/// another.
#[derive(Debug, Default)]
pub struct Lost(BTreeMap<(u8, Addr, U16), BTreeSet<u32>>);

impl Lost {
    pub fn new<'a>(gone: impl IntoIterator<Item = &'a Gone>) -> Self {
        let mut places: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for gone in gone {
            let address = Addr::from(gone.address);
            let place = (gone.protocol as u8, address, U16::new(gone.port));
            places.entry(place).or_default().insert(gone.owner);
        }
        Self(places)
    }

    /// Whether a socket was sent to one of these places.
    pub fn may_have(&self, key: &SocketKey) -> bool {
        self.0.contains_key(&place(key))
    }

    /// … and by a Service port that has lost it; `owner` is that which the socket's frontend leads to now. A frontend
    /// that leads nowhere went together with its backends.
    pub fn has(&self, key: &SocketKey, owner: Option<u32>) -> bool {
        let owners = self.0.get(&place(key));
        owners.is_some_and(|owners| owner.is_none_or(|owner| owners.contains(&owner)))
    }
}

const fn place(key: &SocketKey) -> (u8, Addr, U16) {
    (key.protocol, key.addr, key.port)
}

/// Where the frontend of a socket may stand in `FRONTENDS`, as the hooks look it up: under its address, else as a node
/// port.
pub fn frontend_keys(protocol: u8, frontend: &SocketFrontend) -> [FrontendKey; 2] {
    let unspecified = Addr::unspecified(frontend.addr.family());
    [frontend.addr, unspecified].map(|addr| FrontendKey {
        addr,
        port: frontend.port,
        protocol,
        scope: Scope::Cluster as u8,
    })
}

/// Under what a connected socket stands in `SOCKET_FRONTENDS`.
pub fn key_of(protocol: sock_diag::Protocol, socket: &Connected) -> SocketKey {
    SocketKey {
        cookie: socket.cookie(),
        addr: socket.peer(),
        port: socket.peer_port(),
        protocol: protocol as u8,
        pad: [0; 5],
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::plan::Protocol;

    fn gone(address: &str, protocol: Protocol, owner: u32) -> Gone {
        Gone {
            address: address.parse().expect("an address"),
            port: 53,
            protocol,
            owner,
            id: 1,
            generation: 1,
        }
    }

    fn key(address: &str, port: u16, protocol: Protocol) -> SocketKey {
        SocketKey {
            cookie: 1,
            addr: Addr::from(address.parse::<IpAddr>().expect("an address")),
            port: U16::new(port),
            protocol: protocol as u8,
            pad: [0; 5],
        }
    }

    #[test]
    fn l6_sockets_of_the_place_that_is_gone_and_of_no_other_are_chosen() {
        let lost = Lost::new(&[
            gone("10.0.0.1", Protocol::Udp, 7),
            gone("fd00::1", Protocol::Udp, 8),
            gone("10.0.0.2", Protocol::Tcp, 7),
        ]);
        for (address, port, protocol, owner, chosen) in [
            ("10.0.0.1", 53, Protocol::Udp, 7, true),
            ("fd00::1", 53, Protocol::Udp, 8, true),
            ("10.0.0.1", 54, Protocol::Udp, 7, false),
            ("10.0.0.1", 53, Protocol::Tcp, 7, false),
            ("10.0.0.2", 53, Protocol::Udp, 7, false),
            ("10.0.0.2", 53, Protocol::Tcp, 7, true),
            ("10.0.0.3", 53, Protocol::Udp, 7, false),
        ] {
            let key = key(address, port, protocol);
            assert_eq!(lost.may_have(&key), chosen, "{key:?}");
            assert_eq!(lost.has(&key, Some(owner)), chosen, "{key:?}");
        }
    }

    #[test]
    fn l6_another_service_with_the_same_endpoint_keeps_its_sockets() {
        let gone = [
            gone("10.0.0.1", Protocol::Udp, 7),
            gone("10.0.0.1", Protocol::Udp, 9),
        ];
        let key = key("10.0.0.1", 53, Protocol::Udp);
        let one = Lost::new(&gone[..1]);
        assert!(one.has(&key, Some(7)) && !one.has(&key, Some(9)));
        let both = Lost::new(&gone);
        assert!(both.has(&key, Some(7)) && both.has(&key, Some(9)));
        // The frontend is gone too.
        assert!(one.has(&key, None));
    }

    #[test]
    fn a_frontend_is_looked_for_as_a_node_port_of_its_family_too() {
        for (address, unspecified) in [
            ("192.0.2.1", Addr::UNSPECIFIED_V4),
            ("2001:db8::1", Addr::UNSPECIFIED_V6),
        ] {
            let addr = Addr::from(address.parse::<IpAddr>().expect("an address"));
            let frontend = SocketFrontend {
                addr,
                port: U16::new(30_053),
                pad: [0; 6],
            };
            let keys = frontend_keys(Protocol::Udp as u8, &frontend);
            assert_eq!(keys.map(|key| key.addr), [addr, unspecified]);
            assert!(keys.iter().all(|key| key.port == frontend.port
                && key.protocol == Protocol::Udp as u8
                && key.scope == 0));
        }
    }
}
