//! Thousands of random changes: what the planner hands out bit by bit is what an independent reference makes of the
//! objects as they stand, and what a planner that starts afresh makes of them.

#![cfg(test)]

#[path = "oracle/random.rs"]
mod random;
#[path = "oracle/world.rs"]
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proptest::prelude::*;
use proxy_agent::{
    convert::{self, Converted},
    model::{Change, Event, SliceName},
    plan::{ServiceName, ServicePlan},
    planner::{Planner, PlannerConfig},
    policy::Options,
    report::Report,
};

use self::{
    random::{NODES, Random},
    world::World,
};

/// Services, and slices, that are there at the start; many of them are the same.
const FIRST_OBJECTS: usize = 12;

/// The reference, and the planner with what it has handed out.
struct Run {
    world: World,
    planner: Planner,
    plans: BTreeMap<ServiceName, ServicePlan>,
}

impl Run {
    fn new(random: &mut Random) -> Self {
        let world = World {
            node_name: NODES[0].to_owned(),
            proxy_name: random.one_in(2).then(|| "ours".to_owned()),
            external_cluster_ip: random.one_in(2),
            ..World::default()
        };
        let mut run = Self {
            planner: Planner::new(config(&world)),
            world,
            plans: BTreeMap::new(),
        };
        for _ in 0..FIRST_OBJECTS {
            run.change_service(random);
            run.change_slice(random);
        }
        run
    }

    fn change(&mut self, random: &mut Random) {
        match random.below(10) {
            0..=3 => self.change_service(random),
            4..=7 => self.change_slice(random),
            8 => self.change_node(random),
            _ => {
                let addresses: BTreeSet<IpAddr> = random.node_addresses().into_iter().collect();
                self.world.node_addresses.clone_from(&addresses);
                self.planner.set_node_addresses(addresses);
            }
        }
    }

    fn change_service(&mut self, random: &mut Random) {
        let object = random.service();
        let event = service_event(&object);
        let key = key(&object.metadata);
        if random.one_in(6) {
            self.world.services.remove(&key);
            let (namespace, name) = key;
            let name = ServiceName { namespace, name };
            self.planner.apply(Event::Service(Change::Delete(name)));
        } else {
            self.world.services.insert(key, object);
            self.planner.apply(event);
        }
    }

    fn change_slice(&mut self, random: &mut Random) {
        let object = random.slice();
        let event = slice_event(&object);
        let key = key(&object.metadata);
        if random.one_in(6) {
            self.world.slices.remove(&key);
            let (namespace, name) = key;
            let name = SliceName { namespace, name };
            self.planner.apply(Event::Slice(Change::Delete(name)));
        } else {
            self.world.slices.insert(key, object);
            self.planner.apply(event);
        }
    }

    fn change_node(&mut self, random: &mut Random) {
        let object = random.node();
        let name = object.metadata.name.clone().unwrap();
        let is_here = name == NODES[0];
        if random.one_in(4) {
            self.planner.apply(Event::Node(Change::Delete(name)));
            self.world.node = self.world.node.take().filter(|_| !is_here);
        } else {
            let Converted { value, .. } = convert::node(&object);
            self.planner.apply(Event::Node(Change::Upsert(value)));
            if is_here {
                self.world.node = Some(object);
            }
        }
    }

    fn take_changes(&mut self) {
        for (name, plan) in self.planner.take_changes() {
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
        let addresses: Vec<IpAddr> = self.world.node_addresses.iter().copied().collect();
        let report = Report::new("here", &self.plans, &addresses, Vec::new());
        assert_eq!(report.frontends, self.world.frontends());
        assert_eq!(self.plans, self.planner.plan_all());
        let fresh = fresh(&self.world);
        assert_eq!(self.plans, fresh.plan_all());
        let sorted = |planner: &Planner| planner.problems().into_iter().collect::<BTreeSet<_>>();
        assert_eq!(sorted(&self.planner), sorted(&fresh));
    }
}

fn config(world: &World) -> PlannerConfig {
    PlannerConfig {
        node_name: world.node_name.clone(),
        options: Options {
            service_proxy_name: world.proxy_name.clone(),
            external_cluster_ip: world.external_cluster_ip,
        },
    }
}

/// A planner that is told everything at once, in another order.
fn fresh(world: &World) -> Planner {
    let mut planner = Planner::new(config(world));
    for object in world.slices.values().rev() {
        planner.apply(slice_event(object));
    }
    for object in world.services.values().rev() {
        planner.apply(service_event(object));
    }
    if let Some(node) = &world.node {
        planner.apply(Event::Node(Change::Upsert(convert::node(node).value)));
    }
    planner.set_node_addresses(world.node_addresses.clone());
    planner
}

fn service_event(object: &k8s_openapi::api::core::v1::Service) -> Event {
    Event::Service(Change::Upsert(convert::service(object).value))
}

fn slice_event(object: &k8s_openapi::api::discovery::v1::EndpointSlice) -> Event {
    Event::Slice(convert::endpoint_slice(object).value)
}

fn key(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> (String, String) {
    (
        metadata.namespace.clone().unwrap(),
        metadata.name.clone().unwrap(),
    )
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
            run.change(&mut random);
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
