//! The monitor beside a programmer whose maps fail.

use std::net::{IpAddr, Ipv4Addr};

use proxy_common::{
    abi::{
        frontend::{FrontendKind, Scope},
        meta::List,
        target::Algorithm,
    },
    addr::Family,
};

use super::*;
use crate::{
    delta::refusal::Capacities,
    health::{Question, TIMEOUT},
    maps::{faulty::FaultyMaps, memory::MemoryMaps},
    model::{Change, SliceName},
    plan::{BackendPlan, FrontendAddress, FrontendPlan, Protocol, TargetKey, TargetPlan},
};

type Faulty = Programmer<FaultyMaps<MemoryMaps>>;

fn programmer(capacities: Capacities) -> Faulty {
    let maps = FaultyMaps::new(MemoryMaps::default(), 0.0, 1);
    Programmer::open(maps, capacities).unwrap()
}

fn name(name: &str) -> ServiceName {
    ServiceName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

fn plan(last: u8) -> ServicePlan {
    let target = TargetKey {
        port_name: String::new(),
        protocol: Protocol::Tcp,
        family: Family::V4,
        list: List::Cluster,
    };
    let ip = |second| IpAddr::from(Ipv4Addr::new(10, second, 0, last));
    ServicePlan {
        frontends: vec![FrontendPlan {
            address: FrontendAddress::Ip(ip(96)),
            port: 80,
            protocol: Protocol::Tcp,
            scope: Scope::Cluster,
            kind: FrontendKind::ClusterIp,
            target: target.clone(),
        }],
        targets: [(
            target,
            TargetPlan {
                backends: vec![BackendPlan {
                    address: ip(244),
                    port: 8080,
                    local: false,
                    node: None,
                    zone: None,
                    weight: 1,
                    terminating: false,
                }],
                empty: None,
                algorithm: Algorithm::Random,
                affinity_seconds: None,
                slow_start_seconds: None,
                sources: None,
            },
        )]
        .into(),
        health_check: Some(HealthCheck {
            port: 32_000 + u16::from(last),
            ready: [(Family::V4, 1)].into(),
        }),
        ..ServicePlan::default()
    }
}

/// What the loop does with plans.
fn program(
    monitor: &mut Monitor,
    programmer: &mut Faulty,
    changes: Vec<(ServiceName, ServicePlan)>,
) {
    let at = (Timestamp::now().as_nanosecond()) + 1;
    let trigger = |(service, _): &(ServiceName, _)| Trigger {
        service: service.clone(),
        family: Family::V4,
        at,
    };
    let triggers = changes.iter().map(trigger).collect();
    monitor.queued(&changes, triggers);
    programmer.sync(changes, Instant::now());
    monitor.settle(programmer, []);
    monitor.programmed(false, Duration::from_millis(1));
}

fn late(monitor: &Monitor) -> bool {
    let later = Instant::now() + TIMEOUT;
    monitor.health.alive(later);
    !monitor.health.is_healthy(later)
}

fn sample(monitor: &Monitor, name: &str) -> Option<f64> {
    let text = String::from_utf8(monitor.metrics.text().unwrap()).unwrap();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok())
}

const LATENCIES: &str = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}";
const SYNCED: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}";

