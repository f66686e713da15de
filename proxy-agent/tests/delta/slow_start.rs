//! Semantics L1: since when a backend is new. By the agent, over its restarts; how new ones are treated is the datapath's.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use proxy_agent::{
    delta::refusal::Capacities,
    maps::{OpKind, lint, memory::MemoryMaps},
    plan::{
        BackendPlan, Empty, FrontendAddress, FrontendPlan, Protocol, ServiceName, ServicePlan,
        TargetKey, TargetPlan,
    },
    programmer::Programmer,
};
use proxy_common::{
    abi::{
        frontend::{FrontendKind, Scope},
        meta::List,
        target::{Algorithm, BackendState},
    },
    addr::Family,
};

const SECOND: u64 = 1_000_000_000;
/// When the agents here begin.
const BOOTED: u64 = 5_000 * SECOND;

fn key() -> TargetKey {
    TargetKey {
        port_name: String::new(),
        protocol: Protocol::Tcp,
        family: Family::V4,
        list: List::Cluster,
    }
}

fn backend(last: u8) -> BackendPlan {
    BackendPlan {
        address: IpAddr::V4(Ipv4Addr::new(10, 1, 0, last)),
        port: 8080,
        local: false,
        node: None,
        zone: None,
        weight: 1,
        terminating: false,
    }
}

/// One ClusterIP with these endpoints.
fn plan(endpoints: &[u8]) -> ServicePlan {
    let target = TargetPlan {
        backends: endpoints.iter().map(|&last| backend(last)).collect(),
        empty: endpoints.is_empty().then_some(Empty::Reject),
        algorithm: Algorithm::Random,
        affinity_seconds: None,
        slow_start_seconds: Some(30),
        sources: None,
    };
    ServicePlan {
        frontends: vec![FrontendPlan {
            address: FrontendAddress::Ip(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1))),
            port: 80,
            protocol: Protocol::Tcp,
            scope: Scope::Cluster,
            kind: FrontendKind::ClusterIp,
            target: key(),
        }],
        targets: [(key(), target)].into(),
        ..ServicePlan::default()
    }
}

/// An agent, whose kernel's clock and maps outlive it.
struct Agent {
    programmer: Programmer<MemoryMaps>,
    now: Instant,
}

impl Agent {
    fn on_fresh_maps() -> Self {
        Self::over(MemoryMaps {
            clock: BOOTED,
            ..MemoryMaps::default()
        })
    }

