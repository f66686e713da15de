//! A few Services that change at random, among them one address that several want.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;
use proxy_agent::plan::{
    BackendPlan, Empty, FrontendAddress, FrontendPlan, Protocol, ServiceName, ServicePlan, Sources,
    TargetKey, TargetPlan,
};
use proxy_common::{
    abi::{
        frontend::{FrontendKind, Scope},
        meta::List,
        target::Algorithm,
    },
    addr::Family,
};

use super::chance::Chance;

pub const SERVICES: u8 = 4;
const ENDPOINTS: u8 = 6;

/// What a Service is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Endpoints in the cluster list, by bit.
    pub cluster: u8,
    /// Those of them in the local list.
    pub local: u8,
    /// Endpoints that drain, of those in no list.
    pub draining: u8,
    /// What else it has, by bit; see [`Shape::has`].
    pub features: u16,
}

pub const EXISTS: u16 = 1;
const SECOND_PORT: u16 = 1 << 1;
const NODE_PORT: u16 = 1 << 2;
const LOAD_BALANCER: u16 = 1 << 3;
const WANTS_SHARED: u16 = 1 << 4;
const EXTERNAL_LOCAL: u16 = 1 << 5;
const AFFINITY: u16 = 1 << 6;
const RANGES: u16 = 1 << 7;
const OTHER_RANGES: u16 = 1 << 8;
const WEIGHTS: u16 = 1 << 9;
const OTHER_NODE: u16 = 1 << 10;
const MOVED_HERE: u16 = 1 << 11;
const DROPS: u16 = 1 << 12;
const V6: u16 = 1 << 13;
const COUNTS: u16 = 1 << 14;
const TAKES_TURNS: u16 = 1 << 15;

impl Shape {
    fn has(self, feature: u16) -> bool {
        self.features & feature != 0
    }

    /// Endpoints that are there and do not serve, of those in no list.
    const fn not_serving(self) -> u8 {
        let all = (1 << ENDPOINTS) - 1;
        self.local & all & !self.cluster & !self.draining
    }

    pub fn random(chance: &mut Chance) -> Self {
        let bits = chance.next();
        let all = (1u8 << ENDPOINTS) - 1;
        Self {
            cluster: bits as u8 & all & if bits >> 60 == 0 { 0 } else { all },
            local: (bits >> 8) as u8,
            draining: (bits >> 16) as u8 & all,
            // Most Services exist, and are simple.
            features: (bits >> 24) as u16 & (bits >> 40) as u16 | u16::from(bits >> 61 != 0),
        }
    }

    /// The same with one endpoint more or less, or one feature.
    pub fn nudged(mut self, chance: &mut Chance) -> Self {
        match chance.below(4) {
            0 => self.features ^= 1 << chance.below(16),
            1 if chance.below(2) == 0 => self.local ^= 1 << chance.below(ENDPOINTS.into()),
            1 => self.draining ^= 1 << chance.below(ENDPOINTS.into()),
            _ => self.cluster ^= 1 << chance.below(ENDPOINTS.into()),
        }
        self.features |= EXISTS;
        self
    }
}

/// Something that happens.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Services change, in one call.
    Change([Option<Shape>; SERVICES as usize]),
    /// What is out of use is reclaimed.
    Reclaim,
    /// The agent dies after some operations of the next change, and starts again.
    Crash(u8),
}

impl Step {
    pub fn random(chance: &mut Chance, world: &World) -> Self {
        match chance.below(16) {
            0..3 => Self::Reclaim,
            3 => Self::Crash(chance.below(20) as u8),
            n => {
                let mut shapes = [None; SERVICES as usize];
                for _ in 0..if n == 15 { 3 } else { 1 } {
                    let service = chance.below(SERVICES.into()) as usize;
                    let old = world.shapes[service];
                    shapes[service] = Some(if n < 10 {
                        old.nudged(chance)
                    } else {
                        Shape::random(chance)
                    });
                }
                Self::Change(shapes)
            }
        }
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let endpoints = 0..1u8 << ENDPOINTS;
    (endpoints.clone(), any::<u8>(), endpoints, any::<u16>()).prop_map(
        |(cluster, local, draining, features)| Shape {
            cluster,
            local,
            draining,
            features,
        },
    )
}

/// Steps for proptest, which finds the shortest sequence that fails.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let shapes = prop::array::uniform4(prop::option::of(shape()));
    let step = prop_oneof![
        8 => shapes.prop_map(Step::Change),
        2 => Just(Step::Reclaim),
        1 => (0u8..20).prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 1..20)
}

/// All Services, and who has the address that several want.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub shapes: [Shape; SERVICES as usize],
    /// Whether Maglev's tables are among the algorithms.
    pub maglev: bool,
}

impl World {
    /// The plans of all Services, removed ones too.
    pub fn plans(&self) -> BTreeMap<ServiceName, ServicePlan> {
        let wants = |shape: &Shape| shape.has(EXISTS) && shape.has(WANTS_SHARED);
        let owner = self.shapes.iter().position(wants);
        (0..SERVICES)
            .map(|i| {
                let shape = self.shapes[usize::from(i)];
                let mut plan = plan(i, shape, owner == Some(i.into()));
                if self.maglev && shape.has(TAKES_TURNS) && shape.has(COUNTS) {
                    for target in plan.targets.values_mut() {
                        target.algorithm = Algorithm::Maglev;
                    }
                }
                (name(i), plan)
            })
            .collect()
    }
}

pub fn name(service: u8) -> ServiceName {
    ServiceName {
        namespace: "test".into(),
        name: format!("s{service}"),
    }
}

