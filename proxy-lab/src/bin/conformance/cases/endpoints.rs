//! Endpoints: which pods a Service has, at which ports, by which slices.

use proxy_lab::Family;
use proxy_lab::objects::Endpoint;
use serde_json::{Value, json};

use crate::case::{Case, Outcome};
use crate::ground::{Ground, Server, Service, TARGET, Way};

pub const CASES: &[Case] = &[
    Case::new(
        "B1",
        "unready-pods-get-no-connections",
        &[
            "should update endpoints: http",
            "should update endpoints: udp",
        ],
        unready,
    ),
    Case::new(
        "B1",
        "conditions-that-are-not-said",
        &[],
        conditions_not_said,
    ),
    Case::new(
        "B1",
        "publish-not-ready-addresses",
        &["should create endpoints for unready pods"],
        publish_not_ready,
    ),
    Case::new(
        "S5",
        "ports-by-name-differ-by-pod",
        &[
            "should serve multiport endpoints from pods",
            "should create Endpoints and EndpointSlices for Pods matching a Service",
        ],
        ports_by_name,
    ),
    Case::new(
        "S5",
        "several-slices-are-one-service",
        &[
            "should support a Service with multiple endpoint IPs specified in multiple EndpointSlices",
        ],
        several_slices,
    ),
    Case::new(
        "S5",
        "slices-with-ports-of-their-own",
        &["should support a Service with multiple ports specified in multiple EndpointSlices"],
        ports_of_slices,
    ),
    Case::new(
        "S5",
        "an-endpoint-moves-between-slices",
        &[],
        moves_between_slices,
    ),
    Case::new(
        "S5",
        "endpoints-by-hand-are-mirrored",
        &[
            "endpointslicemirroring.go: should mirror a custom Endpoints resource through create update and delete",
            "should test the lifecycle of an Endpoint",
        ],
        mirrored,
    ),
    Case::new(
        "S5",
        "host-network-pods-are-endpoints",
        &["should function for service endpoints using hostNetwork"],
        host_network,
    ),
];

/// A pod that becomes unready is left out, and comes back when it is ready; so is one that is deleted.
fn unready(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let service = ground.service("web", &json!({}))?;
    let ways = Way::both(ground.client(), service.vip());
    ground.served_by(ways, [&a.name, &b.name])?;
    ground.set_ready(&a, false)?;
    ground.served_by(ways, [&b.name])?;
    ground.set_ready(&a, true)?;
    ground.served_by(ways, [&a.name, &b.name])?;
    ground.delete_pod(&b)?;
    ground.served_by(ways, [&a.name])
}

/// A Service without a selector, with slices that the case writes.
fn by_hand(ground: &Ground<'_>) -> proxy_lab::Result<Service> {
    ground.service("web", &json!({"selector": null}))
}

fn endpoint(server: &Server) -> Endpoint {
    Endpoint::of(server, Family::V4)
}

/// A nil condition means ready and serving.
fn conditions_not_said(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let service = by_hand(ground)?;
    let mut slice = Value::from(ground.slice("web", "web-1", [endpoint(&a), endpoint(&b)]));
    slice["endpoints"][0]["conditions"] = json!({});
    slice["endpoints"][1]["conditions"] = json!({"ready": false});
    ground.api().put(slice)?;
    ground.served_by(Way::both(ground.client(), service.vip()), [&a.name])
}

/// The controller calls unready pods ready then.
fn publish_not_ready(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    ground.set_ready(&a, false)?;
    let published = ground.service("published", &json!({"publishNotReadyAddresses": true}))?;
    let plain = ground.service("plain", &json!({}))?;
    ground.served_by(Way::both(ground.client(), published.vip()), [&a.name])?;
    ground.refused([Way::tcp(ground.client(), plain.vip())])
}

/// Two named ports. Each pod has one of them, with a different port number.
fn ports_by_name(ground: &Ground<'_>) -> Outcome {
    let port = |name: &str, number: u16| json!({"spec": {"containers": [{"name": "web", "image": "none", "ports": [{"name": name, "containerPort": number}]}]}});
    let a = ground.server_with("a", "worker-1", &port("one", 8081))?;
    let b = ground.server_with("b", "worker-2", &port("two", 8082))?;
    let c = ground.server_with("c", "worker-2", &port("one", 8083))?;
    let ports = json!([
        {"name": "first", "port": 80, "targetPort": "one"},
        {"name": "second", "port": 81, "targetPort": "two"},
    ]);
    let service = ground.service("web", &json!({"ports": ports}))?;
    for client in [ground.client(), ground.node("worker-1")] {
        let at = |port: u16| Way::tcp(client, service.at(Family::V4, port));
        ground.served_by([at(80)], [&a.name, &c.name])?;
        ground.served_by([at(81)], [&b.name])?;
    }
    Ok(())
}

