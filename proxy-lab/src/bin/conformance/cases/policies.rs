//! Traffic policies: who is kept to his node's pods, and what becomes of him where there is none.

use serde_json::{Value, json};

use crate::case::{Case, Outcome, ensure};
use crate::ground::{Ground, Way};

pub const CASES: &[Case] = &[
    Case::new(
        "B4",
        "internal-local-keeps-to-the-node",
        &["should respect internalTrafficPolicy=Local Pod to Pod"],
        |ground| internal_local(ground, &json!({})),
    ),
    Case::new(
        "B4",
        "internal-local-with-host-network-pods",
        &["should respect internalTrafficPolicy=Local Pod to Pod (hostNetwork: true)"],
        internal_local_to_host_network,
    ),
    Case::new(
        "B4",
        "internal-local-from-host-network",
        &["should respect internalTrafficPolicy=Local Pod (hostNetwork: true) to Pod"],
        internal_local_from_nodes,
    ),
    Case::new(
        "B4",
        "internal-local-leaves-node-ports-alone",
        &[],
        internal_local_and_node_ports,
    ),
    Case::new(
        "B4",
        "internal-policy-changes",
        &[],
        internal_policy_changes,
    ),
    Case::new(
        "B4",
        "external-local-keeps-to-the-node",
        &[
            "should work for type=NodePort (externalTrafficPolicy: Local)",
            "should only target nodes with endpoints (externalTrafficPolicy: Local)",
        ],
        external_local,
    ),
    Case::new(
        "B4",
        "external-local-from-pods-and-nodes-means-all",
        &["should work from pods (externalTrafficPolicy: Local)"],
        external_local_inside,
    ),
    Case::new(
        "B4",
        "external-local-at-external-ips",
        &[],
        external_local_at_external_ips,
    ),
    Case::new(
        "B4",
        "external-policy-changes",
        &["should handle updates to ExternalTrafficPolicy field"],
        external_policy_changes,
    ),
    Case::new(
        "B4",
        "cluster-ip-in-spite-of-external-local",
        &[],
        cluster_ip_in_spite_of_external_local,
    ),
];

/// Only endpoints on the client's own node serve it. Without one the connection is dropped, since there is
/// an endpoint elsewhere.
fn internal_local(ground: &Ground<'_>, pod: &Value) -> Outcome {
    let a = ground.server_with("a", "worker-1", pod)?;
    let service = ground.service("web", &json!({"internalTrafficPolicy": "Local"}))?;
    ground.served_by(Way::both(ground.client(), service.vip()), [&a.name])?;
    ground.settled()?;
    ground.silent(Way::both(ground.far_client(), service.vip()))
}

/// The same with a process of the node as the endpoint.
fn internal_local_to_host_network(ground: &Ground<'_>) -> Outcome {
    let spec = json!({"spec": {"hostNetwork": true, "containers": [{"name": "web", "image": "none", "ports": [
        {"containerPort": 8180}, {"containerPort": 8180, "protocol": "UDP"},
    ]}]}});
    let a = ground.server_with("a", "worker-1", &spec)?;
    let ports = json!([
        {"name": "tcp", "port": 80, "targetPort": 8180},
        {"name": "udp", "port": 80, "targetPort": 8180, "protocol": "UDP"},
    ]);
    let spec = json!({"internalTrafficPolicy": "Local", "ports": ports});
    let service = ground.service("web", &spec)?;
    ground.served_by(Way::both(ground.client(), service.vip()), [&a.name])?;
    ground.served_by(Way::both(ground.node("worker-1"), service.vip()), [&a.name])?;
    ground.settled()?;
    ground.silent(Way::both(ground.far_client(), service.vip()))
}

fn internal_local_from_nodes(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-1")])?;
    let service = ground.service("web", &json!({"internalTrafficPolicy": "Local"}))?;
    ground.served_by(Way::both(ground.node("worker-1"), service.vip()), [&a.name])?;
    ground.settled()?;
    ground.silent([Way::tcp(ground.node("worker-2"), service.vip())])
}