    fn over(maps: MemoryMaps) -> Self {
        Self {
            programmer: Programmer::open(maps, Capacities::default()).unwrap(),
            now: Instant::now(),
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.programmer.maps_mut().clock += seconds * SECOND;
    }

    fn program(&mut self, plan: &ServicePlan) {
        let name = ServiceName {
            namespace: "default".into(),
            name: "web".into(),
        };
        let outcome = self.programmer.sync([(name, plan.clone())], self.now);
        assert!(outcome.refused.is_empty() && outcome.failed.is_empty());
        self.now += Duration::from_secs(1);
        self.programmer.tick(self.now);
        assert!(self.programmer.is_settled());
        assert_eq!(lint::lint(&self.programmer.snapshot().unwrap()), []);
    }

    fn restart(self) -> Self {
        Self::over(self.programmer.into_maps())
    }

    /// The last byte of each serving backend's address, and the second at which it began; none: it is not new.
    fn begun(&self) -> BTreeMap<u8, Option<u64>> {
        let maps = self.programmer.snapshot().unwrap();
        let serving = maps
            .backends
            .iter()
            .filter(|backend| backend.word.state() == BackendState::Serving);
        serving
            .map(|backend| {
                let since = Some(backend.since).filter(|since| *since != 0);
                let second = since.map(|since| (since - BOOTED) / SECOND);
                (backend.addr.octets()[15], second)
            })
            .collect()
    }
}

#[test]
fn l1_who_came_with_the_service_is_not_new_and_who_comes_later_is() {
    let mut agent = Agent::on_fresh_maps();
    agent.program(&plan(&[1, 2]));
    assert_eq!(agent.begun(), BTreeMap::from([(1, None), (2, None)]));
    agent.pass(10);
    agent.program(&plan(&[1, 2, 3]));
    agent.pass(1);
    agent.program(&plan(&[2, 3, 4]));
    assert_eq!(
        agent.begun(),
        BTreeMap::from([(2, None), (3, Some(10)), (4, Some(11))])
    );
    // The first ones of a Service that had none are new, all alike.
    agent.program(&plan(&[]));
    agent.pass(1);
    agent.program(&plan(&[5, 6]));
    assert_eq!(
        agent.begun(),
        BTreeMap::from([(5, Some(12)), (6, Some(12))])
    );
}

#[test]
fn l1_a_restart_neither_begins_nor_ends_a_slow_start() {
    let mut agent = Agent::on_fresh_maps();
    agent.program(&plan(&[1, 2]));
    agent.pass(10);
    agent.program(&plan(&[1, 2, 3]));
    let before = agent.programmer.snapshot().unwrap();
    agent.pass(10);
    let mut agent = agent.restart();
    agent.program(&plan(&[1, 2, 3]));
    assert_eq!(agent.programmer.snapshot().unwrap(), before);
    assert_eq!(agent.programmer.statistics().total(), 0);
    // Who came while no agent was there is new to this node.
    agent.pass(10);
    let mut agent = agent.restart();
    agent.program(&plan(&[1, 3, 4]));
    assert_eq!(
        agent.begun(),
        BTreeMap::from([(1, None), (3, Some(10)), (4, Some(30))])
    );
}

#[test]
fn l1_who_comes_back_is_new() {
    let mut agent = Agent::on_fresh_maps();
    agent.program(&plan(&[1, 2, 3]));
    agent.pass(10);
    agent.program(&plan(&[1]));
    agent.pass(10);
    agent.program(&plan(&[1, 2]));
    assert_eq!(agent.begun(), BTreeMap::from([(1, None), (2, Some(20))]));
    // Unready and known to be there, which it is with `--end-tcp-of-deleted-backends`.
    let mut unready = plan(&[1]);
    unready.not_serving.insert(key(), vec![backend(2)]);
    agent.program(&unready);
    agent.pass(10);
    assert_eq!(agent.begun(), BTreeMap::from([(1, None)]));
    agent.program(&plan(&[1, 2]));
    assert_eq!(agent.begun(), BTreeMap::from([(1, None), (2, Some(30))]));
}

#[test]
fn l1_who_is_left_out_or_found_elsewhere_is_as_old_as_it_was() {
    let mut agent = Agent::on_fresh_maps();
    agent.program(&plan(&[1]));
    agent.pass(10);
    agent.program(&plan(&[1, 2]));
    // It serves, and this node's lists leave it out for a while: hints of topology.
    let mut left_out = plan(&[1]);
    left_out.draining.insert(key(), vec![backend(2)]);
    agent.pass(10);
    agent.program(&left_out);
    agent.pass(10);
    agent.program(&plan(&[1, 2]));
    assert_eq!(agent.begun(), BTreeMap::from([(1, None), (2, Some(10))]));
    // The node got their addresses.
    let mut here = plan(&[1, 2]);
    for target in here.targets.values_mut() {
        target.backends.iter_mut().for_each(|b| b.local = true);
    }
    agent.program(&here);
    assert_eq!(agent.begun(), BTreeMap::from([(1, None), (2, Some(10))]));
}

#[test]
fn l1_slow_start_changes_in_place() {
    let mut agent = Agent::on_fresh_maps();
    agent.program(&plan(&[1, 2]));
    for seconds in [None, Some(5), Some(64_800)] {
        let mut plan = plan(&[1, 2]);
        for target in plan.targets.values_mut() {
            target.slow_start_seconds = seconds;
        }
        let before = agent.programmer.statistics().total();
        agent.program(&plan);
        assert_eq!(agent.programmer.statistics().total(), before + 1);
        let written = &agent.programmer.statistics().ops;
        assert!(written.contains_key(&OpKind::SetSlowStart));
        let shown = proxy_agent::view::report(&agent.programmer.snapshot().unwrap());
        assert_eq!(shown.frontends[0].slow_start_seconds, seconds);
        assert_eq!(agent.begun(), BTreeMap::from([(1, None), (2, None)]));
    }
}