#[test]
fn h2_h3_what_can_not_be_written_is_late_until_it_is() {
    let mut monitor = Monitor::start(&ServeConfig::default()).unwrap();
    let mut programmer = programmer(Capacities::default());
    monitor.settle(&programmer, []);
    assert_eq!(
        sample(&monitor, SYNCED),
        Some(0.0),
        "nothing was planned yet"
    );

    programmer.maps_mut().set_probability(1.0);
    monitor.heard(&[Event::Slice(Change::Delete(SliceName {
        namespace: "default".to_owned(),
        name: "web-1".to_owned(),
    }))]);
    program(&mut monitor, &mut programmer, vec![(name("web"), plan(1))]);
    assert!(late(&monitor));
    let pending = "kubeproxy_sync_proxy_rules_endpoint_changes_pending";
    let before = [LATENCIES, SYNCED, pending, "proxy_services_pending"];
    let values = before.map(|name| sample(&monitor, name));
    assert_eq!(values, [0.0, 0.0, 1.0, 1.0].map(Some));
    assert!(sample(&monitor, "proxy_map_write_failures_total") > Some(0.0));

    programmer.maps_mut().set_probability(0.0);
    programmer.tick(Instant::now() + TIMEOUT);
    monitor.settle(&programmer, []);
    assert!(!late(&monitor));
    assert!(sample(&monitor, SYNCED) > Some(0.0));
    assert_eq!(sample(&monitor, LATENCIES), Some(1.0));
    assert_eq!(sample(&monitor, pending), Some(0.0));
    assert_eq!(sample(&monitor, "proxy_services_pending"), Some(0.0));
    assert_eq!(
        sample(&monitor, "proxy_map_entries{map=\"FRONTENDS\"}"),
        Some(1.0)
    );
    assert_eq!(
        sample(
            &monitor,
            "proxy_map_operations_total{operation=\"put_frontend\"}"
        ),
        Some(1.0)
    );
}

#[test]
fn h2_what_is_refused_is_counted_and_not_late() {
    let mut monitor = Monitor::start(&ServeConfig::default()).unwrap();
    let mut programmer = programmer(Capacities {
        frontends: 1,
        ..Capacities::default()
    });
    let changes = vec![(name("a"), plan(1)), (name("b"), plan(2))];
    program(&mut monitor, &mut programmer, changes);
    assert!(!late(&monitor));
    assert_eq!(sample(&monitor, "proxy_services"), Some(1.0));
    assert_eq!(
        sample(&monitor, "proxy_services_refused{reason=\"full\"}"),
        Some(1.0)
    );
    assert_eq!(
        sample(&monitor, LATENCIES),
        Some(1.0),
        "only what is programmed counts"
    );
}

#[test]
fn h1_what_load_balancers_are_told_follows_the_plans() {
    let mut monitor = Monitor::start(&ServeConfig::default()).unwrap();
    let mut programmer = programmer(Capacities::default());
    let told = |monitor: &Monitor| monitor.checks.borrow().get(&name("web")).cloned();
    program(&mut monitor, &mut programmer, vec![(name("web"), plan(1))]);
    assert_eq!(told(&monitor), plan(1).health_check);
    let gone = vec![(name("web"), ServicePlan::default())];
    program(&mut monitor, &mut programmer, gone);
    assert_eq!(told(&monitor), None);
}

/// A plan whose health check counts so many endpoints.
fn ready(last: u8, count: usize) -> ServicePlan {
    let check = HealthCheck {
        port: 32_000 + u16::from(last),
        ready: [(Family::V4, count)].into(),
    };
    ServicePlan {
        health_check: Some(check),
        ..plan(last)
    }
}

fn told(monitor: &Monitor, service: &str) -> Option<usize> {
    let checks = monitor.checks.borrow();
    checks
        .get(&name(service))
        .map(|check| check.ready[&Family::V4])
}

#[test]
fn h1_load_balancers_hear_of_no_endpoint_of_a_service_that_was_refused() {
    let mut monitor = Monitor::start(&ServeConfig::default()).unwrap();
    let mut programmer = programmer(Capacities {
        frontends: 1,
        ..Capacities::default()
    });
    let changes = vec![(name("a"), ready(1, 2)), (name("b"), ready(2, 2))];
    program(&mut monitor, &mut programmer, changes);
    assert_eq!(told(&monitor, "a"), Some(2));
    assert_eq!(
        told(&monitor, "b"),
        Some(0),
        "its port is open, and says no"
    );
    // There is room when the other goes.
    let gone = vec![(name("a"), ServicePlan::default())];
    program(&mut monitor, &mut programmer, gone);
    programmer.tick(Instant::now() + TIMEOUT);
    monitor.settle(&programmer, []);
    assert_eq!((told(&monitor, "a"), told(&monitor, "b")), (None, Some(2)));
}

