//! Frontends: `ClusterIP`s, ports, and Services of one type that become another's.

use proxy_lab::objects::Endpoint;
use proxy_lab::protocol::FailureKind;
use proxy_lab::{Family, Host, TcpRequest};
use serde_json::{Value, json};

use crate::case::{Case, Outcome, ensure};
use crate::ground::{Ground, PORT, TARGET, Way};

pub const CASES: &[Case] = &[
    Case::new(
        "S1",
        "cluster-ip-from-pods-and-nodes",
        &[
            "should serve a basic endpoint from pods",
            "should function for pod-Service: http",
            "should function for pod-Service: udp",
            "should function for node-Service: http",
            "should function for node-Service: udp",
            "should serve endpoints on same port and different protocols",
        ],
        cluster_ip,
    ),
    Case::new(
        "S1",
        "api-server-through-its-service",
        &["should provide secure master service"],
        api_server,
    ),
    Case::new(
        "S1",
        "ports-are-added-and-removed",
        &["should be updated after adding or deleting ports"],
        ports_change,
    ),
    Case::new(
        "S1",
        "services-with-the-same-selector",
        &["should function for multiple endpoint-Services with same selector"],
        same_selector,
    ),
    Case::new(
        "S2",
        "external-name-becomes-cluster-ip",
        &["should be able to change the type from ExternalName to ClusterIP"],
        external_name_to_cluster_ip,
    ),
    Case::new(
        "S2",
        "external-name-becomes-node-port",
        &["should be able to change the type from ExternalName to NodePort"],
        external_name_to_node_port,
    ),
    Case::new(
        "S2",
        "cluster-ip-becomes-external-name",
        &["should be able to change the type from ClusterIP to ExternalName"],
        cluster_ip_to_external_name,
    ),
    Case::new(
        "S2",
        "node-port-becomes-external-name",
        &["should be able to change the type from NodePort to ExternalName"],
        node_port_to_external_name,
    ),
    Case::new(
        "S2",
        "node-port-becomes-cluster-ip-and-back",
        &[],
        node_port_to_cluster_ip,
    ),
    Case::new(
        "S2",
        "label-service-proxy-name-says-another-proxy",
        &["should implement service.kubernetes.io/service-proxy-name"],
        another_proxy,
    ),
    Case::new(
        "S2",
        "slices-with-the-label-headless-are-ignored",
        &["should implement service.kubernetes.io/headless"],
        headless_slices,
    ),
];

/// From a pod here, a pod there and every node; TCP and UDP at one port are one Service.
fn cluster_ip(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let service = ground.service("web", &json!({}))?;
    for client in clients(ground) {
        ground.served_by(Way::both(client, service.vip()), [&a.name, &b.name])?;
    }
    Ok(())
}

/// Whoever may use a ClusterIP.
fn clients<'a>(ground: &Ground<'a>) -> [&'a Host; 5] {
    [
        ground.client(),
        ground.far_client(),
        ground.node("worker-1"),
        ground.node("worker-2"),
        ground.node("control-plane"),
    ]
}

/// The `kubernetes` Service. Its endpoint is a process on a node, which closes connections that do not
/// speak TLS.
fn api_server(ground: &Ground<'_>) -> Outcome {
    let to = (proxy_lab::address::cluster_ip(1).of(Family::V4), 443).into();
    for client in clients(ground) {
        let exchange = client.tcp_all(TcpRequest::to(to))?.remove(0);
        let hung_up = matches!(&exchange.outcome, Err(failure) if failure.stage == "read" && failure.kind != FailureKind::TimedOut);
        ensure(hung_up && exchange.peer == Some(to), || {
            let outcome = exchange.outcome.map(|identity| identity.to_string());
            format!(
                "{} to {to}: the API server was awaited, not {outcome:?}",
                client.name()
            )
        })?;
    }
    Ok(())
}

/// One port more, then only that one, then it leads elsewhere.
fn ports_change(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({"ports": [port("first", 80)]}))?;
    let at = |port: u16| Way::tcp(ground.client(), service.at(Family::V4, port));
    ground.served_by([at(80)], [&a.name])?;
    ground.change_service(
        &service,
        &json!({"ports": [port("first", 80), port("second", 81)]}),
    )?;
    ground.served_by([at(81), at(80)], [&a.name])?;
    ground.change_service(&service, &json!({"ports": [port("second", 81)]}))?;
    ground.settled()?;
    ground.unanswered([at(80)])?;
    ground.served_by([at(81)], [&a.name])?;
    ground.change_service(&service, &json!({"ports": [port("second", 82)]}))?;
    ground.served_by([at(82)], [&a.name])?;
    ground.settled()?;
    ground.unanswered([at(81)])
}

fn port(name: &str, number: u16) -> Value {
    json!({"name": name, "port": number, "targetPort": TARGET})
}

