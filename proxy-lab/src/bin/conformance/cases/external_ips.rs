//! External IPs, and Services that claim what another one has.

use std::time::Duration;

use proxy_lab::{Family, Protocol};
use serde_json::json;

use crate::case::{Case, Outcome};
use crate::ground::{Ground, PORT, TARGET, Way};

pub const CASES: &[Case] = &[
    Case::new(
        "S1",
        "external-ip-from-everywhere",
        &[
            "should be possible to connect to a service via ExternalIP when the external IP is not assigned to a node",
        ],
        from_everywhere,
    ),
    Case::new("S1", "external-ip-comes-and-goes", &[], comes_and_goes),
    Case::new("S7", "external-ip-of-two-services", &[], of_two_services),
    Case::new(
        "S7",
        "external-ip-that-is-a-cluster-ip",
        &[],
        that_is_a_cluster_ip,
    ),
    Case::new(
        "S7",
        "external-ip-that-is-a-nodes-address",
        &[],
        that_is_a_nodes_address,
    ),
    Case::new(
        "S7",
        "external-ip-does-not-take-a-nodes-own-traffic",
        &[],
        own_traffic,
    ),
];

fn from_everywhere(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let ip = ground.external_ip().v4;
    ground.service("web", &json!({"externalIPs": [ip]}))?;
    for client in [
        ground.outside(),
        ground.client(),
        ground.node("worker-2"),
        ground.node("control-plane"),
    ] {
        ground.served_by(Way::both(client, (ip, PORT).into()), [&a.name, &b.name])?;
    }
    Ok(())
}

/// One more, then only that one; the ClusterIP serves all the time.
fn comes_and_goes(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let [first, second] = [ground.external_ip().v4, ground.external_ip().v4];
    let service = ground.service("web", &json!({"externalIPs": [first]}))?;
    let at = |ip: std::net::Ipv4Addr| Way::tcp(ground.outside(), (ip, PORT).into());
    ground.served_by([at(first)], [&a.name])?;
    let probe = ground.probe(&at(first))?;
    ground.change_service(&service, &json!({"externalIPs": [first, second]}))?;
    ground.served_by([at(second)], [&a.name])?;
    ground.never_failed(probe)?;
    ground.change_service(&service, &json!({"externalIPs": [second]}))?;
    ground.settled()?;
    ground.unanswered([at(first)])?;
    ground.served_by([at(second)], [&a.name])
}

/// The older has it; the younger takes over when it goes.
fn of_two_services(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-1")])?;
    let b = ground.server_with(
        "b",
        "worker-2",
        &json!({"metadata": {"labels": {"app": "other"}}}),
    )?;
    let ip = ground.external_ip().v4;
    let older = ground.service("web", &json!({"externalIPs": [ip]}))?;
    // Objects are as old as the second of their creation.
    std::thread::sleep(Duration::from_millis(1100));
    let younger = ground.service(
        "a-rival",
        &json!({"externalIPs": [ip], "selector": {"app": "other"}}),
    )?;
    ground.served_by([Way::tcp(ground.client(), younger.vip())], [&b.name])?;
    ground.settled()?;
    let ways = [
        Way::tcp(ground.outside(), (ip, PORT).into()),
        Way::tcp(ground.client(), (ip, PORT).into()),
    ];
    ground.served_by(ways, [&a.name])?;
    ground.delete_service(&older)?;
    ground.served_by(ways, [&b.name])?;
    ground.served_by([Way::tcp(ground.client(), younger.vip())], [&b.name])
}

/// Nobody takes another Service's traffic by naming its address.
fn that_is_a_cluster_ip(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-1")])?;
    let thief = ground.server_with(
        "thief",
        "worker-2",
        &json!({"metadata": {"labels": {"app": "thief"}}}),
    )?;
    // The one that claims is the older, too.
    let victim = ground.service("web", &json!({}))?;
    let spec = json!({"externalIPs": [victim.vip().ip()], "selector": {"app": "thief"}});
    let rival = ground.service("a-rival", &spec)?;
    ground.served_by([Way::tcp(ground.client(), rival.vip())], [&thief.name])?;
    ground.settled()?;
    for client in [ground.client(), ground.node("worker-1")] {
        ground.served_by(Way::both(client, victim.vip()), [&a.name])?;
    }
    Ok(())
}

/// The external IP is a node's address, at a port without a listener.
fn that_is_a_nodes_address(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let ip = ground.node("worker-2").ip(Family::V4);
    let port = 7001;
    let ports = json!([{"name": "tcp", "port": port, "targetPort": TARGET}]);
    ground.service("web", &json!({"externalIPs": [ip], "ports": ports}))?;
    ground.served_by([Way::tcp(ground.outside(), (ip, port).into())], [&a.name])
}

/// A process of the node that listens is the one that is reached, by its own node and from outside (CVE-2020-8554).
fn own_traffic(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let node = ground.node("worker-2");
    let port = 7002;
    let process = node.server(Protocol::Tcp, Family::V4, port)?;
    let to = node.at(Family::V4, port);
    let ports = json!([{"name": "tcp", "port": port, "targetPort": TARGET}]);
    let spec = json!({"externalIPs": [node.ip(Family::V4)], "ports": ports});
    let service = ground.service("web", &spec)?;
    ground.served_by(
        [Way::tcp(ground.client(), service.at(Family::V4, port))],
        [&a.name],
    )?;
    ground.settled()?;
    let outcome = ground.served_by(
        [Way::tcp(node, to), Way::tcp(ground.outside(), to)],
        [node.name()],
    );
    process.stop()?;
    outcome
}
