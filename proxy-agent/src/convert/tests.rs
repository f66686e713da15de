//! Each rule of reading an object, and each way in which one can be wrong.

use std::net::IpAddr;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use proxy_common::addr::Family;

use super::*;
use crate::{
    model::{Change, EndpointSlice, Service, ServicePort, Sharing, TrafficPolicy},
    plan::Protocol,
};

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A Service with `spec` and `status` in YAML flow style.
fn convert(spec: &str, rest: &str) -> (Service, Vec<String>) {
    let yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\nspec: {spec}\n{rest}\n"
    );
    let object: core::Service = serde_saphyr::from_str(&yaml).unwrap();
    let Converted { value, problems } = service(&object);
    let object = "Service default/web";
    assert!(problems.iter().all(|p| p.object.to_string() == object));
    (value, problems.into_iter().map(|p| p.message).collect())
}

fn slice(metadata: &str, rest: &str) -> (Option<EndpointSlice>, Vec<String>) {
    let yaml = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1, namespace: default, {metadata}}}\n{rest}\n"
    );
    let object: discovery::EndpointSlice = serde_saphyr::from_str(&yaml).unwrap();
    let Converted { value, problems } = endpoint_slice(&object);
    let value = match value {
        Change::Upsert(slice) => Some(slice),
        Change::Delete(_) => None,
    };
    (value, problems.into_iter().map(|p| p.message).collect())
}

const OF_WEB: &str = "labels: {kubernetes.io/service-name: web}";

#[test]
fn s1_addresses_are_read_and_wrong_ones_left_out() {
    let (service, problems) = convert(
        "{clusterIP: 10.96.0.010, clusterIPs: [10.96.0.010, 'fd00::a'], externalIPs: [198.51.100.7, 300.0.0.1, 127.0.0.1, 198.51.100.7]}",
        "status: {loadBalancer: {ingress: [{ip: 203.0.113.10}, {hostname: lb.example}, {ip: 0.0.0.0}]}}",
    );
    assert_eq!(service.cluster_ips, ips(&["10.96.0.10", "fd00::a"]));
    assert_eq!(service.external_ips, ips(&["198.51.100.7"]));
    assert_eq!(service.load_balancer_ips, ips(&["203.0.113.10"]));
    assert_eq!(
        problems,
        [
            "externalIPs: \"300.0.0.1\" is no IP address; it is left out",
            "externalIPs: \"127.0.0.1\" is a loopback address; it is left out",
            "status.loadBalancer.ingress: \"0.0.0.0\" is the unspecified address; it is left out",
        ]
    );
}

#[test]
fn s1_cluster_ip_alone_is_enough() {
    let (service, problems) = convert("{clusterIP: 10.96.0.1}", "");
    assert_eq!(service.cluster_ips, ips(&["10.96.0.1"]));
    assert!(service.has_family(Family::V4) && !service.has_family(Family::V6));
    assert!(problems.is_empty());
    let (service, problems) = convert("{clusterIP: ''}", "");
    assert!(service.cluster_ips.is_empty() && problems.is_empty());
}

#[test]
fn s1_ports_have_defaults_and_wrong_ones_are_left_out() {
    let (service, problems) = convert(
        "{ports: [{port: 80}, {name: dns, port: 53, protocol: UDP, nodePort: 30053}, {name: a, port: 0}, {name: b, port: 65536}, {name: c, port: 1, protocol: ICMP}, {name: d, port: 80}, {name: e, port: 81, nodePort: -1}, {name: f, port: 54, protocol: UDP, nodePort: 30053}]}",
        "",
    );
    let port = |name: &str, protocol, port, node_port| ServicePort {
        name: name.to_owned(),
        protocol,
        port,
        node_port,
    };
    assert_eq!(
        service.ports,
        [
            port("", Protocol::Tcp, 80, None),
            port("dns", Protocol::Udp, 53, Some(30053)),
            port("e", Protocol::Tcp, 81, None),
            port("f", Protocol::Udp, 54, None),
        ]
    );
    assert_eq!(
        problems,
        [
            "port \"a\": 0 is no port number; the port is left out",
            "port \"b\": 65536 is no port number; the port is left out",
            "port \"c\": protocol \"ICMP\" is not known (TCP, UDP, SCTP); the port is left out",
            "port \"d\": another port has the number 80 and this protocol already; this one is left out",
            "port \"e\": -1 is no node port; it is left out",
            "port \"f\": another port has the node port 30053 and this protocol already; it is left out",
        ]
    );
}

