//! Endpoints → the lists that traffic policies choose from (semantics B2, B3, B5; KEP-1669, KEP-2433, KEP-3015).

use proxy_common::abi::meta::List;

use super::{Here, endpoints::Candidate};
use crate::model::Endpoint;

/// The lists of one Service port.
#[derive(Clone, Debug, Default)]
pub struct Categories<'a> {
    /// For the traffic policy Cluster.
    pub cluster: Vec<Candidate<'a>>,
    /// For the traffic policy Local.
    pub local: Vec<Candidate<'a>>,
    /// Whether any endpoint anywhere could serve.
    pub any: bool,
}

impl<'a> Categories<'a> {
    /// One of the two.
    pub fn list(&self, list: List) -> &[Candidate<'a>] {
        match list {
            List::Cluster => &self.cluster,
            List::Local => &self.local,
        }
    }
}

/// Which hints count on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    SameNode,
    SameZone,
    All,
}

/// Sorts the endpoints into lists. Keeps their order.
pub fn categorize<'a>(candidates: &[Candidate<'a>], here: Here<'_>) -> Categories<'a> {
    let of = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<Candidate<'a>> {
        candidates
            .iter()
            .filter(|c| wanted(c.endpoint()))
            .copied()
            .collect()
    };
    let leaving = |e: &Endpoint| e.serving && e.terminating;
    let mine = |e: &Endpoint| is_local(e, here);

    let topology = topology(candidates, here);
    let mut cluster = of(&|e| e.ready && topology.allows(e, here));
    if cluster.is_empty() {
        // Hints never leave nobody, so no endpoint is ready at all.
        cluster = of(&leaving);
    }
    let mut local = of(&|e| e.ready && mine(e));
    if local.is_empty() {
        local = of(&|e| leaving(e) && mine(e));
    }
    Categories {
        any: !cluster.is_empty(),
        cluster,
        local,
    }
}

/// Whether an endpoint is this node's. Where it runs is what its slice says: an address of this node alone does not make
/// it this node's (the API server's endpoints have no node name), as in kube-proxy.
pub(super) fn is_local(endpoint: &Endpoint, here: Here<'_>) -> bool {
    endpoint.node.as_deref() == Some(here.name)
}

fn topology(candidates: &[Candidate<'_>], here: Here<'_>) -> Topology {
    let ready = || {
        candidates
            .iter()
            .map(Candidate::endpoint)
            .filter(|e| e.ready)
    };
    for topology in [Topology::SameNode, Topology::SameZone] {
        if ready().all(|e| topology.hinted(e)) && ready().any(|e| topology.allows(e, here)) {
            return topology;
        }
    }
    Topology::All
}

impl Topology {
    fn hinted(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::SameNode => !endpoint.node_hints.is_empty(),
            Self::SameZone => !endpoint.zone_hints.is_empty(),
            Self::All => true,
        }
    }

    fn allows(self, endpoint: &Endpoint, here: Here<'_>) -> bool {
        match self {
            Self::SameNode => endpoint.node_hints.contains(here.name),
            Self::SameZone => here
                .zone
                .is_some_and(|zone| endpoint.zone_hints.contains(zone)),
            Self::All => true,
        }
    }
}

#[cfg(test)]
mod tests;
