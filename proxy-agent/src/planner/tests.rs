//! What changes, and what a change says.

mod health;
mod too_big;

use std::collections::BTreeSet;

use proxy_common::{abi::meta::List, addr::Family};

use super::*;
use crate::{
    convert,
    plan::{BackendPlan, TargetKey},
};

fn name(name: &str) -> ServiceName {
    ServiceName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

fn planner() -> Planner {
    Planner::new(PlannerConfig {
        node_name: "here".to_owned(),
        ..PlannerConfig::default()
    })
}

fn service(name: &str, spec: &str) -> Event {
    let yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec: {spec}\n"
    );
    let object = serde_saphyr::from_str(&yaml).unwrap();
    Event::Service(Change::Upsert(convert::service(&object).value))
}

fn cluster_ip(service_name: &str, ip: &str) -> Event {
    service(
        service_name,
        &format!("{{clusterIP: {ip}, ports: [{{port: 80}}]}}"),
    )
}

/// A slice; endpoints are `10.244.0.1`, `!10.244.0.1` for one that is terminating, or `-10.244.0.1` for one that is not ready.
fn slice(slice_name: &str, of: &str, endpoints: &[&str]) -> Event {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|text| match text.split_at(1) {
            ("!", ip) => format!(
                "{{addresses: [{ip}], conditions: {{ready: false, serving: true, terminating: true}}}}"
            ),
            ("-", ip) => format!(
                "{{addresses: [{ip}], conditions: {{ready: false, serving: false}}}}"
            ),
            _ => format!("{{addresses: [{text}]}}"),
        })
        .collect();
    let yaml = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {slice_name}, namespace: default, labels: {{kubernetes.io/service-name: {of}}}}}\naddressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    );
    let object = serde_saphyr::from_str(&yaml).unwrap();
    Event::Slice(convert::endpoint_slice(&object).value)
}

fn no_slice(name: &str) -> Event {
    Event::Slice(Change::Delete(SliceName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }))
}

fn target() -> TargetKey {
    TargetKey {
        port_name: String::new(),
        protocol: Protocol::Tcp,
        family: Family::V4,
        list: List::Cluster,
    }
}

fn addresses(backends: &[BackendPlan]) -> Vec<String> {
    backends.iter().map(|b| b.address.to_string()).collect()
}

fn listed(plan: &ServicePlan) -> Vec<String> {
    addresses(&plan.targets[&target()].backends)
}

fn names(changes: &[(ServiceName, ServicePlan)]) -> Vec<&str> {
    changes.iter().map(|(name, _)| name.name.as_str()).collect()
}

#[test]
fn only_touched_services_are_planned() {
    let mut planner = planner();
    for n in 1..=50 {
        planner.apply(cluster_ip(&format!("s{n}"), &format!("10.96.0.{n}")));
        planner.apply(slice(&format!("e{n}"), &format!("s{n}"), &["10.244.0.1"]));
    }
    assert_eq!(planner.take_changes().len(), 50);
    assert!(planner.take_changes().is_empty());
    planner.apply(slice("e7", "s7", &["10.244.0.1", "10.244.0.2"]));
    planner.apply(slice("e8", "s8", &["10.244.0.1"]));
    planner.apply(cluster_ip("s9", "10.96.0.9"));
    let changes = planner.take_changes();
    assert_eq!(names(&changes), ["s7"]);
    assert_eq!(listed(&changes[0].1), ["10.244.0.1", "10.244.0.2"]);
}

#[test]
fn s5_an_endpoint_that_moves_between_slices_is_never_missing() {
    let mut planner = planner();
    planner.apply(cluster_ip("web", "10.96.0.1"));
    planner.apply(slice("one", "web", &["10.244.0.1", "10.244.0.2"]));
    let mut steps = vec![
        slice("two", "web", &["10.244.0.2"]),
        slice("one", "web", &["10.244.0.1"]),
        slice("three", "web", &["10.244.0.1"]),
    ];
    steps.push(no_slice("one"));
    planner.take_changes();
    for step in steps {
        planner.apply(step);
        for (_, plan) in planner.take_changes() {
            assert_eq!(listed(&plan), ["10.244.0.1", "10.244.0.2"]);
        }
    }
}

