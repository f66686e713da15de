//! Everything that can be wrong within an object, one thing at a time, for the tests of the sources.

mod beside;

use serde_json::{Value, json};

pub use self::beside::Beside;

/// An object with one thing wrong.
pub struct Case {
    /// `Service`, `EndpointSlice` or `Node`.
    pub kind: &'static str,
    /// Its name; it is in `default`, if it is in a namespace.
    pub name: String,
    /// As the API server would give it.
    pub object: Value,
    /// Words of what is told.
    pub told: &'static str,
}

/// Objects that are in order: a Service with two endpoints, and this node.
pub fn healthy() -> Vec<Value> {
    let mut slice = slice("good-1", "5");
    slice["endpoints"] =
        json!([{"addresses": ["10.244.0.1"], "nodeName": "here"}, {"addresses": ["10.244.0.2"]}]);
    slice["ports"] = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
    vec![service("good", "10.96.0.1", "4"), slice, node("5")]
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let services: Vec<(&str, Value, &str)> = vec![
        (
            "spec/clusterIPs",
            json!(["10.96.1.300"]),
            "is no IP address",
        ),
        (
            "spec/clusterIPs",
            json!(["127.0.0.1"]),
            "is a loopback address",
        ),
        (
            "spec/externalIPs",
            json!(["0.0.0.0"]),
            "is the unspecified address",
        ),
        ("spec/externalIPs", json!(["224.0.0.1"]), "is a multicast"),
        (
            "spec/externalIPs",
            json!(["fe80::1%eth0"]),
            "is no IP address",
        ),
        (
            "spec/externalIPs",
            json!(["10.96.1.1"]),
            "is its own ClusterIP",
        ),
        (
            "status/loadBalancer/ingress",
            json!([{"ip": "lb.example.org"}]),
            "status.loadBalancer.ingress",
        ),
        (
            "status/loadBalancer/ingress",
            json!([{"ip": "203.0.113.1", "ipMode": "Magic"}]),
            "ipMode \"Magic\"",
        ),
        ("spec/ports", json!([{"port": 0}]), "0 is no port number"),
        (
            "spec/ports",
            json!([{"name": "numberless"}]),
            "0 is no port number",
        ),
        ("spec/ports", json!([{"port": -1}]), "-1 is no port number"),
        (
            "spec/ports",
            json!([{"port": 65_536}]),
            "65536 is no port number",
        ),
        (
            "spec/ports",
            json!([{"port": 80, "protocol": "ICMP"}]),
            "protocol \"ICMP\" is not known",
        ),
        (
            "spec/ports",
            json!([{"name": "a", "port": 80}, {"name": "b", "port": 80}]),
            "has the number 80",
        ),
        (
            "spec/ports",
            json!([{"port": 80, "nodePort": 65_536}]),
            "65536 is no node port",
        ),
        (
            "spec/ports",
            json!([{"name": "a", "port": 80, "nodePort": 30_080}, {"name": "b", "port": 81, "nodePort": 30_080}]),
            "has the node port 30080",
        ),
        (
            "spec/internalTrafficPolicy",
            json!("Nearby"),
            "internalTrafficPolicy: \"Nearby\"",
        ),
        (
            "spec/externalTrafficPolicy",
            json!("Nearby"),
            "externalTrafficPolicy: \"Nearby\"",
        ),
        (
            "spec/sessionAffinity",
            json!("Cookie"),
            "sessionAffinity: \"Cookie\"",
        ),
        (
            "spec/sessionAffinityConfig/clientIP/timeoutSeconds",
            json!(0),
            "timeoutSeconds 0",
        ),
        (
            "spec/sessionAffinityConfig/clientIP/timeoutSeconds",
            json!(86_401),
            "timeoutSeconds 86401",
        ),
        (
            "spec/loadBalancerSourceRanges",
            json!(["10.0.0.0/33"]),
            "\"10.0.0.0/33\" is no range",
        ),
        (
            "spec/loadBalancerSourceRanges",
            json!(["2001:db8::/32"]),
            "no valid IPv4 range",
        ),
        (
            "spec/healthCheckNodePort",
            json!(65_536),
            "healthCheckNodePort: 65536",
        ),
        (
            "spec/healthCheckNodePort",
            json!(31_080),
            "is a node port of the same Service",
        ),
        (
            "metadata/annotations",
            json!({"kube-proxy-ebpf.io/algorithm": "fastest"}),
            "\"fastest\" is not known",
        ),
        (
            "metadata/annotations",
            json!({"kube-proxy-ebpf.io/slow-start": "30s-1s"}),
            "\"30s-1s\" is no duration",
        ),
        (
            "metadata/annotations",
            json!({"kube-proxy-ebpf.io/algoritm": "maglev"}),
            "\"kube-proxy-ebpf.io/algoritm\" is not known here, and has no effect; did you mean kube-proxy-ebpf.io/algorithm?",
        ),
        (
            "metadata/annotations",
            json!({"kube-proxy-epbf.io/slow-start": "30s"}),
            "\"kube-proxy-epbf.io/slow-start\" is not known here",
        ),
        (
            "metadata/labels",
            json!({"kube-proxy-ebpf.io/algorithm": "maglev"}),
            "label \"kube-proxy-ebpf.io/algorithm\" has no effect",
        ),
    ];
    let slices: Vec<(&str, Value, &str)> = vec![
        ("addressType", json!("IPX"), "addressType \"IPX\""),
        (
            "endpoints",
            json!([{"addresses": ["10.244.0.256"]}]),
            "is no IP address",
        ),
        (
            "endpoints",
            json!([{"addresses": ["fd00::1"]}]),
            "not of the slice's addressType",
        ),
        ("endpoints", json!([{"addresses": []}]), "has no address"),
        (
            "endpoints",
            json!([{"addresses": ["127.0.0.1"]}]),
            "is a loopback address",
        ),
        (
            "ports",
            json!([{"name": "http", "port": 0}]),
            "0 is no port number",
        ),
        (
            "ports",
            json!([{"name": "http", "port": 70_000}]),
            "70000 is no port number",
        ),
        (
            "ports",
            json!([{"name": "http", "port": 1, "protocol": "QUIC"}]),
            "protocol \"QUIC\"",
        ),
        (
            "metadata/annotations",
            json!({"kube-proxy-ebpf.io/weight": "heavy"}),
            "\"heavy\" is no number",
        ),
        (
            "metadata/annotations",
            json!({"kube-proxy-ebpf.io/wieght": "5"}),
            "did you mean kube-proxy-ebpf.io/weight?",
        ),
        (
            "metadata/labels",
            json!({}),
            "the label kubernetes.io/service-name is missing",
        ),
    ];
    let nodes: Vec<(&str, Value, &str)> = vec![(
        "status/addresses",
        json!([{"type": "InternalIP", "address": "192.0.2.256"}]),
        "is no IP address",
    )];
    let types: Vec<(&str, &str, Value, &str)> = vec![
        (
            "Service",
            "spec",
            json!(7),
            "spec: expected an object, found the number 7",
        ),
        (
            "Service",
            "spec/ports",
            json!("http"),
            "spec.ports: expected a list",
        ),
        (
            "Service",
            "spec/ports",
            json!([{"port": "http"}, {"port": 80}]),
            "spec.ports[0].port: expected a 32-bit integer, found a string; spec.ports[0] is left out",
        ),
        (
            "Service",
            "spec/ports",
            json!([{"port": 80.0}]),
            "spec.ports[0].port: expected a 32-bit integer, found the number 80.0",
        ),
        (
            "Service",
            "spec/externalIPs",
            json!({"a": "b"}),
            "spec.externalIPs: expected a list",
        ),
        (
            "Service",
            "spec/loadBalancerSourceRanges",
            json!([["10.0.0.0/8"]]),
            "spec.loadBalancerSourceRanges[0]: expected a string, found a list",
        ),
        (
            "Service",
            "metadata/labels",
            json!(["a"]),
            "metadata.labels: expected a map of strings",
        ),
        (
            "Service",
            "metadata/creationTimestamp",
            json!("yesterday"),
            "metadata.creationTimestamp: expected a time",
        ),
        (
            "EndpointSlice",
            "endpoints",
            json!("10.244.0.1"),
            "endpoints: expected a list",
        ),
        (
            "EndpointSlice",
            "endpoints",
            json!([{"addresses": "10.244.0.1"}]),
            "endpoints[0].addresses: expected a list",
        ),
        (
            "EndpointSlice",
            "endpoints",
            json!([{"addresses": ["10.244.0.1"], "conditions": {"ready": "yes"}}]),
            "endpoints[0].conditions.ready: expected true or false",
        ),
        (
            "EndpointSlice",
            "ports",
            json!([{"port": 4_294_967_296_i64}]),
            "ports[0].port: expected a 32-bit integer, found the number 4294967296",
        ),
        (
            "Node",
            "status/addresses",
            json!(["192.0.2.1"]),
            "status.addresses[0]: expected an object",
        ),
    ];
    let wrong = [
        ("Service", services),
        ("EndpointSlice", slices),
        ("Node", nodes),
    ]
    .into_iter()
    .flat_map(|(kind, cases)| {
        cases
            .into_iter()
            .map(move |(path, value, told)| (kind, path, value, told))
    });
    wrong
        .chain(types)
        .enumerate()
        .map(|(number, (kind, path, value, told))| {
            let mut object = base(kind, number);
            set(&mut object, path, value);
            Case {
                kind,
                name: object["metadata"]["name"].as_str().unwrap().to_owned(),
                object,
                told,
            }
        })
        .collect()
}