fn plan(service: u8, shape: Shape, owns_shared: bool) -> ServicePlan {
    let mut plan = ServicePlan::default();
    if !shape.has(EXISTS) {
        return plan;
    }
    let ports = [
        ("http", 80, Protocol::Tcp, true),
        ("dns", 53, Protocol::Udp, shape.has(SECOND_PORT)),
    ];
    let families = [(Family::V4, true), (Family::V6, shape.has(V6))];
    for (port_name, port, protocol, _) in ports.into_iter().filter(|port| port.3) {
        for (family, _) in families.into_iter().filter(|family| family.1) {
            let key = |list| TargetKey {
                port_name: port_name.into(),
                protocol,
                family,
                list,
            };
            for (address, kind, scope) in frontends(service, shape, owns_shared, family) {
                let local = scope == Scope::External && shape.has(EXTERNAL_LOCAL);
                let target = key(if local { List::Local } else { List::Cluster });
                let mask = if local {
                    shape.cluster & shape.local
                } else {
                    shape.cluster
                };
                plan.targets
                    .entry(target.clone())
                    .or_insert_with(|| target_plan(service, shape, mask, family));
                plan.frontends.push(FrontendPlan {
                    address,
                    port: if address == FrontendAddress::Node(family) {
                        30_000 + u16::from(service) * 10 + port % 10
                    } else {
                        port
                    },
                    protocol,
                    scope,
                    kind,
                    target,
                });
            }
            let mut listed = plan
                .targets
                .iter()
                .filter(|(target, _)| target.port_name == port_name && target.family == family);
            let is_listed = |backend: &BackendPlan| {
                listed
                    .clone()
                    .any(|(_, target)| target.backends.iter().any(|b| b.address == backend.address))
            };
            let unlisted = |mask| -> Vec<_> {
                backends(service, shape, mask, family)
                    .into_iter()
                    .filter(|backend| !is_listed(backend))
                    .collect()
            };
            let draining = unlisted(shape.draining);
            let not_serving = unlisted(shape.not_serving());
            if listed.next().is_none() {
                continue;
            }
            if !draining.is_empty() {
                plan.draining.insert(key(List::Cluster), draining);
            }
            if !not_serving.is_empty() && protocol == Protocol::Tcp {
                plan.not_serving.insert(key(List::Cluster), not_serving);
            }
        }
    }
    plan.frontends.sort_unstable();
    plan
}

fn frontends(
    service: u8,
    shape: Shape,
    owns_shared: bool,
    family: Family,
) -> Vec<(FrontendAddress, FrontendKind, Scope)> {
    let ip = |group: u8, last: u8| FrontendAddress::Ip(address(family, group, last));
    let mut frontends = vec![(ip(96, service), FrontendKind::ClusterIp, Scope::Cluster)];
    let mut both = |address, kind| {
        frontends.push((address, kind, Scope::Cluster));
        frontends.push((address, kind, Scope::External));
    };
    if shape.has(NODE_PORT) {
        both(FrontendAddress::Node(family), FrontendKind::NodePort);
    }
    if shape.has(LOAD_BALANCER) {
        both(ip(203, service), FrontendKind::LoadBalancer);
    }
    if owns_shared {
        both(ip(198, 1), FrontendKind::ExternalIp);
    }
    frontends
}

fn address(family: Family, group: u8, last: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, group, 0, last)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(
            0xfd00,
            group.into(),
            0,
            0,
            0,
            0,
            0,
            last.into(),
        )),
    }
}

fn target_plan(service: u8, shape: Shape, mask: u8, family: Family) -> TargetPlan {
    let backends = backends(service, shape, mask, family);
    let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    TargetPlan {
        empty: match (backends.is_empty(), shape.has(DROPS)) {
            (false, _) => None,
            (true, false) => Some(Empty::Reject),
            (true, true) => Some(Empty::Drop),
        },
        backends,
        algorithm: match (shape.has(COUNTS), shape.has(TAKES_TURNS)) {
            (false, false) => Algorithm::Random,
            (false, true) => Algorithm::RoundRobin,
            (true, _) => Algorithm::LeastConnections,
        },
        affinity_seconds: shape.has(AFFINITY).then_some(10_800),
        slow_start_seconds: (shape.has(AFFINITY) != shape.has(WEIGHTS)).then_some(30),
        sources: shape.has(RANGES).then(|| Sources {
            ranges: match (shape.has(OTHER_RANGES), family) {
                (false, Family::V4) => ranges(&["10.0.0.0/8", "192.0.2.0/24"]),
                (false, Family::V6) => ranges(&["2001:db8::/32"]),
                (true, Family::V4) => ranges(&["172.16.0.0/12"]),
                (true, Family::V6) => Vec::new(),
            },
            // The node's addresses change, too, and an agent with other flags may come.
            node: shape.has(MOVED_HERE),
            all_frontends: shape.has(AFFINITY),
        }),
    }
}

fn backends(service: u8, shape: Shape, mask: u8, family: Family) -> Vec<BackendPlan> {
    let chosen: BTreeSet<u8> = (0..ENDPOINTS).filter(|i| mask & (1 << i) != 0).collect();
    chosen
        .into_iter()
        .map(|i| BackendPlan {
            // The last endpoint of every Service is the same process of a node.
            address: if i == ENDPOINTS - 1 {
                address(family, 255, i)
            } else {
                address(family, service, i)
            },
            port: 8080,
            local: i % 2 == 0 || shape.has(MOVED_HERE),
            node: (i > 0).then(|| {
                if shape.has(OTHER_NODE) {
                    "node-b".into()
                } else {
                    format!("node-{i}")
                }
            }),
            zone: (i > 1).then(|| "zone-a".into()),
            weight: if shape.has(WEIGHTS) { u32::from(i) } else { 1 },
            terminating: shape.draining & (1 << i) != 0,
        })
        .collect()
}
