//! Services that fit on no node.

use std::net::Ipv4Addr;

use super::*;
use crate::{
    model::{Endpoint, EndpointPort, ServicePort, Sharing, TrafficPolicy},
    planner::too_big::{MOST_BACKENDS, MOST_CLAIMS},
};

fn addresses(net: u8, count: usize) -> impl Iterator<Item = IpAddr> {
    (0..count as u32).map(move |n| IpAddr::V4(Ipv4Addr::from_bits((u32::from(net) << 24) + n)))
}

/// A Service with these numbers of ports and external addresses.
fn service(ports: u16, external_ips: usize) -> Event {
    let port = |number: u16| ServicePort {
        name: number.to_string(),
        protocol: Protocol::Tcp,
        port: number,
        node_port: None,
    };
    Event::Service(Change::Upsert(Service {
        name: name("big"),
        created: None,
        sharing: Sharing::default(),
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 1).into()],
        load_balancer_ips: Vec::new(),
        external_ips: addresses(11, external_ips).collect(),
        ports: (1..=ports).map(port).collect(),
        internal_policy: TrafficPolicy::default(),
        external_policy: TrafficPolicy::default(),
        algorithm: None,
        affinity_seconds: None,
        slow_start: None,
        source_ranges: None,
        health_check_node_port: None,
    }))
}

/// A slice of it.
fn slice(ports: u16, endpoints: usize) -> Event {
    let port = |number: u16| EndpointPort {
        name: number.to_string(),
        protocol: Protocol::Tcp,
        port: number,
    };
    let endpoint = |address| Endpoint {
        address,
        node: None,
        zone: None,
        ready: true,
        serving: true,
        terminating: false,
        node_hints: [].into(),
        zone_hints: [].into(),
    };
    Event::Slice(Change::Upsert(EndpointSlice {
        name: SliceName {
            namespace: "default".to_owned(),
            name: "big-1".to_owned(),
        },
        service: name("big"),
        family: Family::V4,
        ports: (1..=ports).map(port).collect(),
        endpoints: addresses(12, endpoints).map(endpoint).collect(),
        weight: 1,
        triggered: None,
    }))
}

fn messages(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|p| p.message.as_str()).collect()
}

#[test]
fn a_service_that_claims_too_much_stays_as_it_was() {
    let (mut planner, ports) = (planner(), 10_000);
    let too_many = MOST_CLAIMS / usize::from(ports) + 1;
    planner.apply(service(2, 1));
    assert_eq!(planner.take_changes()[0].1.frontends.len(), 6);
    let problems = planner.apply(service(ports, too_many));
    assert_eq!(
        messages(&problems),
        [
            "its ports and addresses make more than 262144 pairs, more than a node can serve; it stays here as it was before"
        ]
    );
    assert_eq!(planner.apply(service(ports, too_many)), [], "told once");
    assert_eq!(planner.problems(), problems);
    assert_eq!(planner.left_alone().collect::<Vec<_>>(), [&name("big")]);
    assert!(planner.take_changes().is_empty());
    planner.apply(service(3, 1));
    assert_eq!(planner.take_changes()[0].1.frontends.len(), 9);
    assert_eq!(
        (planner.problems().len(), planner.left_alone().count()),
        (0, 0)
    );
}

#[test]
fn a_service_with_too_many_endpoints_stays_as_it_was() {
    let (mut planner, ports) = (planner(), 2_000);
    let too_many = MOST_BACKENDS / usize::from(ports) + 1;
    planner.apply(service(ports, 0));
    planner.apply(slice(ports, 1));
    assert_eq!(planner.take_changes().len(), 1);
    planner.apply(slice(ports, too_many));
    assert!(planner.take_changes().is_empty());
    let problems = planner.take_problems();
    assert_eq!(
        messages(&problems),
        [
            "its ports and endpoints make more than 1048576 pairs, more than a node can serve; it stays here as it was before"
        ]
    );
    assert_eq!(planner.problems(), problems);
    assert!(planner.plan_all().is_empty());
    assert_eq!(planner.left_alone().collect::<Vec<_>>(), [&name("big")]);
    planner.apply(slice(ports, too_many + 1));
    assert!(planner.take_changes().is_empty() && planner.take_problems().is_empty());
    planner.apply(slice(ports, 2));
    assert_eq!(planner.take_changes().len(), 1);
    assert_eq!(
        (planner.problems().len(), planner.left_alone().count()),
        (0, 0)
    );
}

/// The state that an earlier agent programmed for it is still in the maps.
#[test]
fn a_service_that_was_always_too_big_is_removed_when_it_goes() {
    for event in [service(10_000, 27), service(2_000, 0)] {
        let mut planner = planner();
        planner.apply(event);
        planner.apply(slice(2_000, 525));
        assert!(planner.take_changes().is_empty());
        assert_eq!(planner.left_alone().count(), 1);
        planner.apply(Event::Service(Change::Delete(name("big"))));
        let changes = planner.take_changes();
        assert_eq!(changes, [(name("big"), ServicePlan::default())]);
        assert_eq!(planner.left_alone().count(), 0);
    }
}