#[test]
fn h1_while_a_change_is_not_in_the_maps_the_lower_count_is_told() {
    let mut monitor = Monitor::start(&ServeConfig::default()).unwrap();
    let mut programmer = programmer(Capacities::default());
    program(
        &mut monitor,
        &mut programmer,
        vec![(name("web"), ready(1, 2))],
    );
    programmer.maps_mut().set_probability(1.0);
    for (planned, expected) in [(3, 2), (0, 0), (1, 1), (4, 2)] {
        let mut plan = ready(1, planned);
        // Something that must be written.
        plan.frontends[0].port = 81;
        program(&mut monitor, &mut programmer, vec![(name("web"), plan)]);
        assert_eq!(
            told(&monitor, "web"),
            Some(expected),
            "{planned} are planned"
        );
    }
    programmer.maps_mut().set_probability(0.0);
    programmer.tick(Instant::now() + TIMEOUT);
    monitor.settle(&programmer, []);
    assert_eq!(told(&monitor, "web"), Some(4));
}

#[test]
fn h2_a_refused_service_keeps_the_last_time_that_all_was_as_planned() {
    let mut monitor = Monitor::start(&ServeConfig::default()).unwrap();
    let mut programmer = programmer(Capacities {
        frontends: 1,
        ..Capacities::default()
    });
    let changes = vec![(name("a"), plan(1)), (name("b"), plan(2))];
    program(&mut monitor, &mut programmer, changes);
    let body = |monitor: &Monitor, question| {
        let now = Instant::now();
        let report = monitor.health.report(question, now, Timestamp::now());
        (report.is_ok(), serde_json::to_value(report).unwrap())
    };
    for question in [Question::Health, Question::Life, Question::Readiness] {
        let (ok, body) = body(&monitor, question);
        assert!(ok, "one Service does not take the node away");
        assert_eq!(
            (&body["state"], &body["servicesRefused"]),
            (&"refusing".into(), &1.into())
        );
        assert_eq!(body["lastUpdated"], "0001-01-01T00:00:00Z", "not yet");
    }
    assert_eq!(sample(&monitor, SYNCED), Some(0.0));
    let gone = vec![(name("b"), ServicePlan::default())];
    program(&mut monitor, &mut programmer, gone);
    let (_, body) = body(&monitor, Question::Health);
    assert_eq!(body["state"], "serving");
    assert!(sample(&monitor, SYNCED) > Some(0.0));
}

#[test]
fn h1_h2_a_service_that_is_too_big_counts_as_refused_and_has_no_ready_endpoints() {
    let mut monitor = Monitor::start(&ServeConfig::default()).unwrap();
    let mut programmer = programmer(Capacities::default());
    program(
        &mut monitor,
        &mut programmer,
        vec![(name("web"), ready(1, 2))],
    );
    assert_eq!(told(&monitor, "web"), Some(2));
    let refused = |monitor: &Monitor| {
        let report = monitor
            .health
            .report(Question::Health, Instant::now(), Timestamp::now());
        assert!(report.is_ok());
        serde_json::to_value(report).unwrap()["servicesRefused"].clone()
    };
    assert_eq!(refused(&monitor), 0);

    monitor.settle(&programmer, [&name("web")]);
    assert_eq!(told(&monitor, "web"), Some(0));
    assert_eq!(refused(&monitor), 1);
    assert_eq!(sample(&monitor, "proxy_services_pending"), Some(1.0));
    let too_big = "proxy_services_refused{reason=\"too_big\"}";
    assert_eq!(sample(&monitor, too_big), Some(1.0));

    program(
        &mut monitor,
        &mut programmer,
        vec![(name("web"), ready(1, 3))],
    );
    assert_eq!(told(&monitor, "web"), Some(3));
    assert_eq!(refused(&monitor), 0);
}

