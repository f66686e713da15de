//! What load balancers are told about a Service (semantics H1, KEP-3836).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proxy_common::addr::Family;

use super::{Here, endpoints::Candidate, frontends, topology::is_local};
use crate::{claims::ClaimKey, model::Service, plan::HealthCheck};

/// Counts the endpoints that are ready here.
pub(super) struct Tally {
    port: Option<u16>,
    /// Families in which the port is the Service's. A pod counts once, on however many ports it listens.
    ready: BTreeMap<Family, BTreeSet<IpAddr>>,
}

impl Tally {
    pub fn of(service: &Service, owns: impl Fn(&ClaimKey) -> bool) -> Self {
        let keys = frontends::health_check_keys(service).filter(owns);
        Self {
            port: service.health_check_node_port,
            ready: keys
                .map(|key| (frontends::family(&key), BTreeSet::new()))
                .collect(),
        }
    }

    /// Takes in the endpoints of one port.
    pub fn count(&mut self, family: Family, candidates: &[Candidate<'_>], here: Here<'_>) {
        if let Some(ready) = self.ready.get_mut(&family) {
            let endpoints = candidates.iter().map(Candidate::endpoint);
            let here = endpoints.filter(|e| e.ready && is_local(e, here));
            ready.extend(here.map(|e| e.address));
        }
    }

    pub fn finish(self) -> Option<HealthCheck> {
        let port = self.port.filter(|_| !self.ready.is_empty())?;
        let ready = self.ready.into_iter();
        Some(HealthCheck {
            port,
            ready: ready.map(|(family, ips)| (family, ips.len())).collect(),
        })
    }
}
