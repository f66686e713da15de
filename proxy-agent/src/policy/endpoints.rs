//! Slices → the endpoints of one Service port (semantics S5).

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    net::IpAddr,
};

use proxy_common::addr::Family;

use super::{Here, frontends::PortKey};
use crate::{
    model::{Endpoint, EndpointSlice},
    plan::{BackendPlan, Protocol},
};

/// One endpoint of a Service port.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    endpoint: &'a Endpoint,
    port: u16,
    weight: u32,
}

impl<'a> Candidate<'a> {
    /// An endpoint at a port.
    pub const fn new(endpoint: &'a Endpoint, port: u16, weight: u32) -> Self {
        Self {
            endpoint,
            port,
            weight,
        }
    }

    /// The endpoint.
    pub const fn endpoint(&self) -> &'a Endpoint {
        self.endpoint
    }

    /// What makes it one: address and port.
    pub const fn key(&self) -> (IpAddr, u16) {
        (self.endpoint.address, self.port)
    }

    /// Whether established flows may go on.
    pub(super) const fn serves(&self) -> bool {
        self.endpoint.ready || self.endpoint.serving
    }

    /// As a backend.
    pub(super) fn backend(&self, here: Here<'_>) -> BackendPlan {
        let Endpoint {
            address,
            node,
            zone,
            terminating,
            ..
        } = self.endpoint;
        BackendPlan {
            address: *address,
            port: self.port,
            local: node.as_deref() == Some(here.name) || here.addresses.contains(address),
            node: node.clone(),
            zone: zone.clone(),
            weight: self.weight,
            terminating: *terminating,
        }
    }

    /// Of two with the same address and port, the smaller counts. That one is terminating decides; beyond it, what
    /// serves better.
    const fn precedence(&self) -> (bool, bool, bool) {
        let e = self.endpoint;
        (e.terminating, !e.ready, !e.serving)
    }
}

/// The slices of a Service by the ports that they name: each is looked at once, not once for each port of the Service.
#[derive(Debug)]
pub struct Slices<'a> {
    by_port: HashMap<(Family, Protocol, &'a str), Vec<AtPort<'a>>>,
}

/// A slice and the number of one of its ports.
type AtPort<'a> = (&'a EndpointSlice, u16);

impl<'a> Slices<'a> {
    /// Sorts slices, which come by name.
    pub fn new(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Self {
        let mut by_port: HashMap<_, Vec<_>> = HashMap::new();
        for slice in slices {
            for port in &slice.ports {
                let key = (slice.family, port.protocol, port.name.as_str());
                by_port.entry(key).or_default().push((slice, port.port));
            }
        }
        Self { by_port }
    }

    fn of<'b>(&'b self, family: Family, protocol: Protocol, name: &'b str) -> &'b [AtPort<'a>] {
        let found = self.by_port.get(&(family, protocol, name));
        found.map_or(&[], Vec::as_slice)
    }

    /// How many endpoints a port has at most: some may be the same.
    pub fn count(&self, family: Family, protocol: Protocol, name: &str) -> usize {
        let slices = self.of(family, protocol, name).iter();
        slices.map(|(slice, _)| slice.endpoints.len()).sum()
    }

    /// The endpoints of a port, sorted by address and port, each once. Where nothing else tells two apart, the one of
    /// the first slice by name counts.
    pub fn merge(&self, port: &PortKey) -> Vec<Candidate<'a>> {
        let mut merged: BTreeMap<(IpAddr, u16), Candidate<'a>> = BTreeMap::new();
        for &(slice, number) in self.of(port.family, port.protocol, &port.name) {
            for endpoint in &slice.endpoints {
                let candidate = Candidate::new(endpoint, number, slice.weight);
                match merged.entry(candidate.key()) {
                    Entry::Vacant(entry) => {
                        entry.insert(candidate);
                    }
                    Entry::Occupied(mut entry) => {
                        if candidate.precedence() < entry.get().precedence() {
                            entry.insert(candidate);
                        }
                    }
                }
            }
        }
        merged.into_values().collect()
    }
}