#[test]
fn s2_headless_and_external_name_are_nobodys() {
    for spec in [
        "{clusterIP: None}",
        "{clusterIPs: [None]}",
        "{type: ExternalName, clusterIP: 10.96.0.1, externalName: x.example}",
    ] {
        let (service, problems) = convert(spec, "");
        assert_eq!(service.sharing, Sharing::None, "{spec}");
        assert!(problems.is_empty());
    }
}

#[test]
fn s3_addresses_of_mode_proxy_are_left_alone() {
    let (service, problems) = convert(
        "{clusterIP: 10.96.0.1}",
        "status: {loadBalancer: {ingress: [{ip: 203.0.113.1, ipMode: Proxy}, {ip: 203.0.113.2, ipMode: VIP}, {ip: 203.0.113.3, ipMode: Magic}]}}",
    );
    assert_eq!(service.load_balancer_ips, ips(&["203.0.113.2"]));
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn l2_affinity_has_a_default_and_bounds() {
    let affinity = |spec: &str| {
        let (service, problems) = convert(spec, "");
        (service.affinity_seconds, problems.len())
    };
    assert_eq!(affinity("{}"), (None, 0));
    assert_eq!(affinity("{sessionAffinity: None}"), (None, 0));
    assert_eq!(affinity("{sessionAffinity: ClientIP}"), (Some(10_800), 0));
    let with = |n: i32| {
        affinity(&format!(
            "{{sessionAffinity: ClientIP, sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {n}}}}}}}"
        ))
    };
    assert_eq!(with(1), (Some(1), 0));
    assert_eq!(with(86_400), (Some(86_400), 0));
    assert_eq!(with(0), (Some(10_800), 1));
    assert_eq!(with(86_401), (Some(10_800), 1));
    assert_eq!(affinity("{sessionAffinity: Cookie}"), (None, 1));
}

#[test]
fn l1_slow_start_by_annotation() {
    let slow_start = |annotations: &str| {
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, annotations: {annotations}}}\nspec: {{clusterIP: 10.96.0.1}}\n"
        );
        let object: core::Service = serde_saphyr::from_str(&yaml).unwrap();
        let Converted { value, problems } = service(&object);
        let problems: Vec<_> = problems.into_iter().map(|p| p.message).collect();
        (value.slow_start, problems)
    };
    assert_eq!(slow_start("{}"), (None, vec![]));
    assert_eq!(
        slow_start("{kube-proxy-ebpf.io/slow-start: 1m30s}"),
        (Some(90), vec![])
    );
    // Off, whatever the flag says.
    assert_eq!(
        slow_start("{kube-proxy-ebpf.io/slow-start: 0s}"),
        (Some(0), vec![])
    );
    let (none, problems) = slow_start("{kube-proxy-ebpf.io/slow-start: soon}");
    assert_eq!(none, None);
    assert_eq!(
        problems,
        [
            "annotation kube-proxy-ebpf.io/slow-start: \"soon\" is no duration of whole seconds up to 18h (30s, 2m; 0s: \
             none); the node's default is taken"
        ]
    );
}

#[test]
fn b4_policies_default_to_cluster() {
    let (service, problems) = convert(
        "{internalTrafficPolicy: Local, externalTrafficPolicy: Nearby}",
        "",
    );
    assert_eq!(service.internal_policy, TrafficPolicy::Local);
    assert_eq!(service.external_policy, TrafficPolicy::Cluster);
    assert_eq!(problems.len(), 1);
}

/// The ranges of both families, and the number of problems.
fn ranges(list: &str) -> (Option<Vec<String>>, Option<Vec<String>>, usize) {
    let (service, problems) = convert(
        &format!("{{clusterIPs: [10.96.0.1, 'fd00::1'], loadBalancerSourceRanges: {list}}}"),
        "status: {loadBalancer: {ingress: [{ip: 203.0.113.1}, {ip: '2001:db8::1'}]}}",
    );
    let texts = |family| {
        let ranges = service.source_ranges_of(family)?;
        Some(ranges.iter().map(ToString::to_string).collect())
    };
    (texts(Family::V4), texts(Family::V6), problems.len())
}

