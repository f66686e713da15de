//! The socket hooks: they replace a frontend's address with a backend's when a socket connects or sends.

use zerocopy::network_endian::U16;

use crate::{
    abi::{
        affinity::AffinityKey,
        counter::Counter,
        frontend::{FrontendKind, Scope},
        protocol,
        settings::settings_flags,
        socket::{SocketBackend, SocketFrontend, SocketKey},
        target::{Algorithm, Backend, Slot, TargetState},
    },
    addr::Addr,
    affinity,
    balance::{self, Draw, Found},
    load,
    tables::{SocketTables, Tables},
};

/// Seconds after which an idle unconnected UDP socket loses its backend, like a conntrack entry (semantics L6).
pub const UDP_IDLE_SECONDS: u32 = 120;

/// A socket, and the address in its call.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// Cookie.
    pub cookie: u64,
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    /// IANA protocol number.
    pub protocol: u8,
    /// IPv4 (mapped) or IPv6 address: the destination, or in [`report`] and [`release`] the peer.
    pub addr: Addr,
    /// Port.
    pub port: U16,
}

/// What to do with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Leave its address unchanged.
    Untouched,
    /// Replace its address by this one.
    Use {
        /// Address.
        addr: Addr,
        /// Port.
        port: U16,
    },
    /// Fail with ECONNREFUSED: no endpoint exists that could serve (semantics B5).
    Refuse,
    /// Fail with ETIMEDOUT, as the caller of a dropped packet would after a wait: the source ranges do not admit it
    /// (semantics A3).
    NotAdmitted,
    /// Fail with ETIMEDOUT: endpoints exist, but none that the traffic policy allows here (semantics B5).
    NoLocalEndpoint,
}

impl Socket {
    #[inline(always)]
    fn key(&self, addr: &Addr, port: U16) -> SocketKey {
        SocketKey {
            cookie: self.cookie,
            addr: *addr,
            port,
            protocol: self.protocol,
            pad: [0; 5],
        }
    }
}

/// `connect`.
#[inline(always)]
pub fn connect<T: SocketTables>(t: &mut T, s: &Socket) -> Decision {
    let Some(found) = frontend(t, s) else {
        // The socket may now connect directly to a backend that it reached through a frontend before.
        let key = s.key(&s.addr, s.port);
        if t.socket_frontend(&key).is_some() {
            t.remove_socket_frontend(&key);
        }
        load::socket_ends(t, s.cookie);
        return Decision::Untouched;
    };
    if let Some(refusal) = refusal(t, &found) {
        return refusal;
    }
    let chosen = choose(t, s, &found);
    let counted = matches!(found.word.algorithm(), Algorithm::LeastConnections);
    let load = chosen.filter(|_| counted).map(|(slot, _)| slot);
    load::socket_connects(t, s.cookie, load);
    match chosen {
        Some((_, backend)) => translated(t, s, &backend.addr, backend.port),
        None => Decision::Untouched,
    }
}

/// A backend for a socket: the backend to which its network namespace has affinity, else a new one. In a Maglev
/// table the socket takes a random slot, since only this node handles its connection.
#[inline(always)]
fn choose<T: SocketTables>(t: &mut T, s: &Socket, found: &Found) -> Option<(Slot, Backend)> {
    let client = AffinityKey::of_namespace(found.service, s.netns);
    let chosen = if let Some(kept) = affinity::kept(t, found, &client) {
        kept
    } else {
        let random = t.random();
        let draw = Draw {
            random,
            shared: random,
        };
        let (mut slot, mut backend) = balance::select(t, found, draw)?;
        if found.slow_start != 0 {
            let other = t.reconsider(found, draw, slot);
            if let Some(serving) = balance::serving(t, other) {
                (slot, backend) = (other, serving);
            }
        }
        (slot, backend)
    };
    affinity::keep(t, found, &client, chosen.0);
    Some(chosen)
}

