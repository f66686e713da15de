//! Events in, plans of changed Services out: the store, the claims and the policy behind one door.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proxy_common::{abi::frontend::FrontendKind, addr::Family};

mod too_big;

use self::too_big::TooBig;
use crate::{
    claims::{ClaimKey, Claimant, Claims, Outcome},
    model::{Change, EndpointSlice, Event, Node, ObjectRef, Problem, Service, SliceName},
    plan::{FrontendAddress, Protocol, ServiceName, ServicePlan},
    policy::{self, Here, Options, endpoints::Slices, frontends},
    store::Store,
};

/// Claims of one Service that are newly lost are told one by one up to this number. A Service can lose hundreds of
/// thousands at once; the command `plan` lists them all.
const MOST_TOLD: usize = 100;

/// What a [`Planner`] must be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlannerConfig {
    /// Name of this node (`--hostname-override`).
    pub node_name: String,
    /// Options of the rules.
    pub options: Options,
    /// Whether the source may name a slice before its Service, as two watches do: then that is nothing to report.
    pub slices_may_come_first: bool,
}

/// Keeps the plan of every Service. Pure: no clock, no I/O.
#[derive(Debug, Default)]
pub struct Planner {
    config: PlannerConfig,
    store: Store,
    claims: Claims,
    node_addresses: BTreeSet<IpAddr>,
    dirty: BTreeSet<ServiceName>,
    /// Services of which nothing changed that concerns another Service: these may be planned later.
    may_rest: BTreeSet<ServiceName>,
    /// Those of them that the last call left for later.
    resting: BTreeSet<ServiceName>,
    /// Services whose plan, as handed out, was not empty, and those that are too big, of which the maps may have
    /// something from an earlier agent.
    handed_out: BTreeSet<ServiceName>,
    /// Services that are too big for any node, and what is said of them. What they were before stays.
    too_big: TooBig,
    synced: bool,
    triggers: Vec<Trigger>,
}

/// A change of endpoints, and when what caused it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Whose endpoints.
    pub service: ServiceName,
    /// Of which family.
    pub family: Family,
    /// Nanoseconds since 1970.
    pub at: i128,
}

impl Planner {
    /// A planner that knows nothing yet.
    pub fn new(config: PlannerConfig) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// Takes in one event; returns what is newly wrong with the objects in their relation to each other. (What is
    /// wrong within one object is reported by its source.)
    pub fn apply(&mut self, event: Event) -> Vec<Problem> {
        match event {
            Event::Service(change) => self.apply_service(change),
            Event::Slice(change) => self.apply_slice(change),
            Event::Node(change) => {
                self.apply_node(change);
                Vec::new()
            }
            Event::Synced => {
                let first = !std::mem::replace(&mut self.synced, true);
                if first { self.orphans() } else { Vec::new() }
            }
        }
    }

    /// Replaces this node's addresses, with which `local` and claims are decided. Loopback addresses may be among
    /// them.
    pub fn set_node_addresses(&mut self, addresses: BTreeSet<IpAddr>) -> Vec<Problem> {
        let moved: BTreeSet<IpAddr> = self
            .node_addresses
            .symmetric_difference(&addresses)
            .copied()
            .collect();
        if moved.is_empty() {
            return Vec::new();
        }
        self.dirty_where(|slice| slice.endpoints.iter().any(|e| moved.contains(&e.address)));
        // Source ranges judge the node's own processes by its addresses (semantics A3).
        let judging = self.store.services().filter(|s| s.source_ranges.is_some());
        self.dirty
            .extend(judging.map(|service| service.name.clone()));
        self.node_addresses.clone_from(&addresses);
        let outcome = self.claims.set_node_addresses(addresses);
        self.take_outcome(outcome)
    }

    /// Whether the source's first full list is complete. Before that nothing may be removed from the maps.
    pub const fn is_synced(&self) -> bool {
        self.synced
    }

    /// This node's object, if the source has named it.
    pub fn node(&self) -> Option<&Node> {
        self.store.node()
    }

    /// The plans of all Services that may have changed since the last call; a Service that is gone, or means nothing
    /// here any more, has an empty one.
    pub fn take_changes(&mut self) -> Vec<(ServiceName, ServicePlan)> {
        self.take_changes_but(|_| false)
    }