#[test]
fn a3_an_empty_list_means_all() {
    assert_eq!(ranges("[]"), (None, None, 0));
}

#[test]
fn a3_each_family_sees_its_own_ranges() {
    let (v4, v6, problems) =
        ranges("[' 198.51.100.0/24', 192.0.2.7/24, '2001:db8::/32', 192.0.2.0/24]");
    assert_eq!(v4.unwrap(), ["192.0.2.0/24", "198.51.100.0/24"]);
    assert_eq!(v6.unwrap(), ["2001:db8::/32"]);
    assert_eq!(problems, 0);
}

#[test]
fn a3_no_valid_range_of_a_family_lets_none_in_and_says_so() {
    assert_eq!(
        ranges("[192.0.2.0/24]"),
        (Some(vec!["192.0.2.0/24".to_owned()]), Some(vec![]), 1)
    );
    assert_eq!(ranges("[nonsense]"), (Some(vec![]), Some(vec![]), 3));
}

#[test]
fn a3_a_range_of_0_means_all() {
    assert_eq!(ranges("[0.0.0.0/0, 192.0.2.0/24, '::/0']"), (None, None, 0));
}

#[test]
fn s2_slices_of_headless_services_are_ignored() {
    let labels = "labels: {kubernetes.io/service-name: web, service.kubernetes.io/headless: ''}";
    assert_eq!(
        slice(labels, "addressType: IPv4\nendpoints: []"),
        (None, vec![])
    );
}

#[test]
fn s5_slices_of_names_or_without_service_are_ignored() {
    assert_eq!(
        slice(OF_WEB, "addressType: FQDN\nendpoints: []"),
        (None, vec![])
    );
    let (none, problems) = slice(OF_WEB, "addressType: IPX\nendpoints: []");
    assert_eq!((none, problems.len()), (None, 1));
    let (none, problems) = slice("labels: {}", "addressType: IPv4\nendpoints: []");
    assert_eq!((none, problems.len()), (None, 1));
}

#[test]
fn s5_b1_endpoints_have_defaults() {
    let (slice, problems) = slice(
        OF_WEB,
        "addressType: IPv4\nports: [{port: 80}, {name: all}]\nendpoints: [{addresses: [10.244.001.5, 10.244.1.6]}, {addresses: [10.244.1.7], nodeName: w1, zone: a, conditions: {ready: false, serving: false, terminating: true}, hints: {forNodes: [{name: w1}], forZones: [{name: a}]}}]",
    );
    assert!(problems.is_empty());
    let slice = slice.unwrap();
    assert_eq!((slice.ports.len(), slice.weight), (1, 1));
    assert_eq!(
        (slice.ports[0].name.as_str(), slice.ports[0].protocol),
        ("", Protocol::Tcp)
    );
    let [first, second] = &slice.endpoints[..] else {
        panic!("{slice:?}")
    };
    assert_eq!(first.address, ips(&["10.244.1.5"])[0]);
    assert!(first.ready && first.serving && !first.terminating);
    assert!(!second.ready && !second.serving && second.terminating);
    assert_eq!(
        (second.node.as_deref(), second.zone.as_deref()),
        (Some("w1"), Some("a"))
    );
    assert!(second.node_hints.contains("w1") && second.zone_hints.contains("a"));
}

#[test]
fn s5_wrong_parts_of_a_slice_are_left_out() {
    let (slice, problems) = slice(
        OF_WEB,
        "addressType: IPv4\nports: [{name: a, port: 70000}, {name: b, port: 1, protocol: X}, {name: c, port: 8080}]\nendpoints: [{addresses: []}, {addresses: ['fd00::1']}, {addresses: [x]}, {addresses: [127.0.0.1]}, {addresses: [10.244.1.5]}]",
    );
    let slice = slice.unwrap();
    assert_eq!((slice.ports.len(), slice.endpoints.len()), (1, 1));
    assert_eq!(
        problems,
        [
            "port \"a\": 70000 is no port number; it is left out",
            "port \"b\": protocol \"X\" is not known (TCP, UDP, SCTP); it is left out",
            "endpoints[0] has no address; it is left out",
            "endpoints[1]: \"fd00::1\" is not of the slice's addressType; it is left out",
            "endpoints[2]: \"x\" is no IP address; it is left out",
            "endpoints[3]: \"127.0.0.1\" is a loopback address; it is left out",
        ]
    );
}

