//! What a Service means on this node: one pure function of the Service, its slices, the node and the claims.

pub mod endpoints;
pub mod frontends;
mod health;
pub mod topology;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use proxy_common::abi::{meta::List, target::Algorithm};

use self::{
    endpoints::{Candidate, Slices},
    topology::categorize,
};
use crate::{
    claims::ClaimKey,
    model::{Service, Sharing},
    plan::{Empty, FrontendPlan, Protocol, ServicePlan, Sources, TargetPlan},
};

/// What the rules depend on besides objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Services with this `service.kubernetes.io/service-proxy-name` are ours too (semantics S2).
    pub service_proxy_name: Option<String>,
    /// A ClusterIP answers from outside too (semantics S6).
    pub external_cluster_ip: bool,
    /// How backends are chosen where a Service does not say.
    pub default_algorithm: Algorithm,
    /// `loadBalancerSourceRanges` hold for all frontends (semantics A3).
    pub filter_all_frontends: bool,
    /// For how many seconds backends are new where a Service does not say; 0: they never are.
    pub default_slow_start: u16,
    /// TCP connections to endpoints that are deleted end, so it must be known of those that do not serve that they are not.
    pub end_tcp: bool,
}

impl Options {
    /// Whether we proxy a Service (semantics S2).
    pub fn is_ours(&self, service: &Service) -> bool {
        match &service.sharing {
            Sharing::None => false,
            Sharing::Default => true,
            Sharing::Named(name) => self.service_proxy_name.as_ref() == Some(name),
        }
    }
}

/// This node.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its zone, if known.
    pub zone: Option<&'a str>,
    /// Its addresses.
    pub addresses: &'a BTreeSet<IpAddr>,
}

impl Here<'_> {
    /// Ranges, and what they mean for the node's own processes (semantics A3).
    fn sources(&self, ranges: Vec<IpNet>, all_frontends: bool) -> Sources {
        let mut addresses = self.addresses.iter().filter(|ip| !ip.is_loopback());
        let node = addresses.any(|ip| ranges.iter().any(|range| range.contains(ip)));
        Sources {
            ranges,
            node,
            all_frontends,
        }
    }
}

/// How many backends the plan of a Service has at most: each endpoint counts once for each port. Costs much less than
/// the plan.
pub fn most_backends(service: &Service, slices: &Slices<'_>, options: &Options) -> usize {
    if !options.is_ours(service) {
        return 0;
    }
    let ports = frontends::ports(service);
    ports
        .map(|(family, protocol, name)| slices.count(family, protocol, name))
        .sum()
}

/// Plans one Service. `owns` says whether it has got a key that it claims (semantics S7).
pub fn plan(
    service: &Service,
    slices: &Slices<'_>,
    here: Here<'_>,
    options: &Options,
    owns: impl Fn(&ClaimKey) -> bool,
) -> ServicePlan {
    let mut plan = ServicePlan::default();
    if !options.is_ours(service) {
        return plan;
    }
    let mut health = health::Tally::of(service, &owns);
    for (port, frontends) in frontends::by_port(service, owns) {
        let candidates = slices.merge(&port);
        health.count(port.family, &candidates, here);
        let categories = categorize(&candidates, here);
        let sources = service
            .source_ranges_of(port.family)
            .map(|ranges| here.sources(ranges, options.filter_all_frontends));
        // Whether any frontend of a list filters.
        let mut lists: BTreeMap<List, bool> = BTreeMap::new();
        for (claim, kind) in frontends {
            for &scope in frontends::scopes(kind, options) {
                let list = frontends::list(service, kind, scope);
                *lists.entry(list).or_default() |= sources
                    .as_ref()
                    .is_some_and(|sources| sources.hold_for(kind));
                plan.frontends.push(FrontendPlan {
                    address: claim.address,
                    port: claim.port,
                    protocol: claim.protocol,
                    scope,
                    kind,
                    target: port.with_list(list),
                });
            }
        }
        if lists.is_empty() {
            // All that it claims is another Service's: nothing of it is here, so nobody drains.
            continue;
        }
        let mut listed = BTreeSet::new();
        for (list, filtered) in lists {
            let chosen = categories.list(list);
            listed.extend(chosen.iter().map(Candidate::key));
            plan.targets.insert(
                port.with_list(list),
                TargetPlan {
                    backends: chosen.iter().map(|c| c.backend(here)).collect(),
                    empty: match (chosen.is_empty(), categories.any) {
                        (false, _) => None,
                        (true, true) => Some(Empty::Drop),
                        (true, false) => Some(Empty::Reject),
                    },
                    algorithm: service.algorithm.unwrap_or(options.default_algorithm),
                    affinity_seconds: service.affinity_seconds,
                    slow_start_seconds: Some(
                        service.slow_start.unwrap_or(options.default_slow_start),
                    )
                    .filter(|seconds| *seconds != 0),
                    sources: sources.clone().filter(|_| filtered),
                },
            );
        }
        let unlisted = |serves: bool| -> Vec<_> {
            candidates
                .iter()
                .filter(|c| c.serves() == serves && !listed.contains(&c.key()))
                .map(|c| c.backend(here))
                .collect()
        };
        let draining = unlisted(true);
        if !draining.is_empty() {
            plan.draining
                .insert(port.with_list(List::Cluster), draining);
        }
        if options.end_tcp && port.protocol == Protocol::Tcp {
            let not_serving = unlisted(false);
            if !not_serving.is_empty() {
                plan.not_serving
                    .insert(port.with_list(List::Cluster), not_serving);
            }
        }
    }
    plan.frontends.sort_unstable();
    plan.health_check = health.finish();
    plan
}