/// An object in order, in which one thing is to be wrong: it has all that a wrong thing must fit to.
fn base(kind: &str, number: usize) -> Value {
    let name = format!("bad-{number}");
    let version = (20 + number).to_string();
    match kind {
        "Service" => {
            let mut object = service(&name, "10.96.1.1", &version);
            object["spec"]["clusterIPs"] = json!(["10.96.1.1"]);
            object["spec"]["type"] = json!("LoadBalancer");
            object["spec"]["sessionAffinity"] = json!("ClientIP");
            object["spec"]["externalTrafficPolicy"] = json!("Local");
            object["spec"]["ports"] = json!([{"port": 80, "nodePort": 31_080}]);
            object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}});
            object
        }
        "EndpointSlice" => slice(&name, &version),
        _ => node(&version),
    }
}

fn service(name: &str, ip: &str, version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "resourceVersion": version, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}]},
    })
}

/// A slice of the healthy Service, without endpoints of use.
fn slice(name: &str, version: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "resourceVersion": version, "labels": {"kubernetes.io/service-name": "good"}},
        "addressType": "IPv4", "endpoints": [], "ports": [],
    })
}

fn node(version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "here", "resourceVersion": version},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    })
}

/// Sets what stands at a path, and makes the way to it.
fn set(object: &mut Value, path: &str, value: Value) {
    let mut place = object;
    for field in path.split('/') {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[field];
    }
    *place = value;
}
