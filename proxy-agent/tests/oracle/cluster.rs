//! Objects that change at random, told to the reference and to a planner.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use proxy_agent::{
    convert::{self, Converted},
    model::{Change, Event, SliceName},
    plan::ServiceName,
    planner::{Planner, PlannerConfig},
    policy::Options,
};
use proxy_common::abi::target::Algorithm;

use super::{
    random::{NODES, Random},
    world::World,
};

/// Services, and slices, that are there at the start; many of them are the same.
const FIRST_OBJECTS: usize = 12;

/// The reference, and a planner that is told the same.
pub struct Cluster {
    pub world: World,
    pub planner: Planner,
}

impl Cluster {
    pub fn new(random: &mut Random) -> Self {
        let world = World {
            node_name: NODES[0].to_owned(),
            proxy_name: random.one_in(2).then(|| "ours".to_owned()),
            external_cluster_ip: random.one_in(2),
            filter_all_frontends: random.one_in(2),
            ..World::default()
        };
        let mut cluster = Self {
            planner: Planner::new(config(&world)),
            world,
        };
        for _ in 0..FIRST_OBJECTS {
            cluster.change_service(random);
            cluster.change_slice(random);
        }
        cluster
    }

    pub fn change(&mut self, random: &mut Random) {
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

    /// A planner that is told everything at once, in another order.
    pub fn fresh_planner(&self) -> Planner {
        let world = &self.world;
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

    pub fn node_addresses(&self) -> Vec<IpAddr> {
        self.world.node_addresses.iter().copied().collect()
    }
}

fn config(world: &World) -> PlannerConfig {
    PlannerConfig {
        node_name: world.node_name.clone(),
        options: Options {
            service_proxy_name: world.proxy_name.clone(),
            external_cluster_ip: world.external_cluster_ip,
            filter_all_frontends: world.filter_all_frontends,
            default_algorithm: Algorithm::RoundRobin,
            default_slow_start: 45,
            end_tcp: false,
        },
        ..PlannerConfig::default()
    }
}

fn service_event(object: &Service) -> Event {
    Event::Service(Change::Upsert(convert::service(object).value))
}

fn slice_event(object: &EndpointSlice) -> Event {
    Event::Slice(convert::endpoint_slice(object).value)
}

fn key(metadata: &ObjectMeta) -> (String, String) {
    (
        metadata.namespace.clone().unwrap(),
        metadata.name.clone().unwrap(),
    )
}