#[test]
fn s5_of_two_the_one_that_is_not_terminating_wins() {
    for slices in [["a", "b"], ["b", "a"]] {
        let mut planner = planner();
        planner.apply(cluster_ip("web", "10.96.0.1"));
        planner.apply(slice(slices[0], "web", &["!10.244.0.1"]));
        planner.apply(slice(slices[1], "web", &["10.244.0.1"]));
        let plan = &planner.take_changes()[0].1;
        assert_eq!(plan.targets[&target()].backends.len(), 1);
        assert!(!plan.targets[&target()].backends[0].terminating);
        assert!(plan.draining.is_empty());
    }
}

#[test]
fn s5_a_slice_may_change_its_service() {
    let mut planner = planner();
    planner.apply(cluster_ip("a", "10.96.0.1"));
    planner.apply(cluster_ip("b", "10.96.0.2"));
    planner.apply(slice("one", "a", &["10.244.0.1"]));
    planner.take_changes();
    planner.apply(slice("one", "b", &["10.244.0.1"]));
    let changes = planner.take_changes();
    assert_eq!(names(&changes), ["a", "b"]);
    assert!(listed(&changes[0].1).is_empty());
    assert_eq!(listed(&changes[1].1), ["10.244.0.1"]);
}

#[test]
fn l4_endpoints_that_leave_are_draining() {
    let mut planner = planner();
    planner.apply(cluster_ip("web", "10.96.0.1"));
    planner.apply(slice("one", "web", &["10.244.0.1", "!10.244.0.2"]));
    let plan = planner.take_changes().remove(0).1;
    assert_eq!(listed(&plan), ["10.244.0.1"]);
    assert_eq!(addresses(&plan.draining[&target()]), ["10.244.0.2"]);
    planner.apply(slice("one", "web", &["!10.244.0.1", "!10.244.0.2"]));
    let plan = planner.take_changes().remove(0).1;
    assert_eq!(listed(&plan), ["10.244.0.1", "10.244.0.2"]);
    assert!(plan.draining.is_empty());
}

#[test]
fn s7_a_port_without_a_frontend_has_no_backends_either() {
    let mut planner = planner();
    for (name, slice_name) in [("elder", "one"), ("younger", "two")] {
        planner.apply(cluster_ip(name, "10.96.0.1"));
        planner.apply(slice(slice_name, name, &["10.244.0.1", "!10.244.0.2"]));
    }
    let changes = planner.take_changes();
    assert_eq!(
        names(&changes),
        ["elder"],
        "nothing is planned for the other"
    );
    assert_eq!(addresses(&changes[0].1.draining[&target()]), ["10.244.0.2"]);
}

#[test]
fn l3_what_does_not_serve_is_known_where_connections_to_what_is_deleted_end() {
    for end_tcp in [false, true] {
        let mut planner = Planner::new(PlannerConfig {
            options: Options {
                end_tcp,
                ..Options::default()
            },
            ..planner().config
        });
        planner.apply(cluster_ip("web", "10.96.0.1"));
        planner.apply(slice("one", "web", &["10.244.0.1", "-10.244.0.2"]));
        let plan = planner.take_changes().remove(0).1;
        assert_eq!(listed(&plan), ["10.244.0.1"]);
        assert!(plan.draining.is_empty());
        let known = plan.not_serving.get(&target()).map(|all| addresses(all));
        assert_eq!(known, end_tcp.then(|| vec!["10.244.0.2".to_owned()]));
    }
}