#[test]
fn l1_weight_by_annotation() {
    let weight = |text: &str| {
        let metadata = format!("{OF_WEB}, annotations: {{kube-proxy-ebpf.io/weight: '{text}'}}");
        let (slice, problems) = slice(&metadata, "addressType: IPv4\nendpoints: []");
        (slice.unwrap().weight, problems.len())
    };
    assert_eq!(weight("50"), (50, 0));
    for wrong in ["0", "-1", "65536", "heavy", ""] {
        assert_eq!(weight(wrong), (1, 1), "{wrong}");
    }
}

#[test]
fn s4_node_addresses_internal_first() {
    let object: core::Node = serde_saphyr::from_str(
        "apiVersion: v1\nkind: Node\nmetadata: {name: w1, labels: {topology.kubernetes.io/zone: a}}\nstatus: {addresses: [{type: Hostname, address: w1}, {type: ExternalIP, address: 198.51.100.1}, {type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: '2001:db8::1'}, {type: InternalIP, address: nope}]}",
    )
    .unwrap();
    let Converted { value, problems } = node(&object);
    assert_eq!(value.zone.as_deref(), Some("a"));
    assert_eq!(
        value.addresses,
        ips(&["192.0.2.1", "2001:db8::1", "198.51.100.1"])
    );
    assert_eq!(
        value.primary_addresses().collect::<Vec<_>>(),
        ips(&["192.0.2.1", "2001:db8::1"])
    );
    assert_eq!(problems.len(), 1);
}

#[test]
fn h2_a_node_is_leaving_when_it_is_deleted_or_marked_for_it() {
    let leaving = |rest: &str| {
        let yaml = format!("apiVersion: v1\nkind: Node\n{rest}\n");
        let object: core::Node = serde_saphyr::from_str(&yaml).unwrap();
        node(&object).value.leaving
    };
    let name = "metadata: {name: w1}";
    assert!(!leaving(name));
    assert!(!leaving(&format!(
        "{name}\nspec: {{taints: [{{key: other, effect: NoSchedule}}]}}"
    )));
    assert!(leaving(&format!(
        "{name}\nspec: {{taints: [{{key: other, effect: NoSchedule}}, {{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}}]}}"
    )));
    assert!(leaving(
        "metadata: {name: w1, deletionTimestamp: '2026-01-01T00:00:00Z'}"
    ));
}

#[test]
fn h1_only_a_load_balancer_that_wants_local_endpoints_has_a_health_check() {
    let check = |spec: &str| {
        let (service, problems) = convert(&format!("{{clusterIP: 10.96.0.1, {spec}}}"), "");
        (service.health_check_node_port, problems.len())
    };
    let local = "externalTrafficPolicy: Local, healthCheckNodePort: 32000";
    assert_eq!(
        check(&format!("type: LoadBalancer, {local}")),
        (Some(32_000), 0)
    );
    assert_eq!(check(&format!("type: NodePort, {local}")), (None, 0));
    assert_eq!(
        check("type: LoadBalancer, healthCheckNodePort: 32000"),
        (None, 0)
    );
    let local = "type: LoadBalancer, externalTrafficPolicy: Local";
    assert_eq!(check(local), (None, 0));
    assert_eq!(
        check(&format!("{local}, healthCheckNodePort: 0")),
        (None, 0)
    );
    assert_eq!(
        check(&format!("{local}, healthCheckNodePort: 65536")),
        (None, 1)
    );
    let port = |protocol: &str| {
        format!(
            "{local}, healthCheckNodePort: 32000, ports: [{{port: 80, protocol: {protocol}, nodePort: 32000}}]"
        )
    };
    assert_eq!(check(&port("TCP")), (None, 1));
    assert_eq!(check(&port("UDP")), (Some(32_000), 0));
}
