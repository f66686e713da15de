//! Services whose traffic policy leaves them without endpoints here (semantics B5).

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::{abi::frontend::FrontendKind, addr::Family};

use crate::{
    metrics::Policy,
    plan::{Empty, ServiceName, ServicePlan, TargetKey},
};

type Counts = BTreeMap<(Policy, Family), usize>;

/// Counts Service ports, as kube-proxy does: by policy and family.
#[derive(Debug, Default)]
pub(super) struct NoLocal {
    services: BTreeMap<ServiceName, Counts>,
    total: Counts,
}

impl NoLocal {
    /// Takes in the plan of a Service.
    pub fn set(&mut self, name: &ServiceName, plan: &ServicePlan) {
        let counts = count(plan);
        let before = if counts.is_empty() {
            self.services.remove(name)
        } else {
            self.services.insert(name.clone(), counts.clone())
        };
        for (key, count) in counts {
            *self.total.entry(key).or_default() += count;
        }
        for (key, count) in before.into_iter().flatten() {
            if let Some(total) = self.total.get_mut(&key) {
                *total -= count;
            }
        }
    }

    /// Of all Services.
    pub fn totals(&self) -> impl Iterator<Item = (Policy, Family, usize)> {
        self.total
            .iter()
            .map(|((policy, family), count)| (*policy, *family, *count))
    }
}

fn count(plan: &ServicePlan) -> Counts {
    let dropped =
        |key: &TargetKey| plan.targets.get(key).map(|t| t.empty) == Some(Some(Empty::Drop));
    let ports: BTreeSet<(Policy, &TargetKey)> = plan
        .frontends
        .iter()
        .filter(|frontend| dropped(&frontend.target))
        .map(|frontend| match frontend.kind {
            FrontendKind::ClusterIp => (Policy::Internal, &frontend.target),
            FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
                (Policy::External, &frontend.target)
            }
        })
        .collect();
    let mut counts = Counts::new();
    for (policy, target) in ports {
        *counts.entry((policy, target.family)).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proxy_common::abi::{frontend::Scope, meta::List, target::Algorithm};

    use super::*;
    use crate::plan::{FrontendAddress, FrontendPlan, Protocol, TargetPlan};

    fn target(port_name: &str, list: List) -> TargetKey {
        TargetKey {
            port_name: port_name.to_owned(),
            protocol: Protocol::Tcp,
            family: Family::V4,
            list,
        }
    }

    fn frontend(kind: FrontendKind, target: TargetKey) -> FrontendPlan {
        FrontendPlan {
            address: FrontendAddress::Ip(Ipv4Addr::LOCALHOST.into()),
            port: 80,
            protocol: Protocol::Tcp,
            scope: Scope::External,
            kind,
            target,
        }
    }

    fn plan(empty: Empty, frontends: Vec<FrontendPlan>) -> ServicePlan {
        let target = |frontend: &FrontendPlan| {
            let empty = TargetPlan {
                backends: Vec::new(),
                empty: Some(empty),
                algorithm: Algorithm::Random,
                affinity_seconds: None,
                slow_start_seconds: None,
                sources: None,
            };
            (frontend.target.clone(), empty)
        };
        ServicePlan {
            targets: frontends.iter().map(target).collect(),
            frontends,
            ..ServicePlan::default()
        }
    }

    fn name() -> ServiceName {
        ServiceName {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
        }
    }

    #[test]
    fn b5_ports_without_local_endpoints_count_by_policy_until_they_have_some() {
        let (http, https) = (target("http", List::Local), target("https", List::Local));
        let all = [
            frontend(FrontendKind::ClusterIp, http.clone()),
            frontend(FrontendKind::NodePort, http.clone()),
            frontend(FrontendKind::LoadBalancer, http),
            frontend(FrontendKind::NodePort, https),
        ];
        let mut tally = NoLocal::default();
        tally.set(&name(), &plan(Empty::Drop, all.to_vec()));
        let expected = [
            (Policy::Internal, Family::V4, 1),
            (Policy::External, Family::V4, 2),
        ];
        assert_eq!(tally.totals().collect::<Vec<_>>(), expected);
        tally.set(&name(), &plan(Empty::Drop, all[3..].to_vec()));
        let expected = [
            (Policy::Internal, Family::V4, 0),
            (Policy::External, Family::V4, 1),
        ];
        assert_eq!(tally.totals().collect::<Vec<_>>(), expected);
        tally.set(&name(), &ServicePlan::default());
        assert!(tally.totals().all(|(.., count)| count == 0));
    }

    #[test]
    fn b5_without_any_endpoint_no_policy_is_to_blame() {
        let cluster = [frontend(
            FrontendKind::ClusterIp,
            target("http", List::Cluster),
        )];
        let mut tally = NoLocal::default();
        tally.set(&name(), &plan(Empty::Reject, cluster.to_vec()));
        assert_eq!(tally.totals().count(), 0);
    }
}