#[test]
fn s2_a_service_changes_its_kind_in_place() {
    let mut planner = planner();
    planner.apply(slice("one", "web", &["10.244.0.1"]));
    let proxied = "{clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}";
    let kinds = [
        "{type: ExternalName, externalName: x.example}",
        "{clusterIP: None, ports: [{port: 80}]}",
        "{ports: [{port: 80}]}",
    ];
    assert!(planner.take_changes().is_empty());
    for kind in kinds {
        planner.apply(service("web", proxied));
        let changes = planner.take_changes();
        assert_eq!(changes[0].1.frontends.len(), 3, "{kind}");
        planner.apply(service("web", kind));
        assert_eq!(
            planner.take_changes(),
            [(name("web"), ServicePlan::default())],
            "{kind}"
        );
        assert!(planner.plan_all().is_empty());
        planner.apply(service("web", kind));
        assert!(planner.take_changes().is_empty(), "{kind}");
    }
}

#[test]
fn a_service_that_goes_has_an_empty_plan_once() {
    let mut planner = planner();
    planner.apply(cluster_ip("web", "10.96.0.1"));
    planner.take_changes();
    planner.apply(Event::Service(Change::Delete(name("web"))));
    assert_eq!(
        planner.take_changes(),
        [(name("web"), ServicePlan::default())]
    );
    planner.apply(Event::Service(Change::Delete(name("web"))));
    assert!(planner.take_changes().is_empty());
}

#[test]
fn s7_a_lost_claim_is_told_and_taken_over_at_once() {
    let spec = |ip: &str| {
        format!("{{clusterIP: {ip}, externalIPs: [203.0.113.1], ports: [{{port: 80}}]}}")
    };
    let mut planner = planner();
    assert!(planner.apply(service("b", &spec("10.96.0.2"))).is_empty());
    let problems = planner.apply(service("a", &spec("10.96.0.1")));
    assert_eq!(problems, planner.problems());
    assert_eq!(
        problems[0].to_string(),
        "Service default/b: external IP 203.0.113.1, port 80/TCP belongs to Service default/a, which came first; it is left out here until that one goes"
    );
    let changes = planner.take_changes();
    assert_eq!(changes[0].1.frontends.len(), 3);
    assert_eq!(changes[1].1.frontends.len(), 1);
    assert!(
        planner
            .apply(Event::Service(Change::Delete(name("a"))))
            .is_empty()
    );
    let changes = planner.take_changes();
    assert_eq!(names(&changes), ["a", "b"]);
    assert_eq!(changes[1].1.frontends.len(), 3);
    assert!(planner.problems().is_empty());
}

#[test]
fn s7_the_cluster_ip_of_another_proxys_service_is_not_taken() {
    let mut planner = planner();
    planner.apply(service(
        "thief",
        "{clusterIP: 10.96.0.1, externalIPs: [10.96.0.2], ports: [{port: 80}]}",
    ));
    let yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: theirs, namespace: default, labels: {service.kubernetes.io/service-proxy-name: other}}\nspec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}\n";
    let object = serde_saphyr::from_str(yaml).unwrap();
    planner.apply(Event::Service(Change::Upsert(
        convert::service(&object).value,
    )));
    let changes = planner.take_changes();
    assert_eq!(names(&changes), ["thief"]);
    assert_eq!(changes[0].1.frontends.len(), 1);
}

#[test]
fn node_addresses_decide_what_is_local() {
    let mut planner = planner();
    planner.apply(cluster_ip("a", "10.96.0.1"));
    planner.apply(cluster_ip("b", "10.96.0.2"));
    planner.apply(slice("a", "a", &["192.0.2.1"]));
    planner.apply(slice("b", "b", &["192.0.2.2"]));
    planner.take_changes();
    planner.set_node_addresses(["192.0.2.1".parse().unwrap(), "192.0.2.9".parse().unwrap()].into());
    let changes = planner.take_changes();
    assert_eq!(names(&changes), ["a"]);
    assert!(changes[0].1.targets[&target()].backends[0].local);
    planner.set_node_addresses(BTreeSet::new());
    assert!(!planner.take_changes()[0].1.targets[&target()].backends[0].local);
}

