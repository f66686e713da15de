//! What a change costs does not depend on how many Services there are.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use proxy_agent::{
    delta::refusal::Capacities,
    maps::{OpKind, memory::MemoryMaps},
    plan::{
        BackendPlan, FrontendAddress, FrontendPlan, Protocol, ServiceName, ServicePlan, TargetKey,
        TargetPlan,
    },
    programmer::Programmer,
};
use proxy_common::{
    abi::{
        frontend::{FrontendKind, Scope},
        meta::List,
        target::Algorithm,
    },
    addr::Family,
};

const SERVICES: u32 = 10_000;

fn name(service: u32) -> ServiceName {
    ServiceName {
        namespace: "load".into(),
        name: format!("service-{service}"),
    }
}

/// A ClusterIP and a node port.
fn plan(service: u32, endpoints: &[u8]) -> ServicePlan {
    let ip = |net: u32, low: u32| IpAddr::V4(Ipv4Addr::from(net + low));
    let target = TargetKey {
        port_name: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
        list: List::Cluster,
    };
    let frontend = |address, kind, scope| FrontendPlan {
        address,
        port: if kind == FrontendKind::NodePort {
            10_000 + service as u16
        } else {
            80
        },
        protocol: Protocol::Tcp,
        scope,
        kind,
        target: target.clone(),
    };
    let backends = endpoints.iter().map(|&endpoint| BackendPlan {
        address: ip(0x0a00_0000, service * 16 + u32::from(endpoint)),
        port: 8080,
        local: false,
        node: Some(format!("node-{}", endpoint % 4)),
        zone: Some("zone-a".into()),
        weight: 1,
        terminating: false,
    });
    ServicePlan {
        frontends: vec![
            frontend(
                FrontendAddress::Ip(ip(0x0a60_0000, service)),
                FrontendKind::ClusterIp,
                Scope::Cluster,
            ),
            frontend(
                FrontendAddress::Node(Family::V4),
                FrontendKind::NodePort,
                Scope::Cluster,
            ),
            frontend(
                FrontendAddress::Node(Family::V4),
                FrontendKind::NodePort,
                Scope::External,
            ),
        ],
        targets: [(
            target.clone(),
            TargetPlan {
                backends: backends.collect(),
                empty: None,
                algorithm: Algorithm::Random,
                affinity_seconds: None,
                slow_start_seconds: None,
                sources: None,
            },
        )]
        .into(),
        ..ServicePlan::default()
    }
}

#[test]
fn one_endpoint_of_10000_services_costs_its_own_operations_only() {
    use OpKind::{AwaitReaders, ClearBackend, FlipBackend, FlipTarget, PutBackend, WriteSlots};
    let mut now = Instant::now();
    let mut programmer = Programmer::open(MemoryMaps::default(), Capacities::default()).unwrap();
    let start = Instant::now();
    let outcome = programmer.sync(
        (0..SERVICES).map(|i| (name(i), plan(i, &[1, 2, 3, 4]))),
        now,
    );
    println!(
        "first list of {SERVICES} Services × 4: {} operations in {:.1?}",
        outcome.applied,
        start.elapsed()
    );
    assert_eq!(outcome.programmed.len(), SERVICES as usize);
    // Four backends, one range, one target, three frontends each; four node names and a zone.
    assert_eq!(outcome.applied, SERVICES as usize * 9 + 5);

    let mut cost = |what, plan: ServicePlan, expected: &[OpKind]| {
        let before = programmer.statistics().ops.clone();
        let start = Instant::now();
        let outcome = programmer.sync([(name(7_777), plan)], now);
        let time = start.elapsed();
        let after = &programmer.statistics().ops;
        let written = after
            .iter()
            .filter(|(kind, count)| before.get(kind) != Some(count))
            .map(|(kind, _)| *kind);
        assert_eq!(written.collect::<Vec<_>>(), expected, "{what}");
        assert_eq!(outcome.applied, expected.len(), "{what}");
        println!("{what}: {} operations in {time:.1?}", outcome.applied);
    };
    cost("nothing changes", plan(7_777, &[1, 2, 3, 4]), &[]);
    cost(
        "one endpoint is replaced",
        plan(7_777, &[1, 2, 3, 5]),
        &[PutBackend, WriteSlots, FlipTarget, FlipBackend],
    );
    cost(
        "one endpoint comes",
        plan(7_777, &[1, 2, 3, 4, 5]),
        &[PutBackend, WriteSlots, FlipTarget],
    );
    cost(
        "one endpoint goes",
        plan(7_777, &[2, 3, 4, 5]),
        &[WriteSlots, FlipTarget, FlipBackend],
    );
    now += Duration::from_secs(1);
    let outcome = programmer.tick(now);
    assert_eq!(
        outcome.applied, 3,
        "{AwaitReaders:?} and two of {ClearBackend:?}"
    );

    let start = Instant::now();
    let mut programmer = Programmer::open(programmer.into_maps(), Capacities::default()).unwrap();
    println!("the maps are taken over in {:.1?}", start.elapsed());
    let start = Instant::now();
    let mut plans: Vec<_> = (0..SERVICES)
        .map(|i| (name(i), plan(i, &[1, 2, 3, 4])))
        .collect();
    plans[7_777].1 = plan(7_777, &[2, 3, 4, 5]);
    let planned = start.elapsed();
    let start = Instant::now();
    let outcome = programmer.sync(plans, now);
    println!(
        "the same list: {} operations in {:.1?} (plans made in {planned:.1?})",
        outcome.applied,
        start.elapsed()
    );
    assert_eq!(outcome.applied, 0);
}

/// A Service with as many ports, each with two endpoints of its own.
fn wide(ports: u16, generation: u8) -> ServicePlan {
    let mut wide = ServicePlan::default();
    for port in 1..=ports {
        let plan = plan(0, &[generation, generation + 1]);
        let target = TargetKey {
            port_name: port.to_string(),
            ..plan.frontends[0].target.clone()
        };
        let frontend = FrontendPlan {
            port,
            target: target.clone(),
            ..plan.frontends[0].clone()
        };
        wide.frontends.push(frontend);
        let targets = plan.targets.into_values();
        wide.targets
            .extend(targets.map(|plan| (target.clone(), plan)));
    }
    wide
}

#[test]
fn ten_times_the_ports_cost_about_ten_times_as_much() {
    let took = |ports| {
        let times = (0..3).map(|_| {
            let (now, maps) = (Instant::now(), MemoryMaps::default());
            let mut programmer = Programmer::open(maps, Capacities::default()).unwrap();
            programmer.sync([(name(1), wide(ports, 1))], now);
            let next = wide(ports, 3);
            let began = Instant::now();
            let outcome = programmer.sync([(name(1), next)], now);
            assert_eq!(outcome.gone.len(), 2 * usize::from(ports));
            began.elapsed()
        });
        times.min().unwrap_or_default()
    };
    let (few, many) = (took(1_000), took(10_000));
    println!("1,000 ports {few:.1?}, 10,000 ports {many:.1?}");
    assert!(
        many < few * 40,
        "1,000 ports {few:.1?}, 10,000 ports {many:.1?}"
    );
}