/// Pods belong to every Service that selects them, and leave all at once.
fn same_selector(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let first = ground.service("first", &json!({}))?;
    let second = ground.service("second", &json!({"type": "NodePort"}))?;
    let ways = [
        Way::tcp(ground.client(), first.vip()),
        Way::tcp(ground.client(), second.vip()),
        Way::tcp(ground.outside(), ground.at_node("worker-1", &second)),
    ];
    ground.served_by(ways, [&a.name, &b.name])?;
    ground.delete_service(&first)?;
    ground.settled()?;
    ground.unanswered([ways[0]])?;
    ground.served_by(ways[1..].iter().copied(), [&a.name, &b.name])?;
    ground.delete_pod(&a)?;
    ground.served_by(ways[1..].iter().copied(), [&b.name])
}

fn external_name() -> Value {
    json!({"type": "ExternalName", "externalName": "elsewhere.example"})
}

/// A merge patch (RFC 7386) that removes the addresses of a Service.
fn no_address() -> Value {
    json!({
        "type": "ExternalName", "externalName": "elsewhere.example",
        "clusterIP": "", "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null,
    })
}

fn external_name_to_cluster_ip(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &external_name())?;
    ground.settled()?;
    let service = ground.change_service(
        &service,
        &json!({"type": "ClusterIP", "externalName": null}),
    )?;
    ground.served_by(Way::both(ground.client(), service.vip()), [&a.name])?;
    ground.served_by(Way::both(ground.node("worker-1"), service.vip()), [&a.name])
}

fn external_name_to_node_port(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &external_name())?;
    ground.settled()?;
    let service =
        ground.change_service(&service, &json!({"type": "NodePort", "externalName": null}))?;
    ground.served_by([Way::tcp(ground.client(), service.vip())], [&a.name])?;
    let node = ground.at_node("worker-1", &service);
    ground.served_by([Way::tcp(ground.outside(), node)], [&a.name])
}

/// Its former address is then unused.
fn cluster_ip_to_external_name(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({}))?;
    let ways = Way::both(ground.client(), service.vip());
    ground.served_by(ways, [&a.name])?;
    ground.change_service(&service, &no_address())?;
    ground.settled()?;
    ground.unanswered(ways)
}

fn node_port_to_external_name(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-1")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let ways = [
        Way::tcp(ground.outside(), ground.at_node("worker-1", &service)),
        Way::tcp(ground.client(), service.vip()),
    ];
    ground.served_by(ways, [&a.name])?;
    ground.change_service(&service, &no_address())?;
    ground.settled()?;
    ground.unanswered(ways)
}

/// The ClusterIP serves all the time.
fn node_port_to_cluster_ip(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let vip = Way::tcp(ground.client(), service.vip());
    let outside = Way::tcp(ground.outside(), ground.at_node("worker-1", &service));
    ground.served_by([vip, outside], [&a.name])?;
    let probe = ground.probe(&vip)?;
    let ports = json!([port("tcp", PORT)]);
    ground.change_service(&service, &json!({"type": "ClusterIP", "ports": ports}))?;
    ground.settled()?;
    ground.unanswered([outside])?;
    let service = ground.change_service(&service, &json!({"type": "NodePort"}))?;
    let again = Way::tcp(ground.outside(), ground.at_node("worker-2", &service));
    ground.served_by([again], [&a.name])?;
    ground.never_failed(probe)
}

/// With the label a Service is not ours; without it, it is.
fn another_proxy(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let labels = |value: Value| json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": value}}});
    let service = ground.service_with("web", &json!({}), &labels("another".into()))?;
    let other = ground.service("other", &json!({}))?;
    let ways = Way::both(ground.client(), service.vip());
    ground.served_by([Way::tcp(ground.client(), other.vip())], [&a.name])?;
    ground.settled()?;
    ground.unanswered(ways)?;
    ground.patch("v1", "Service", "web", labels(Value::Null))?;
    ground.served_by(ways, [&a.name])?;
    ground.patch("v1", "Service", "web", labels("another".into()))?;
    ground.settled()?;
    ground.unanswered(ways)?;
    ground.served_by([Way::tcp(ground.client(), other.vip())], [&a.name])
}

/// With the label, the Service has no endpoints; they return when the label is removed.
fn headless_slices(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({"selector": null}))?;
    let ways = Way::both(ground.client(), service.vip());
    let slice = || ground.slice("web", "web-1", [Endpoint::of(&a, Family::V4)]);
    let labels =
        |value: Value| json!({"metadata": {"labels": {"service.kubernetes.io/headless": value}}});
    ground
        .api()
        .put(slice().label("service.kubernetes.io/headless", ""))?;
    ground.settled()?;
    ground.refused(ways)?;
    let patch = |value: Value| {
        ground.patch(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "web-1",
            labels(value),
        )
    };
    patch(Value::Null)?;
    ground.served_by(ways, [&a.name])?;
    patch("".into())?;
    ground.refused(ways)
}