#[test]
fn a3_node_addresses_decide_whether_its_own_processes_are_let_in() {
    let lets_in = |changes: &[(ServiceName, ServicePlan)]| {
        assert_eq!(names(changes), ["a"]);
        let sources = changes[0].1.targets[&target()].sources.as_ref();
        sources.expect("ranges").node
    };
    let mut planner = planner();
    let mut object = match service(
        "a",
        "{clusterIP: 10.96.0.1, loadBalancerSourceRanges: [192.0.2.0/24, 127.0.0.0/8], ports: [{port: 80}]}",
    ) {
        Event::Service(Change::Upsert(object)) => object,
        other => panic!("{other:?}"),
    };
    object.load_balancer_ips = vec!["203.0.113.1".parse().unwrap()];
    planner.apply(Event::Service(Change::Upsert(object)));
    planner.apply(cluster_ip("b", "10.96.0.2"));
    planner.take_changes();
    for (addresses, expected) in [
        (&["192.0.2.1", "198.51.100.1"][..], true),
        (&["198.51.100.1"], false),
        (&["127.0.0.1"], false),
        (&["2001:db8::1", "192.0.2.255"], true),
        (&[], false),
    ] {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        planner.set_node_addresses(addresses);
        assert_eq!(lets_in(&planner.take_changes()), expected);
    }
}

#[test]
fn slices_without_their_service_are_told_when_all_is_known() {
    let mut planner = planner();
    assert!(
        planner
            .apply(slice("one", "web", &["10.244.0.1"]))
            .is_empty()
    );
    assert!(!planner.is_synced());
    let told = planner.apply(Event::Synced);
    assert!(planner.is_synced());
    assert_eq!(
        told[0].to_string(),
        "EndpointSlice default/one: its Service default/web does not exist; its endpoints wait for it"
    );
    assert!(planner.apply(Event::Synced).is_empty());
    assert_eq!(planner.apply(slice("two", "web", &[])).len(), 1);
    assert!(planner.apply(slice("two", "web", &[])).is_empty());
    assert_eq!(planner.problems().len(), 2);
    planner.apply(cluster_ip("web", "10.96.0.1"));
    assert!(planner.problems().is_empty());
    assert_eq!(listed(&planner.take_changes()[0].1), ["10.244.0.1"]);
}

#[test]
fn what_concerns_no_other_service_may_wait_and_is_then_taken_up_together() {
    let mut planner = planner();
    planner.apply(cluster_ip("a", "10.96.0.1"));
    planner.apply(cluster_ip("b", "10.96.0.2"));
    planner.apply(slice("ea", "a", &["10.244.0.1"]));
    planner.take_changes();
    planner.apply(slice("ea", "a", &["10.244.0.2"]));
    planner.apply(slice("eb", "b", &["10.244.0.3"]));
    let rests = |service: &ServiceName| service.name == "a";
    assert_eq!(names(&planner.take_changes_but(rests)), ["b"]);
    planner.apply(slice("ea", "a", &["10.244.0.4"]));
    assert_eq!(names(&planner.take_changes_but(rests)), [""; 0]);
    let changes = planner.take_changes_but(|_| false);
    assert_eq!(names(&changes), ["a"]);
    assert_eq!(listed(&changes[0].1), ["10.244.0.4"]);
    // An address that changes hands waits for nobody, and neither does a Service that is gone.
    planner.apply(slice("ea", "a", &["10.244.0.5"]));
    planner.apply(service(
        "b",
        "{clusterIP: 10.96.0.2, externalIPs: [10.96.0.1], ports: [{port: 80}]}",
    ));
    planner.apply(cluster_ip("a", "10.96.0.9"));
    assert_eq!(names(&planner.take_changes_but(|_| true)), ["a", "b"]);
    planner.apply(Event::Service(Change::Delete(name("a"))));
    assert_eq!(names(&planner.take_changes_but(|_| true)), ["a"]);
}
