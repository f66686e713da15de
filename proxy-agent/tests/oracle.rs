//! Thousands of random changes: what the planner hands out bit by bit is what an independent reference makes of the
//! objects as they stand, and what a planner that starts afresh makes of them.

#![cfg(test)]

#[path = "oracle/cluster.rs"]
mod cluster;
#[path = "oracle/random.rs"]
mod random;
#[path = "oracle/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proxy_agent::{
    plan::{ServiceName, ServicePlan},
    planner::Planner,
    report::Report,
};

use self::{cluster::Cluster, random::Random};

/// The cluster, and what its planner has handed out.
struct Run {
    cluster: Cluster,
    plans: BTreeMap<ServiceName, ServicePlan>,
}

impl Run {
    fn new(random: &mut Random) -> Self {
        Self {
            cluster: Cluster::new(random),
            plans: BTreeMap::new(),
        }
    }

    fn take_changes(&mut self) {
        for (name, plan) in self.cluster.planner.take_changes() {
            check_form(&plan);
            if plan == ServicePlan::default() {
                self.plans.remove(&name);
            } else {
                self.plans.insert(name, plan);
            }
        }
    }

    /// All three agree.
    fn check(&self) {
        let Cluster { world, planner } = &self.cluster;
        let addresses = self.cluster.node_addresses();
        let report = Report::new("here", &self.plans, &addresses, Vec::new());
        assert_eq!(report.frontends, world.frontends());
        assert_eq!(self.plans, planner.plan_all());
        let fresh = self.cluster.fresh_planner();
        assert_eq!(self.plans, fresh.plan_all());
        let sorted = |planner: &Planner| planner.problems().into_iter().collect::<BTreeSet<_>>();
        assert_eq!(sorted(planner), sorted(&fresh));
    }
}

/// What the contract of a [`ServicePlan`] promises.
fn check_form(plan: &ServicePlan) {
    let keys: Vec<_> = plan
        .frontends
        .iter()
        .map(|f| (f.address, f.port, f.protocol, f.scope))
        .collect();
    let distinct: BTreeSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len(), "a frontend is there twice");
    assert!(plan.frontends.is_sorted());
    let named: BTreeSet<_> = plan.frontends.iter().map(|f| &f.target).collect();
    assert!(named.into_iter().eq(plan.targets.keys()));
    for target in plan.targets.values() {
        assert_eq!(target.backends.is_empty(), target.empty.is_some());
        check_backends(&target.backends);
    }
    for (key, draining) in &plan.draining {
        assert!(!draining.is_empty());
        check_backends(draining);
        let listed = plan.targets.iter().filter(|(target, _)| {
            (&target.port_name, target.protocol, target.family)
                == (&key.port_name, key.protocol, key.family)
        });
        for (_, target) in listed {
            assert!(draining.iter().all(|b| !target.backends.contains(b)));
        }
    }
}

fn check_backends(backends: &[proxy_agent::plan::BackendPlan]) {
    assert!(backends.is_sorted_by_key(|b| (b.address, b.port)));
    let distinct: BTreeSet<_> = backends.iter().map(|b| (b.address, b.port)).collect();
    assert_eq!(distinct.len(), backends.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn incremental_equals_the_oracle_and_a_fresh_start(seeds in prop::collection::vec(any::<u64>(), 1..200)) {
        let mut run = Run::new(&mut Random(seeds[0]));
        for seed in seeds {
            let mut random = Random(seed);
            run.cluster.change(&mut random);
            // Several changes may be taken together.
            if !random.one_in(3) {
                run.take_changes();
                run.check();
            }
        }
        run.take_changes();
        run.check();
    }
}
