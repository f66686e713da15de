//! Topology: which endpoints a node prefers. The controllers write hints from `trafficDistribution`; hints decide.

use proxy_lab::objects::{Endpoint, Service as Builder};
use proxy_lab::{Family, Protocol};
use serde_json::{Value, json};

use crate::case::{Case, Outcome};
use crate::ground::{Ground, PORT, Server, Service, TARGET, WORKERS, Way};

/// The cases.
pub const CASES: &[Case] = &[
    Case::new(
        "B2",
        "prefer-same-zone",
        &[
            "should route traffic to an endpoint in the same zone when using PreferSameZone",
            "should route traffic correctly between pods on multiple nodes when using PreferSameZone",
        ],
        |ground| {
            by_zone(
                ground,
                &json!({"trafficDistribution": "PreferSameZone"}),
                &json!({}),
            )
        },
    ),
    Case::new(
        "B2",
        "prefer-close",
        &[
            "should route traffic to an endpoint in the same zone when using PreferClose",
            "should route traffic correctly between pods on multiple nodes when using PreferClose",
        ],
        |ground| {
            by_zone(
                ground,
                &json!({"trafficDistribution": "PreferClose"}),
                &json!({}),
            )
        },
    ),
    Case::new(
        "B2",
        "topology-mode-auto",
        &["should distribute endpoints evenly"],
        |ground| {
            let annotations = json!({"service.kubernetes.io/topology-mode": "Auto"});
            by_zone(
                ground,
                &json!({}),
                &json!({"metadata": {"annotations": annotations}}),
            )
        },
    ),
    Case::new(
        "B2",
        "prefer-same-node",
        &[
            "should route traffic to an endpoint on the same node or fall back to same zone when using PreferSameNode",
            "should route traffic to an endpoint on the same node when using PreferSameNode and fall back when the \
             endpoint becomes unavailable",
        ],
        prefer_same_node,
    ),
    Case::new(
        "B2",
        "no-endpoint-in-the-zone",
        &[],
        no_endpoint_in_the_zone,
    ),
    Case::new("B2", "hint-missing-on-one-endpoint", &[], hint_missing),
    Case::new("B2", "hints-of-unready-endpoints", &[], hints_of_unready),
    Case::new(
        "B2",
        "hints-and-only-terminating-endpoints",
        &[],
        only_terminating,
    ),
    Case::new("B2", "zone-of-the-node-unknown", &[], zone_unknown).alone(),
];

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Clients on a worker, and clients outside that use one of its node ports.
fn ways<'a>(ground: &'a Ground<'_>, worker: &str, service: &Service) -> Vec<Way<'a>> {
    let pod = if worker == WORKERS[0].0 {
        ground.client()
    } else {
        ground.far_client()
    };
    let node = ground.node(worker);
    let node_port = node.at(Family::V4, service.node_port());
    let mut ways = vec![
        Way::tcp(node, service.vip()),
        Way::tcp(ground.outside(), node_port),
    ];
    ways.extend(Way::both(pod, service.vip()));
    ways
}

/// One endpoint in each zone: the one in the node's own is asked. The control plane's node has a zone and no endpoint.
fn by_zone(ground: &Ground<'_>, spec: &Value, fields: &Value) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let mut spec = spec.clone();
    spec["type"] = "NodePort".into();
    let service = ground.service_with("web", &spec, fields)?;
    ground.served_by(ways(ground, "worker-1", &service), [&a.name])?;
    ground.served_by(ways(ground, "worker-2", &service), [&b.name])?;
    let beside = ground.node("control-plane");
    ground.served_by([Way::tcp(beside, service.vip())], [&a.name])
}

fn prefer_same_node(ground: &Ground<'_>) -> Outcome {
    let [a1, a2, b] =
        ground.servers([("a1", "worker-1"), ("a2", "worker-1"), ("b", "worker-2")])?;
    let spec = json!({"type": "NodePort", "trafficDistribution": "PreferSameNode"});
    let service = ground.service("web", &spec)?;
    ground.served_by(ways(ground, "worker-1", &service), [&a1.name, &a2.name])?;
    ground.served_by(ways(ground, "worker-2", &service), [&b.name])?;
    // That node has no endpoint, so endpoints in its zone are used.
    let beside = ground.node("control-plane");
    ground.served_by([Way::tcp(beside, service.vip())], [&a1.name, &a2.name])?;
    ground.set_ready(&a1, false)?;
    ground.served_by(ways(ground, "worker-1", &service), [&a2.name])?;
    // None in the zone either: all.
    ground.set_ready(&a2, false)?;
    ground.served_by(ways(ground, "worker-1", &service), [&b.name])?;
    ground.set_ready(&a1, true)?;
    ground.served_by(ways(ground, "worker-1", &service), [&a1.name])
}

