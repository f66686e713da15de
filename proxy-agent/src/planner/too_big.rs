//! Services that no node can hold. They are found before the work is done that they would cause: one object of a few
//! hundred kilobytes can name so many ports, addresses and endpoints that all pairs of them fill the memory.

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

/// Pairs of an endpoint and a port. Twice what the map holds, as slices name an endpoint twice while it moves from one
/// to another.
pub(super) const MOST_BACKENDS: usize = 2 * capacity::BACKENDS as usize;

/// The Services that are too big now.
#[derive(Debug, Default)]
pub(super) struct TooBig {
    claims: BTreeSet<ServiceName>,
    endpoints: BTreeSet<ServiceName>,
    news: Vec<Problem>,
}

impl TooBig {
    /// A Service claims too much. Returns what is to be said of it, once.
    pub fn add_claims(&mut self, name: &ServiceName) -> Option<Problem> {
        self.claims.insert(name.clone()).then(|| claims(name))
    }

    /// It does not; says whether it did.
    pub fn remove_claims(&mut self, name: &ServiceName) -> bool {
        self.claims.remove(name)
    }

    /// Whether a Service claims too much.
    pub fn has_claims(&self, name: &ServiceName) -> bool {
        self.claims.contains(name)
    }

    /// A Service has too many endpoints.
    pub fn add_endpoints(&mut self, name: &ServiceName) {
        if self.endpoints.insert(name.clone()) {
            self.news.push(endpoints(name));
        }
    }

    /// It has not.
    pub fn remove_endpoints(&mut self, name: &ServiceName) {
        self.endpoints.remove(name);
    }

    /// What is to be said since the last call.
    pub fn take_news(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.news)
    }

    /// All of them.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.claims.union(&self.endpoints)
    }

    /// What is wrong with those that claim too much.
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

/// What is wrong with a Service that has too many endpoints.
pub(super) fn endpoints(name: &ServiceName) -> Problem {
    problem(name, "endpoints", MOST_BACKENDS)
}

fn problem(name: &ServiceName, what: &str, most: usize) -> Problem {
    Problem {
        object: ObjectRef::namespaced("Service", &name.namespace, &name.name),
        message: format!(
            "its ports and {what} make more than {most} pairs, more than a node can serve; it stays here as it was before"
        ),
    }
}