    /// The same, but Services that are to rest are left for a later call, unless what changed concerns others too.
    pub fn take_changes_but(
        &mut self,
        rests: impl Fn(&ServiceName) -> bool,
    ) -> Vec<(ServiceName, ServicePlan)> {
        let mut changes = Vec::new();
        let mut names = std::mem::take(&mut self.dirty);
        self.may_rest.retain(|name| !names.contains(name));
        names.extend(self.may_rest.extract_if(.., |name| !rests(name)));
        self.resting.clone_from(&self.may_rest);
        for name in names {
            if self.too_big.has_claims(&name) && self.store.service(&name).is_none() {
                continue;
            }
            let Some(plan) = self.plan(&name) else {
                self.too_big.add_endpoints(&name);
                self.handed_out.insert(name);
                continue;
            };
            self.too_big.remove_endpoints(&name);
            let known = if plan == ServicePlan::default() {
                self.handed_out.remove(&name)
            } else {
                self.handed_out.insert(name.clone());
                true
            };
            if known {
                changes.push((name, plan));
            }
        }
        changes
    }

    /// What [`Planner::take_changes`] found newly wrong: Services that are too big.
    pub fn take_problems(&mut self) -> Vec<Problem> {
        self.too_big.take_news()
    }

    /// Services that stay as they were, because they have become too big.
    pub fn left_alone(&self) -> impl Iterator<Item = &ServiceName> {
        self.too_big.services()
    }

    /// The changes of endpoints since the last call of which it is known when what caused them happened, once their
    /// Services are planned.
    pub fn take_triggers(&mut self) -> Vec<Trigger> {
        let planned = |trigger: &mut Trigger| !self.resting.contains(&trigger.service);
        self.triggers.extract_if(.., planned).collect()
    }

    /// The plans of all Services that mean something here, whether they changed or not.
    pub fn plan_all(&self) -> BTreeMap<ServiceName, ServicePlan> {
        self.store
            .services()
            .filter_map(|service| Some((service.name.clone(), self.plan(&service.name)?)))
            .filter(|(_, plan)| *plan != ServicePlan::default())
            .collect()
    }

    /// All that is wrong now with the objects in their relation to each other.
    pub fn problems(&self) -> Vec<Problem> {
        let lost = self
            .claims
            .lost()
            .filter(|(claimant, ..)| self.is_ours(&claimant.service))
            .map(|(claimant, key, rival)| self.lost_claim(claimant, key, rival));
        let too_big = self.store.services().filter(|s| self.plan_is_too_big(s));
        let too_big = too_big.map(|service| too_big::endpoints(&service.name));
        lost.chain(self.orphans())
            .chain(self.too_big.claims())
            .chain(too_big)
            .collect()
    }

    /// `None` if it is too big.
    fn plan(&self, name: &ServiceName) -> Option<ServicePlan> {
        let Some(service) = self.store.service(name) else {
            return Some(ServicePlan::default());
        };
        let here = Here {
            name: &self.config.node_name,
            zone: self.store.node().and_then(|node| node.zone.as_deref()),
            addresses: &self.node_addresses,
        };
        let (slices, options) = (Slices::new(self.store.slices(name)), &self.config.options);
        let most = policy::most_backends(service, &slices, options);
        (most <= too_big::MOST_BACKENDS).then(|| {
            policy::plan(service, &slices, here, options, |key| {
                self.claims.rival(key, name).is_none()
            })
        })
    }

    fn apply_service(&mut self, change: Change<Service, ServiceName>) -> Vec<Problem> {
        let name = match &change {
            Change::Upsert(service) => &service.name,
            Change::Delete(name) => name,
        };
        if let Change::Upsert(service) = &change
            && frontends::most_claims(service) > too_big::MOST_CLAIMS
        {
            self.handed_out.insert(name.clone());
            return self.too_big.add_claims(name).into_iter().collect();
        }
        if self.too_big.remove_claims(name) {
            // An earlier agent may have programmed it.
            self.dirty.insert(name.clone());
        }
        let (name, created, claims) = match &change {
            Change::Upsert(service) => (
                service.name.clone(),
                service.created,
                if self.config.options.is_ours(service) {
                    frontends::claims(service)
                } else {
                    frontends::cluster_ip_claims(service)
                },
            ),
            Change::Delete(name) => (name.clone(), None, BTreeMap::new()),
        };
        if !self.store.apply_service(change) {
            return Vec::new();
        }
        let outcome = self.claims.set(&name, created, claims);
        if self.store.service(&name).is_some() && outcome.replan.is_empty() {
            self.may_rest.insert(name);
        } else {
            self.dirty.insert(name);
        }
        self.take_outcome(outcome)
    }

