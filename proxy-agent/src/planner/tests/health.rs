//! What load balancers are told (semantics H1), and when endpoints changed (H3).

use std::collections::BTreeMap;

use super::*;
use crate::plan::HealthCheck;

/// A load balancer with a health check and ports 80 and 443.
fn load_balancer(name: &str, ip: &str, check: u16) -> Event {
    service(
        name,
        &format!(
            "{{type: LoadBalancer, clusterIP: {ip}, externalTrafficPolicy: Local, healthCheckNodePort: {check}, ports: [{{name: http, port: 80}}, {{name: https, port: 443}}]}}"
        ),
    )
}

/// A slice with both ports. Of an endpoint there is the last number of its address, and `@` for this node, `t` for
/// terminating, `n` for not ready, `r` for ready although it is terminating.
fn endpoints(slice_name: &str, of: &str, metadata: &str, endpoints: &[&str]) -> Event {
    let endpoint = |text: &&str| {
        let node = if text.contains('@') { "here" } else { "there" };
        let (ready, serving, terminating) = if text.contains('t') {
            (false, true, true)
        } else if text.contains('n') {
            (false, false, false)
        } else {
            (true, true, text.contains('r'))
        };
        let number = text.trim_matches(|c: char| !c.is_ascii_digit());
        format!(
            "{{addresses: [10.244.0.{number}], nodeName: {node}, conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}}}"
        )
    };
    let list: Vec<_> = endpoints.iter().map(endpoint).collect();
    let yaml = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {slice_name}, namespace: default, labels: {{kubernetes.io/service-name: {of}}}, {metadata}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}, {{name: https, port: 8443}}]\nendpoints: [{}]\n",
        list.join(", ")
    );
    let object = serde_saphyr::from_str(&yaml).unwrap();
    Event::Slice(convert::endpoint_slice(&object).value)
}

/// Of a Service on port 32000.
fn check(ready: usize) -> HealthCheck {
    HealthCheck {
        port: 32_000,
        ready: BTreeMap::from([(Family::V4, ready)]),
    }
}

#[test]
fn h1_ready_endpoints_of_this_node_count_once_each() {
    for (list, ready) in [
        (vec![], 0),
        (vec!["1"], 0),
        (vec!["1@"], 1),
        (vec!["1@", "2@", "3"], 2),
        (vec!["1t@", "2"], 0),
        (vec!["1t@", "2n@", "3@"], 1),
        (vec!["1r@"], 1),
        // The one that is not terminating wins (S5).
        (vec!["1t@", "1@"], 1),
    ] {
        let mut planner = planner();
        planner.apply(load_balancer("web", "10.96.0.1", 32_000));
        planner.apply(endpoints("one", "web", "", &list));
        let plan = &planner.take_changes()[0].1;
        assert_eq!(plan.health_check, Some(check(ready)), "{list:?}");
    }
}

#[test]
fn h1_a_service_of_two_families_counts_them_apart() {
    let mut planner = planner();
    planner.apply(service(
        "web",
        "{type: LoadBalancer, clusterIPs: [10.96.0.1, 'fd00::1'], externalTrafficPolicy: Local, healthCheckNodePort: 32000, ports: [{name: http, port: 80}]}",
    ));
    planner.apply(endpoints("one", "web", "", &["1@"]));
    let plan = &planner.take_changes()[0].1;
    let ready = &plan.health_check.as_ref().unwrap().ready;
    assert_eq!(*ready, [(Family::V4, 1), (Family::V6, 0)].into());
}

#[test]
fn h1_two_services_never_share_a_port() {
    let mut planner = planner();
    planner.apply(load_balancer("b", "10.96.0.2", 32_000));
    let problems = planner.apply(load_balancer("a", "10.96.0.1", 32_000));
    assert_eq!(
        problems[0].to_string(),
        "Service default/b: health check node port 32000 belongs to Service default/a, which came first; it is left out here until that one goes"
    );
    let checks = |planner: &mut Planner| -> Vec<_> {
        let changes = planner.take_changes().into_iter();
        changes
            .map(|(name, plan)| (name.name, plan.health_check))
            .collect()
    };
    let (a, b) = ("a".to_owned(), "b".to_owned());
    assert_eq!(
        checks(&mut planner),
        [(a.clone(), Some(check(0))), (b.clone(), None)]
    );
    planner.apply(Event::Service(Change::Delete(name("a"))));
    assert_eq!(checks(&mut planner), [(a, None), (b, Some(check(0)))]);
    // Nor does one share it with a node port.
    let problems = planner.apply(service(
        "a",
        "{type: NodePort, clusterIP: 10.96.0.3, ports: [{port: 80, nodePort: 32000}]}",
    ));
    assert!(
        problems[0]
            .message
            .starts_with("health check node port 32000")
    );
    assert_eq!(checks(&mut planner)[1].1, None);
}

#[test]
fn h3_a_change_of_endpoints_is_measured_once_from_what_caused_it() {
    let at = |second| {
        format!(
            "annotations: {{endpoints.kubernetes.io/last-change-trigger-time: '1970-01-01T00:00:0{second}Z'}}"
        )
    };
    let mut planner = planner();
    planner.apply(load_balancer("web", "10.96.0.1", 32_000));
    planner.apply(endpoints("one", "web", &at(1), &["1"]));
    planner.apply(endpoints("one", "web", &at(2), &["1", "2"]));
    // Named again as it is.
    planner.apply(endpoints("one", "web", &at(2), &["1", "2"]));
    // Without the annotation, and gone.
    planner.apply(endpoints("two", "web", "", &["3"]));
    planner.apply(no_slice("two"));
    let seconds: Vec<_> = planner
        .take_triggers()
        .into_iter()
        .map(|trigger| {
            assert_eq!((trigger.service, trigger.family), (name("web"), Family::V4));
            trigger.at / 1_000_000_000
        })
        .collect();
    assert_eq!(seconds, [1, 2]);
    assert!(planner.take_triggers().is_empty());
}
