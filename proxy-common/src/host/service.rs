//! Writes Services into a world's maps, without the agent's planning.

use std::net::SocketAddr;

use zerocopy::network_endian::U16;

use super::{World, segment::endpoint};
use crate::{
    abi::{
        frontend::{FrontendKey, FrontendKind, FrontendValue, Scope},
        meta::List,
        target::{
            Algorithm, Backend, BackendState, BackendWord, Slot, Target, TargetState, TargetWord,
            backend_flags, backend_lists,
        },
    },
    addr::{Addr, Family},
};

/// One port of a Service, with its frontends and backends. The cluster and the local list (semantics B4) are
/// the same.
#[derive(Clone, Debug)]
pub struct Service {
    protocol: u8,
    frontends: Vec<(FrontendKey, FrontendKind)>,
    backends: Vec<(SocketAddr, bool)>,
    state: TargetState,
    algorithm: Algorithm,
    affinity_seconds: u32,
    slow_start: u16,
}

/// Where `add_service` wrote a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Index in `TARGETS`.
    pub target: u32,
    /// Indices in `BACKENDS`, in the order of the Service's backends.
    pub backends: Vec<u32>,
}

impl Service {
    /// A Service port without frontends and backends.
    pub const fn new(protocol: u8) -> Self {
        Self {
            protocol,
            frontends: Vec::new(),
            backends: Vec::new(),
            state: TargetState::Serve,
            algorithm: Algorithm::Random,
            affinity_seconds: 0,
            slow_start: 0,
        }
    }

    /// With a frontend at `address:port`. A ClusterIP has cluster scope only; other kinds have both scopes.
    #[must_use]
    pub fn frontend(self, kind: FrontendKind, at: &str) -> Self {
        let at = endpoint(at);
        let service = self.scoped(kind, at, Scope::Cluster);
        if kind == FrontendKind::ClusterIp {
            service
        } else {
            service.scoped(kind, at, Scope::External)
        }
    }

    /// With a frontend of one scope.
    #[must_use]
    pub fn scoped(mut self, kind: FrontendKind, at: SocketAddr, scope: Scope) -> Self {
        let key = FrontendKey {
            addr: Addr::from(at.ip()),
            port: U16::new(at.port()),
            protocol: self.protocol,
            scope: scope as u8,
        };
        self.frontends.push((key, kind));
        self
    }

    /// With a node port, in both scopes.
    #[must_use]
    pub fn node_port(self, family: Family, port: u16) -> Self {
        let at = SocketAddr::new(Addr::unspecified(family).to_ip(), port);
        self.scoped(FrontendKind::NodePort, at, Scope::Cluster)
            .scoped(FrontendKind::NodePort, at, Scope::External)
    }

    /// With a backend that is not on this node.
    #[must_use]
    pub fn backend(mut self, at: &str) -> Self {
        self.backends.push((endpoint(at), false));
        self
    }

    /// With a backend on this node.
    #[must_use]
    pub fn local_backend(mut self, at: &str) -> Self {
        self.backends.push((endpoint(at), true));
        self
    }

    /// With another algorithm than random. For Maglev, each backend still has a single slot.
    #[must_use]
    pub const fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// With `sessionAffinity` and this timeout.
    #[must_use]
    pub const fn affinity(mut self, seconds: u32) -> Self {
        self.affinity_seconds = seconds;
        self
    }

    /// With slow start of this duration. Backends are not new until [`World::begin`] makes them so.
    #[must_use]
    pub const fn slow_start(mut self, seconds: u16) -> Self {
        self.slow_start = seconds;
        self
    }

    /// With this state instead of `Serve`.
    #[must_use]
    pub const fn state(mut self, state: TargetState) -> Self {
        self.state = state;
        self
    }
}

impl World {
    /// Appends a Service to the maps: its frontends, a target, and one slot per backend.
    pub fn add_service(&self, service: &Service) -> Placed {
        let id = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let target = id(self.targets.written().len()).max(1);
        let offset = id(self.slots.written().len());
        let backends: Vec<u32> = service
            .backends
            .iter()
            .map(|(at, local)| self.add_backend(*at, service.protocol, *local))
            .collect();
        for (index, &backend) in (offset..).zip(&backends) {
            let generation = self.generation(backend);
            self.slots.set(
                index,
                Slot {
                    backend,
                    generation,
                },
            );
        }
        let count = u16::try_from(backends.len()).unwrap_or(u16::MAX);
        self.targets.set(
            target,
            Target {
                word: TargetWord::new(offset, count, service.state, service.algorithm),
                service: target,
                affinity_seconds: service.affinity_seconds,
                flags: backend_lists::bit(List::Cluster),
                slow_start: service.slow_start,
                ..Target::default()
            },
        );
        for (key, kind) in &service.frontends {
            self.frontends
                .put(*key, FrontendValue::new(key, target, *kind));
        }
        Placed { target, backends }
    }

    /// Appends a serving backend to the maps, and returns its id.
    pub fn add_backend(&self, at: SocketAddr, protocol: u8, local: bool) -> u32 {
        let id = u32::try_from(self.backends.written().len())
            .unwrap_or(u32::MAX)
            .max(1);
        self.backends.set(
            id,
            Backend {
                addr: Addr::from(at.ip()),
                port: U16::new(at.port()),
                protocol,
                flags: if local { backend_flags::LOCAL } else { 0 },
                weight: 1,
                word: BackendWord::new(1, BackendState::Serving).in_lists(backend_lists::ALL),
                since: 0,
            },
        );
        id
    }

    /// Changes a backend's state, as the agent does.
    pub fn set_backend_state(&self, id: u32, state: BackendState) {
        let mut backend = self.backends.get(id).unwrap_or_default();
        let lists = backend.word.lists();
        backend.word = BackendWord::new(backend.word.generation(), state).in_lists(lists);
        self.backends.set(id, backend);
    }

    /// Makes a backend new: it became ready this many seconds ago.
    pub fn begin(&self, id: u32, seconds_ago: u32) {
        let mut backend = self.backends.get(id).unwrap_or_default();
        let ago = u64::from(seconds_ago) * 1_000_000_000;
        backend.since = self.monotonic.get().wrapping_sub(ago);
        self.backends.set(id, backend);
    }

    /// Replaces a target's backends and state, with a new range of slots, as the agent does.
    pub fn point(&self, target: u32, backends: &[u32], state: TargetState) {
        let offset = u32::try_from(self.slots.written().len()).unwrap_or(u32::MAX);
        let mut value = self.targets.get(target).unwrap_or_default();
        for old in 0..u32::from(value.word.count()) {
            let slot = self
                .slots
                .get(value.word.offset() + old)
                .unwrap_or_default();
            self.list(slot.backend, 0);
        }
        for (index, &backend) in (offset..).zip(backends) {
            let generation = self.generation(backend);
            self.slots.set(
                index,
                Slot {
                    backend,
                    generation,
                },
            );
            self.list(backend, backend_lists::ALL);
        }
        let count = u16::try_from(backends.len()).unwrap_or(u16::MAX);
        value.word = TargetWord::new(offset, count, state, value.word.algorithm());
        self.targets.set(target, value);
    }

    fn list(&self, backend: u32, lists: u8) {
        let mut value = self.backends.get(backend).unwrap_or_default();
        value.word = value.word.in_lists(lists);
        self.backends.set(backend, value);
    }

    fn generation(&self, backend: u32) -> u32 {
        self.backends
            .get(backend)
            .map_or(0, |backend| backend.word.generation())
    }
}