fn no_endpoint_in_the_zone(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-1")])?;
    let spec = json!({"type": "NodePort", "trafficDistribution": "PreferSameZone"});
    let service = ground.service("web", &spec)?;
    ground.served_by(ways(ground, "worker-2", &service), [&a.name])?;
    let [b] = ground.servers([("b", "worker-2")])?;
    ground.served_by(ways(ground, "worker-2", &service), [&b.name])?;
    ground.served_by(ways(ground, "worker-1", &service), [&a.name])?;
    ground.delete_pod(&b)?;
    ground.served_by(ways(ground, "worker-2", &service), [&a.name])
}

/// A Service with these endpoints, which no controller writes.
fn by_hand(ground: &Ground<'_>, endpoints: impl IntoIterator<Item = Endpoint>) -> Outcome<Service> {
    let service = ground.service("web", &json!({"type": "NodePort", "selector": null}))?;
    put_endpoints(ground, endpoints)?;
    Ok(service)
}

fn put_endpoints(ground: &Ground<'_>, endpoints: impl IntoIterator<Item = Endpoint>) -> Outcome {
    let service = Builder::new("web")
        .namespace(&ground.space)
        .port("tcp", Protocol::Tcp, PORT)
        .port("udp", Protocol::Udp, PORT);
    let slice = service.slice(Family::V4, TARGET).endpoints(endpoints);
    Ok(ground.api().put(slice)?)
}

fn endpoint(server: &Server) -> Endpoint {
    Endpoint::of(server, Family::V4)
}

fn hint_missing(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let to_a = || endpoint(&a).for_zones(["zone-a"]);
    let service = by_hand(ground, [to_a(), endpoint(&b)])?;
    ground.served_by(ways(ground, "worker-1", &service), [&a.name, &b.name])?;
    // A hint for a node does not stand for one of a zone, but all have nodes' then.
    put_endpoints(
        ground,
        [
            to_a().for_nodes(["worker-1"]),
            endpoint(&b).for_nodes(["worker-2"]),
        ],
    )?;
    ground.served_by(ways(ground, "worker-1", &service), [&a.name])?;
    ground.served_by(ways(ground, "worker-2", &service), [&b.name])?;
    // All have one, none is for zone-a.
    put_endpoints(
        ground,
        [
            endpoint(&a).for_zones(["zone-c"]),
            endpoint(&b).for_zones(["zone-b"]),
        ],
    )?;
    ground.served_by(ways(ground, "worker-1", &service), [&a.name, &b.name])?;
    ground.served_by(ways(ground, "worker-2", &service), [&b.name])
}

fn hints_of_unready(ground: &Ground<'_>) -> Outcome {
    let [a, b, c] = ground.servers([("a", "worker-1"), ("b", "worker-2"), ("c", "worker-2")])?;
    let endpoints = [
        endpoint(&a).for_zones(["zone-a"]),
        endpoint(&b).for_zones(["zone-b"]),
        // Has no hint, and does not count.
        endpoint(&c).not_ready(),
    ];
    let service = by_hand(ground, endpoints)?;
    ground.served_by(ways(ground, "worker-1", &service), [&a.name])?;
    ground.served_by(ways(ground, "worker-2", &service), [&b.name])
}

fn only_terminating(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let leaving = [
        endpoint(&a).for_zones(["zone-a"]).terminating(true),
        endpoint(&b).for_zones(["zone-b"]).terminating(true),
    ];
    let service = by_hand(ground, leaving)?;
    ground.served_by(ways(ground, "worker-1", &service), [&a.name, &b.name])
}

fn zone_unknown(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let endpoints = [
        endpoint(&a).for_zones(["zone-a"]),
        endpoint(&b).for_zones(["zone-b"]),
    ];
    let service = by_hand(ground, endpoints)?;
    ground.served_by(ways(ground, "worker-1", &service), [&a.name])?;
    let (worker, zone) = WORKERS[0];
    let set_zone = |zone: Value| {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": worker}});
        ground
            .api()
            .patch(node, json!({"metadata": {"labels": {ZONE_LABEL: zone}}}))
    };
    set_zone(Value::Null)?;
    let unknown = ground.served_by(ways(ground, worker, &service), [&a.name, &b.name]);
    set_zone(zone.into())?;
    unknown?;
    ground.served_by(ways(ground, worker, &service), [&a.name])
}
