//! What one change costs among ten thousand Services, in the kernel's own maps.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use proxy_agent::{
    dataplane::maps::KernelMaps,
    maps::OpKind,
    model::{
        Change, Endpoint, EndpointPort, EndpointSlice, Event, Service, ServicePort, Sharing,
        SliceName, TrafficPolicy,
    },
    plan::{Protocol, ServiceName},
    planner::{Planner, PlannerConfig},
    programmer::Programmer,
    view,
};
use proxy_common::addr::Family;

use crate::{fixture::Fixture, ids::Ids, times::Times};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 4;
const CHANGES: u32 = 200;
/// Longer than what is out of use waits.
const LONG: Duration = Duration::from_secs(1);

fn name(service: u32) -> ServiceName {
    ServiceName {
        namespace: "load".into(),
        name: format!("service-{service}"),
    }
}

const fn ip(net: u32, host: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(net + host))
}

/// A ClusterIP and a node port.
fn service(number: u32) -> Event {
    let port = ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: Some(10_000 + number as u16),
    };
    Event::Service(Change::Upsert(Service {
        name: name(number),
        created: Some(0),
        sharing: Sharing::default(),
        cluster_ips: vec![ip(0x0a60_0000, number)],
        load_balancer_ips: Vec::new(),
        external_ips: Vec::new(),
        ports: vec![port],
        internal_policy: TrafficPolicy::default(),
        external_policy: TrafficPolicy::default(),
        algorithm: None,
        affinity_seconds: None,
        slow_start: None,
        source_ranges: None,
        health_check_node_port: None,
    }))
}

/// The endpoints of a Service, from `first` on.
fn slice(number: u32, first: u32) -> Event {
    let endpoints = (first..first + ENDPOINTS).map(|endpoint| Endpoint {
        address: ip(0x0b00_0000, number * 1_024 + endpoint),
        node: Some(format!("node-{}", endpoint % ENDPOINTS)),
        zone: Some("zone-a".into()),
        ready: true,
        serving: true,
        terminating: false,
        node_hints: [].into(),
        zone_hints: [].into(),
    });
    Event::Slice(Change::Upsert(EndpointSlice {
        name: SliceName {
            namespace: "load".into(),
            name: format!("service-{number}-a"),
        },
        service: name(number),
        family: Family::V4,
        ports: vec![EndpointPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: endpoints.collect(),
        weight: 1,
        triggered: None,
    }))
}

/// A planner that was told everything; of one Service the endpoints from `first` on.
fn planner(changed: u32, first: u32) -> Planner {
    let mut planner = Planner::new(PlannerConfig::default());
    planner.set_node_addresses([ip(0xc000_0201, 0)].into());
    for number in 0..SERVICES {
        let first = if number == changed { first } else { 0 };
        planner.apply(service(number));
        planner.apply(slice(number, first));
    }
    planner.apply(Event::Synced);
    planner
}

/// Operations by kind.
fn written(programmer: &Programmer<KernelMaps>) -> BTreeMap<OpKind, u64> {
    programmer.statistics().ops.clone()
}

#[test]
fn one_endpoint_of_10000_services_costs_four_operations_in_the_kernel() {
    use OpKind::{FlipBackend, FlipTarget, PutBackend, WriteSlots};
    const CHANGED: u32 = 7_777;
    let fixture = match Fixture::new("cost") {
        Ok(fixture) => fixture,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let programs = fixture.load();
    let mut programmer = fixture.take_over();
    let mut now = Instant::now();

    let start = Instant::now();
    let mut planner = planner(CHANGED, 0);
    let told = start.elapsed();
    let start = Instant::now();
    let changes = planner.take_changes();
    let made = start.elapsed();
    let start = Instant::now();
    let outcome = programmer.sync(changes, now);
    println!(
        "{SERVICES} Services × {ENDPOINTS} into empty maps: {} operations in {:.1?}, {:.1?} of it in the kernel's maps \
         (objects taken in in {told:.1?}, planned in {made:.1?})",
        outcome.applied,
        start.elapsed(),
        programmer.statistics().time
    );
    assert!(outcome.failed.is_empty() && outcome.refused.is_empty());
    // Backends, one range, one target, three frontends each; four node names and a zone.
    let each = ENDPOINTS as usize + 1 + 1 + 3;
    assert_eq!(outcome.applied, SERVICES as usize * each + 5);

    let mut times = Times::default();
    let mut in_maps = Times::default();
    let expected: BTreeMap<OpKind, u64> = [PutBackend, WriteSlots, FlipTarget, FlipBackend]
        .map(|kind| (kind, 1))
        .into();
    for first in 1..=CHANGES {
        let before = written(&programmer);
        let event = slice(CHANGED, first);
        let start = Instant::now();
        planner.apply(event);
        programmer.sync(planner.take_changes(), now);
        times.add(start.elapsed());
        in_maps.add(programmer.statistics().last);
        let mut cost = written(&programmer);
        for (kind, count) in &mut cost {
            *count -= before.get(kind).unwrap_or(&0);
        }
        cost.retain(|_, count| *count > 0);
        assert_eq!(cost, expected);
    }
    println!(
        "one endpoint is replaced: 4 operations; from the event to the last write {times}; in the maps {in_maps}"
    );

    now += LONG;
    let start = Instant::now();
    let outcome = programmer.tick(now);
    println!(
        "what is out of use is freed: {} operations in {:.1?}",
        outcome.applied,
        start.elapsed()
    );
    assert_eq!(outcome.applied, CHANGES as usize + 1);
    assert!(programmer.is_settled());

    let before = programmer.snapshot().unwrap();
    let start = Instant::now();
    let report = view::report(&before);
    println!(
        "{} frontends read from a snapshot in {:.1?}",
        report.frontends.len(),
        start.elapsed()
    );
    assert_eq!(report.frontends.len(), SERVICES as usize);
    drop((programmer, programs, planner));

    let start = Instant::now();
    let _programs = fixture.load();
    let loaded = start.elapsed();
    let start = Instant::now();
    let mut programmer = fixture.take_over();
    let taken = start.elapsed();
    let mut planner = self::planner(CHANGED, CHANGES);
    let changes = planner.take_changes();
    let wanted = changes.iter().map(|(name, _)| name.clone()).collect();
    let start = Instant::now();
    programmer.sync(changes, now);
    programmer.retain(&wanted, now);
    println!(
        "restart: {} operations; programs loaded in {loaded:.1?}, maps taken over in {taken:.1?}, compared with the \
         plans in {:.1?}",
        programmer.statistics().total(),
        start.elapsed()
    );
    assert_eq!(programmer.statistics().total(), 0);
    assert!(programmer.is_settled());
    let after = programmer.snapshot().unwrap();
    assert_eq!(Ids::new(&before), Ids::new(&after));
    assert!(before == after, "the maps are not what they were");
}