/// `sendto` and `sendmsg` with an address, of a UDP socket. The socket keeps its backend for a frontend as long
/// as the backend serves and the socket is not idle (semantics L6).
#[inline(always)]
pub fn send<T: SocketTables>(t: &mut T, s: &Socket) -> Decision {
    let Some(found) = frontend(t, s) else {
        return Decision::Untouched;
    };
    if let Some(refusal) = refusal(t, &found) {
        return refusal;
    }
    let key = s.key(&s.addr, s.port);
    let (now, hz) = (t.now(), t.settings().hz);
    let kept = t.socket_backend(&key).and_then(|kept| {
        let slot = Slot {
            backend: kept.backend,
            generation: kept.generation,
        };
        let idle = now.wrapping_sub(kept.last_used);
        let backend = balance::serving(t, slot)?;
        if idle > UDP_IDLE_SECONDS * hz {
            return None;
        }
        Some((slot, backend, idle > hz))
    });
    let (slot, backend, write) = if let Some(kept) = kept {
        kept
    } else {
        match choose(t, s, &found) {
            Some((slot, backend)) => (slot, backend, true),
            None => return Decision::Untouched,
        }
    };
    if write {
        t.put_socket_backend(
            &key,
            &SocketBackend {
                backend: slot.backend,
                generation: slot.generation,
                last_used: now,
                pad: 0,
            },
        );
    }
    translated(t, s, &backend.addr, backend.port)
}

/// `recvmsg` and `getpeername`: reports the frontend's address in place of the backend's.
#[inline(always)]
pub fn report<T: SocketTables>(t: &mut T, s: &Socket) -> Decision {
    match t.socket_frontend(&s.key(&s.addr, s.port)) {
        Some(frontend) => Decision::Use {
            addr: frontend.addr,
            port: frontend.port,
        },
        None => Decision::Untouched,
    }
}

/// The socket is closed: removes the entry for its peer, if it has one, and stops counting its connection.
#[inline(always)]
pub fn release<T: SocketTables>(t: &mut T, s: &Socket) {
    load::socket_ends(t, s.cookie);
    if s.port.get() != 0 {
        t.remove_socket_frontend(&s.key(&s.addr, s.port));
    }
}

/// The frontend that a socket addresses. For the node's own processes this includes node ports on loopback
/// addresses (semantics S4).
#[inline(always)]
fn frontend<T: SocketTables>(t: &mut T, s: &Socket) -> Option<Found> {
    let settings = t.settings();
    let host = settings.host_netns_cookie != 0 && settings.host_netns_cookie == s.netns;
    if !host && settings.flags & pods(s.protocol) == 0 {
        return None;
    }
    if s.addr.is_unspecified() || s.addr.is_loopback() {
        return if host {
            balance::node_port(t, &s.addr, s.port, s.protocol, Scope::Cluster)
        } else {
            None
        };
    }
    let own = t.node_addr(&s.addr).is_some();
    let found = balance::frontend(t, &s.addr, s.port, s.protocol, Scope::Cluster)?;
    // An external IP that is also an address of this node takes nothing from the node's own processes. It also
    // must not take over a port that a local socket listens on; only the packet hooks can look that up
    // (semantics S7).
    if own && found.kind == FrontendKind::ExternalIp {
        return None;
    }
    // A pod's socket has no source address yet that could be compared with source ranges, so the packet hooks
    // filter pods (semantics A3). No packet hook sees the node's own processes. They are filtered by the node's
    // addresses, which the agent did when it wrote the target (`REFUSES_NODE`).
    (host || found.ranges == 0).then_some(found)
}

const fn pods(protocol: u8) -> u32 {
    match protocol {
        protocol::TCP => settings_flags::SOCKETS_PODS_TCP,
        protocol::UDP => settings_flags::SOCKETS_PODS_UDP,
        _ => 0,
    }
}

#[inline(always)]
fn refusal<T: Tables>(t: &mut T, found: &Found) -> Option<Decision> {
    if !found.admits_node() {
        t.count(Counter::DropSourceRange);
        return Some(Decision::NotAdmitted);
    }
    match found.word.state() {
        TargetState::Reject => {
            t.count(Counter::RefusedNoEndpoint);
            Some(Decision::Refuse)
        }
        TargetState::Drop => {
            t.count(Counter::DropNoLocalEndpoint);
            Some(Decision::NoLocalEndpoint)
        }
        TargetState::Serve | TargetState::Absent => None,
    }
}

#[inline(always)]
fn translated<T: SocketTables>(t: &mut T, s: &Socket, addr: &Addr, port: U16) -> Decision {
    let key = s.key(addr, port);
    let frontend = SocketFrontend {
        addr: s.addr,
        port: s.port,
        pad: [0; 6],
    };
    if t.socket_frontend(&key) != Some(frontend) {
        t.put_socket_frontend(&key, &frontend);
    }
    t.count(Counter::SocketTranslated);
    Decision::Use { addr: *addr, port }
}
