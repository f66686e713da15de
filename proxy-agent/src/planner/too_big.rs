//! Services that fit on no node. They are detected before their plan is computed: one object of a few hundred kilobytes can
//! name so many ports, addresses and endpoints that the list of all pairs exhausts the memory.

use std::collections::BTreeSet;

use proxy_common::abi::capacity;

use super::Planner;
use crate::{
    model::{ObjectRef, Problem, Service},
    plan::ServiceName,
    policy::{self, endpoints::Slices},
};

/// Pairs of an address and a port. One Service alone can't have more frontends than the map holds.
pub(super) const MOST_CLAIMS: usize = capacity::FRONTENDS as usize;

/// Pairs of an endpoint and a port. This is twice the capacity of the map, because two slices name an endpoint while it
/// moves from one slice to the other.
pub(super) const MOST_BACKENDS: usize = 2 * capacity::BACKENDS as usize;

/// The Services that are too big now.
#[derive(Debug, Default)]
pub(super) struct TooBig {
    claims: BTreeSet<ServiceName>,
    endpoints: BTreeSet<ServiceName>,
    news: Vec<Problem>,
}

impl TooBig {
    /// Records that a Service claims too much. Returns the problem, the first time.
    pub fn add_claims(&mut self, name: &ServiceName) -> Option<Problem> {
        self.claims.insert(name.clone()).then(|| claims(name))
    }

    /// Records that a Service does not claim too much. Returns whether it did before.
    pub fn remove_claims(&mut self, name: &ServiceName) -> bool {
        self.claims.remove(name)
    }

    /// Whether a Service claims too much.
    pub fn has_claims(&self, name: &ServiceName) -> bool {
        self.claims.contains(name)
    }

    /// Records that a Service has too many endpoints.
    pub fn add_endpoints(&mut self, name: &ServiceName) {
        if self.endpoints.insert(name.clone()) {
            self.news.push(endpoints(name));
        }
    }

    /// Records that a Service does not have too many endpoints.
    pub fn remove_endpoints(&mut self, name: &ServiceName) {
        self.endpoints.remove(name);
    }

    /// Problems that are new since the last call.
    pub fn take_news(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.news)
    }

    /// All Services that are too big.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.claims.union(&self.endpoints)
    }

    /// The problems of Services that claim too much.
    pub fn claims(&self) -> impl Iterator<Item = Problem> {
        self.claims.iter().map(claims)
    }
}

impl Planner {
    /// Whether a Service has too many endpoints.
    pub(super) fn plan_is_too_big(&self, service: &Service) -> bool {
        let slices = Slices::new(self.store.slices(&service.name));
        let most = policy::most_backends(service, &slices, &self.config.options);
        most > MOST_BACKENDS
    }
}

fn claims(name: &ServiceName) -> Problem {
    problem(name, "addresses", MOST_CLAIMS)
}

/// The problem of a Service that has too many endpoints.
pub(super) fn endpoints(name: &ServiceName) -> Problem {
    problem(name, "endpoints", MOST_BACKENDS)
}

fn problem(name: &ServiceName, what: &str, most: usize) -> Problem {
    Problem {
        object: ObjectRef::service(name),
        message: format!(
            "its ports and {what} make more than {most} pairs, more than a node can serve; it stays here as it was before"
        ),
    }
}