#[test]
fn h2_a_failure_before_the_first_list_that_is_over_is_not_late() {
    let mut monitor = Monitor::start(&ServeConfig::default()).unwrap();
    let mut programmer = programmer(Capacities::default());
    let live = |monitor: &Monitor| {
        let later = Instant::now() + TIMEOUT;
        monitor.health.alive(later);
        let report = monitor
            .health
            .report(Question::Life, later, Timestamp::now());
        report.is_ok()
    };
    programmer.maps_mut().set_probability(1.0);
    programmer.set_node_name("node", Instant::now());
    monitor.settle(&programmer, []);
    assert!(!live(&monitor));
    programmer.maps_mut().set_probability(0.0);
    programmer.tick(Instant::now() + TIMEOUT);
    monitor.settle(&programmer, []);
    assert!(live(&monitor));
}

#[test]
fn h2_an_agent_is_healthy_from_the_first_list_in_the_maps_to_the_end_of_its_loop() {
    let mut monitor = Monitor::start(&ServeConfig::default()).unwrap();
    let mut programmer = programmer(Capacities::default());
    let health = Arc::clone(&monitor.health);
    let healthy = || health.is_healthy(Instant::now());
    monitor.settle(&programmer, []);
    assert!(!healthy(), "nothing was planned");
    programmer.maps_mut().set_probability(1.0);
    program(&mut monitor, &mut programmer, vec![(name("web"), plan(1))]);
    assert!(!healthy(), "nothing could be written");
    programmer.maps_mut().set_probability(0.0);
    programmer.tick(Instant::now() + TIMEOUT);
    monitor.settle(&programmer, []);
    assert!(healthy());
    drop(monitor);
    assert!(!healthy());
}

#[test]
fn h2_a_node_object_that_goes_leaves_its_last_word() {
    let monitor = Monitor::start(&ServeConfig::default()).unwrap();
    let node = |leaving| Node {
        name: "here".to_owned(),
        zone: None,
        addresses: Vec::new(),
        leaving,
    };
    let fit = |monitor: &Monitor| {
        let question = Question::Health;
        let report = monitor
            .health
            .report(question, Instant::now(), Timestamp::now());
        report.is_ok()
    };
    monitor.serves_earlier();
    monitor.set_node(None);
    assert!(fit(&monitor));
    monitor.set_node(Some(&node(true)));
    monitor.set_node(None);
    assert!(!fit(&monitor));
    monitor.set_node(Some(&node(false)));
    assert!(fit(&monitor));
}

#[test]
fn h2_a_service_that_waits_for_its_table_is_late_until_it_gets_on() {
    let mut monitor = Monitor::start(&ServeConfig::default()).unwrap();
    let mut programmer = programmer(Capacities::default());
    programmer.make_tables_elsewhere(0);
    let start = Instant::now();
    let maglev = |last: u8| {
        let mut plan = plan(1);
        for target in plan.targets.values_mut() {
            target.algorithm = Algorithm::Maglev;
            let address = IpAddr::from(Ipv4Addr::new(10, 250, 0, last));
            let second = BackendPlan {
                address,
                ..target.backends[0].clone()
            };
            target.backends.push(second);
        }
        plan
    };
    let healthy_at = |monitor: &Monitor, time: Instant| {
        monitor.health.alive(time);
        monitor.health.is_healthy(time)
    };
    monitor.planned = true;
    monitor.serves_earlier();
    programmer.sync([(name("web"), maglev(1))], start);
    monitor.settle(&programmer, []);
    assert_eq!(sample(&monitor, "proxy_services_pending"), Some(1.0));
    assert!(healthy_at(&monitor, start + TIMEOUT / 2));
    assert!(!healthy_at(&monitor, start + TIMEOUT));

    // A newer plan waits as soon as the first is programmed: that is no reason to restart the agent.
    programmer.sync([(name("web"), maglev(2))], start);
    let job = programmer.take_table_jobs().remove(0);
    let tables = job
        .lists
        .into_iter()
        .filter_map(crate::delta::tables::List::table);
    let tables: Vec<_> = tables.collect();
    programmer.tables_made(&job.ticket, tables, start + TIMEOUT);
    monitor.settle(&programmer, []);
    assert_eq!(sample(&monitor, "proxy_services_pending"), Some(1.0));
    assert!(healthy_at(&monitor, start + TIMEOUT / 2 * 3));
    assert!(!healthy_at(&monitor, start + TIMEOUT * 2));
}
