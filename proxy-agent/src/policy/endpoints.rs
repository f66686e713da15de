//! Slices → the endpoints of one Service port (semantics S5).

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};

use super::{Here, frontends::PortKey};
use crate::{
    model::{Endpoint, EndpointSlice},
    plan::BackendPlan,
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

/// The endpoints of a port, sorted by address and port, each once. Where nothing else tells two apart, the one of
/// the first slice by name counts.
pub fn merge<'a>(slices: &[&'a EndpointSlice], port: &PortKey) -> Vec<Candidate<'a>> {
    let mut merged: BTreeMap<(IpAddr, u16), Candidate<'a>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.family == port.family) {
        let numbers = slice
            .ports
            .iter()
            .filter(|p| p.name == port.name && p.protocol == port.protocol)
            .map(|p| p.port);
        for number in numbers {
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
    }
    merged.into_values().collect()
}