    fn apply_slice(&mut self, change: Change<EndpointSlice, SliceName>) -> Vec<Problem> {
        let orphan = match &change {
            Change::Upsert(slice) if self.synced => self.orphan(slice),
            _ => None,
        };
        let trigger = match &change {
            Change::Upsert(slice) => slice.triggered.map(|at| Trigger {
                service: slice.service.clone(),
                family: slice.family,
                at,
            }),
            Change::Delete(_) => None,
        };
        let touched = self.store.apply_slice(change);
        let changed = !touched.is_empty();
        // One that is named again as it was, in a new list, happened long ago.
        self.triggers.extend(trigger.filter(|_| changed));
        self.may_rest.extend(touched);
        orphan.filter(|_| changed).into_iter().collect()
    }

    fn apply_node(&mut self, change: Change<Node, String>) {
        let node = match change {
            Change::Upsert(node) if node.name == self.config.node_name => Some(node),
            Change::Delete(name) if name == self.config.node_name => None,
            Change::Upsert(_) | Change::Delete(_) => return,
        };
        let zone_of = |node: Option<&Node>| node.and_then(|node| node.zone.clone());
        if zone_of(self.store.node()) != zone_of(node.as_ref()) {
            self.dirty_where(|slice| slice.endpoints.iter().any(|e| !e.zone_hints.is_empty()));
        }
        self.store.set_node(node);
    }

    fn dirty_where(&mut self, touches: impl Fn(&EndpointSlice) -> bool) {
        let names: BTreeSet<ServiceName> = self
            .store
            .all_slices()
            .filter(|slice| touches(slice))
            .map(|slice| slice.service.clone())
            .collect();
        self.dirty.extend(names);
    }

    fn take_outcome(&mut self, outcome: Outcome) -> Vec<Problem> {
        let mut told: BTreeMap<&ServiceName, usize> = BTreeMap::new();
        let problems = outcome
            .lost
            .iter()
            .filter(|(service, _)| self.is_ours(service))
            .filter(|(service, _)| {
                let count = told.entry(service).or_default();
                *count += 1;
                *count <= MOST_TOLD
            })
            .filter_map(|(service, key)| {
                let claimant = self.claims.claimant(key, service)?;
                Some(self.lost_claim(claimant, key, self.claims.rival(key, service)?))
            })
            .collect();
        self.dirty.extend(outcome.replan);
        problems
    }

    fn is_ours(&self, name: &ServiceName) -> bool {
        self.store
            .service(name)
            .is_some_and(|service| self.config.options.is_ours(service))
    }

    fn orphans(&self) -> Vec<Problem> {
        self.store
            .all_slices()
            .filter_map(|slice| self.orphan(slice))
            .collect()
    }

    fn orphan(&self, slice: &EndpointSlice) -> Option<Problem> {
        let missing = self.store.service(&slice.service).is_none();
        (missing && !self.config.slices_may_come_first).then(|| Problem {
            object: ObjectRef::namespaced("EndpointSlice", &slice.name.namespace, &slice.name.name),
            message: format!(
                "its Service {} does not exist; its endpoints wait for it",
                slice.service
            ),
        })
    }

    fn is_health_check(&self, name: &ServiceName, key: &ClaimKey) -> bool {
        let service = self.store.service(name);
        key.protocol == Protocol::Tcp
            && service.is_some_and(|service| service.health_check_node_port == Some(key.port))
    }

    fn lost_claim(&self, claimant: &Claimant, key: &ClaimKey, rival: &Claimant) -> Problem {
        let protocol = match key.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        };
        let what = match (claimant.kind, key.address) {
            (_, FrontendAddress::Node(_)) if self.is_health_check(&claimant.service, key) => {
                format!("health check node port {}", key.port)
            }
            (_, FrontendAddress::Node(_)) => format!("node port {}/{protocol}", key.port),
            (FrontendKind::ExternalIp, FrontendAddress::Ip(ip)) => {
                format!("external IP {ip}, port {}/{protocol}", key.port)
            }
            (FrontendKind::LoadBalancer, FrontendAddress::Ip(ip)) => {
                format!("load balancer address {ip}, port {}/{protocol}", key.port)
            }
            (_, FrontendAddress::Ip(ip)) => format!("ClusterIP {ip}, port {}/{protocol}", key.port),
        };
        let why = match (rival.kind, claimant.kind) {
            (FrontendKind::ClusterIp, kind) if kind != FrontendKind::ClusterIp => {
                format!("is a ClusterIP of Service {}", rival.service)
            }
            (FrontendKind::NodePort, kind) if kind != FrontendKind::NodePort => {
                format!("is a node port of Service {} on this node", rival.service)
            }
            _ => format!("belongs to Service {}, which came first", rival.service),
        };
        Problem {
            object: ObjectRef::namespaced(
                "Service",
                &claimant.service.namespace,
                &claimant.service.name,
            ),
            message: format!("{what} {why}; it is left out here until that one goes"),
        }
    }
}

#[cfg(test)]
mod tests;