/// Merged; an endpoint that is in two of them counts once.
fn several_slices(ground: &Ground<'_>) -> Outcome {
    let [a, b, c] = ground.servers([("a", "worker-1"), ("b", "worker-2"), ("c", "worker-2")])?;
    let service = by_hand(ground)?;
    let ways = Way::both(ground.client(), service.vip());
    ground
        .api()
        .put(ground.slice("web", "web-1", [endpoint(&a), endpoint(&b)]))?;
    ground.served_by(ways, [&a.name, &b.name])?;
    ground
        .api()
        .put(ground.slice("web", "web-2", [endpoint(&b), endpoint(&c)]))?;
    ground.served_by(ways, [&a.name, &b.name, &c.name])?;
    ground.delete("discovery.k8s.io/v1", "EndpointSlice", "web-1")?;
    ground.served_by(ways, [&b.name, &c.name])
}

/// The port of one name has another number in each slice, and one slice lacks a port.
fn ports_of_slices(ground: &Ground<'_>) -> Outcome {
    let other = json!({"spec": {"containers": [{"name": "web", "image": "none", "ports": [{"containerPort": 9090}]}]}});
    let [a] = ground.servers([("a", "worker-1")])?;
    let b = ground.server_with("b", "worker-2", &other)?;
    let service = by_hand(ground)?;
    ground
        .api()
        .put(ground.slice("web", "web-1", [endpoint(&a)]))?;
    let mut slice = Value::from(ground.slice("web", "web-2", [endpoint(&b)]));
    slice["ports"] = json!([{"name": "tcp", "port": 9090, "protocol": "TCP"}]);
    ground.api().put(slice)?;
    ground.served_by(
        [Way::tcp(ground.client(), service.vip())],
        [&a.name, &b.name],
    )?;
    ground.served_by([Way::udp(ground.client(), service.vip())], [&a.name])
}

/// It is in both for a while, then in the other alone, and answers all the time.
fn moves_between_slices(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let service = by_hand(ground)?;
    let way = Way::tcp(ground.client(), service.vip());
    ground
        .api()
        .put(ground.slice("web", "web-1", [endpoint(&a)]))?;
    ground.served_by([way], [&a.name])?;
    let probe = ground.probe(&way)?;
    ground
        .api()
        .put(ground.slice("web", "web-2", [endpoint(&a), endpoint(&b)]))?;
    ground.api().put(ground.slice("web", "web-1", []))?;
    ground.served_by([way], [&a.name, &b.name])?;
    ground.delete("discovery.k8s.io/v1", "EndpointSlice", "web-1")?;
    ground.settled()?;
    ground.never_failed(probe)?;
    ground.served_by([way], [&a.name, &b.name])
}

/// A hand-written Endpoints object is created, changed and deleted.
fn mirrored(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let service = ground.service(
        "web",
        &json!({"selector": null, "ports": [{"port": 80, "targetPort": TARGET}]}),
    )?;
    let endpoints = |server: &Server| {
        let mut object = ground.reference("v1", "Endpoints", "web");
        object["subsets"] =
            json!([{"addresses": [{"ip": server.ip(Family::V4)}], "ports": [{"port": TARGET}]}]);
        object
    };
    let way = Way::tcp(ground.client(), service.vip());
    ground.api().put(endpoints(&a))?;
    ground.served_by([way], [&a.name])?;
    ground.api().put(endpoints(&b))?;
    ground.served_by([way], [&b.name])?;
    ground.delete("v1", "Endpoints", "web")?;
    ground.until_endpoints("web", [])?;
    ground.refused([way])
}

/// Processes of nodes, for clients of each kind, on the same node and on others.
fn host_network(ground: &Ground<'_>) -> Outcome {
    let spec = |port: u16| {
        json!({"spec": {"hostNetwork": true, "containers": [{"name": "web", "image": "none", "ports": [
            {"name": "tcp", "containerPort": port}, {"name": "udp", "containerPort": port, "protocol": "UDP"},
        ]}]}})
    };
    let a = ground.server_with("a", "worker-1", &spec(8280))?;
    let b = ground.server_with("b", "worker-2", &spec(8280))?;
    let ports = json!([
        {"name": "tcp", "port": 80, "targetPort": 8280},
        {"name": "udp", "port": 80, "targetPort": 8280, "protocol": "UDP"},
    ]);
    let service = ground.service("web", &json!({"type": "NodePort", "ports": ports}))?;
    for client in [
        ground.client(),
        ground.node("worker-1"),
        ground.node("control-plane"),
    ] {
        ground.served_by(Way::both(client, service.vip()), [&a.name, &b.name])?;
    }
    for node in ["worker-1", "control-plane"] {
        let way = Way::tcp(ground.outside(), ground.at_node(node, &service));
        ground.served_by([way], [&a.name, &b.name])?;
    }
    Ok(())
}