/// The internal policy is about `ClusterIP`s.
fn internal_local_and_node_ports(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let spec = json!({"type": "NodePort", "internalTrafficPolicy": "Local"});
    let service = ground.service("web", &spec)?;
    let to = ground.at_node("worker-1", &service);
    for client in [ground.outside(), ground.client(), ground.node("worker-1")] {
        ground.served_by([Way::tcp(client, to)], [&a.name])?;
    }
    ground.settled()?;
    ground.silent([Way::tcp(ground.client(), service.vip())])
}

fn internal_policy_changes(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let service = ground.service("web", &json!({}))?;
    let ways = Way::both(ground.client(), service.vip());
    ground.served_by(ways, [&a.name, &b.name])?;
    ground.change_service(&service, &json!({"internalTrafficPolicy": "Local"}))?;
    ground.served_by(ways, [&a.name])?;
    ground.change_service(&service, &json!({"internalTrafficPolicy": "Cluster"}))?;
    ground.served_by(ways, [&a.name, &b.name])
}

fn local() -> Value {
    json!({"type": "NodePort", "externalTrafficPolicy": "Local"})
}

/// A node serves clients outside by its own pods, and drops where it has none.
fn external_local(ground: &Ground<'_>) -> Outcome {
    let [a, b, _] = ground.servers([("a", "worker-1"), ("b", "worker-1"), ("c", "worker-2")])?;
    let service = ground.service("web", &local())?;
    let at = |node: &str| ground.at_node(node, &service);
    ground.served_by(
        [Way::tcp(ground.outside(), at("worker-1"))],
        [&a.name, &b.name],
    )?;
    ground.settled()?;
    ground.silent([Way::tcp(ground.outside(), at("control-plane"))])
}

/// The external policy is about clients outside.
fn external_local_inside(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let service = ground.service("web", &local())?;
    for (client, node) in [
        (ground.client(), "worker-1"),
        (ground.node("worker-1"), "worker-1"),
        (ground.far_client(), "worker-2"),
    ] {
        let way = Way::tcp(client, ground.at_node(node, &service));
        ground.served_by([way], [&a.name, &b.name])?;
    }
    Ok(())
}

/// The workstation's way to external IPs is by the first worker.
fn external_local_at_external_ips(ground: &Ground<'_>) -> Outcome {
    let [a, _] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let ip = ground.external_ip().v4;
    let mut spec = local();
    spec["externalIPs"] = json!([ip]);
    ground.service("web", &spec)?;
    let way = Way::tcp(ground.outside(), (ip, 80).into());
    ground.served_by([way], [&a.name])?;
    let seen = ground.client_seen(&way)?;
    let own = [ground.outside().ip(proxy_lab::Family::V4)].into();
    ensure(seen == own, || format!("the server saw {seen:?}"))?;
    ground.delete_pod(&a)?;
    ground.eventually("no pod is left on the node", || {
        Ok(way
            .ask(1, std::time::Duration::from_secs(1))?
            .servers
            .is_empty())
    })?;
    ground.settled()?;
    ground.silent([way])
}

fn external_policy_changes(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let way = Way::tcp(ground.outside(), ground.at_node("worker-1", &service));
    ground.served_by([way], [&a.name, &b.name])?;
    ground.change_service(&service, &json!({"externalTrafficPolicy": "Local"}))?;
    ground.served_by([way], [&a.name])?;
    ground.change_service(&service, &json!({"externalTrafficPolicy": "Cluster"}))?;
    ground.served_by([way], [&a.name, &b.name])
}

fn cluster_ip_in_spite_of_external_local(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &local())?;
    ground.served_by(Way::both(ground.client(), service.vip()), [&a.name])?;
    ground.served_by(Way::both(ground.node("worker-1"), service.vip()), [&a.name])
}
