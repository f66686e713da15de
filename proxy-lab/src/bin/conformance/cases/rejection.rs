//! Services without endpoints: connections are refused at once and do not time out. (Nodes connect by TCP
//! only: when netfilter drops or rejects a datagram from the node itself, the sender gets EPERM.)

use proxy_lab::Family;
use serde_json::json;

use crate::case::{Case, Outcome};
use crate::ground::{Ground, Way};

pub const CASES: &[Case] = &[
    Case::new(
        "B5",
        "no-endpoints-is-refused-at-the-cluster-ip",
        &["should be rejected when no endpoints exist"],
        at_the_cluster_ip,
    ),
    Case::new(
        "B5",
        "no-endpoints-is-refused-at-node-ports",
        &["should be rejected when no endpoints exist"],
        at_node_ports,
    ),
    Case::new(
        "B5",
        "no-endpoints-is-refused-at-external-ips",
        &[],
        at_external_ips,
    ),
    Case::new(
        "B5",
        "failed-pods-are-no-endpoints",
        &["should be rejected for evicted pods (no endpoints exist)"],
        failed_pods,
    ),
    Case::new(
        "B5",
        "no-endpoints-with-local-policies-is-refused-too",
        &[],
        local_policies,
    ),
];

fn at_the_cluster_ip(ground: &Ground<'_>) -> Outcome {
    let service = ground.service("web", &json!({}))?;
    ground.refused(Way::both(ground.client(), service.vip()))?;
    ground.refused([Way::tcp(ground.node("worker-2"), service.vip())])?;
    // And the first endpoint ever ends that.
    let [a] = ground.servers([("a", "worker-2")])?;
    ground.served_by(Way::both(ground.client(), service.vip()), [&a.name])?;
    ground.delete_pod(&a)?;
    until_nobody_is_left(ground)?;
    ground.refused(Way::both(ground.client(), service.vip()))
}

/// Waits until the subject knows that the Service has no endpoints. (A pod that is about to go refuses as well.)
fn until_nobody_is_left(ground: &Ground<'_>) -> Outcome {
    ground.settled_on("web", [])
}

fn at_node_ports(ground: &Ground<'_>) -> Outcome {
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let ip = |node: &str| ground.node(node).ip(Family::V4);
    for client in [ground.outside(), ground.client()] {
        let ways = [
            Way::tcp(client, (ip("worker-1"), service.node_port_of(0)).into()),
            Way::udp(client, (ip("worker-1"), service.node_port_of(1)).into()),
        ];
        ground.refused(ways)?;
    }
    ground.refused([Way::tcp(
        ground.node("worker-2"),
        ground.at_node("worker-1", &service),
    )])
}

fn at_external_ips(ground: &Ground<'_>) -> Outcome {
    let ip = ground.external_ip().v4;
    let service = ground.service("web", &json!({"externalIPs": [ip]}))?;
    ground.refused([Way::tcp(ground.client(), service.vip())])?;
    for client in [ground.outside(), ground.client()] {
        ground.refused(Way::both(client, (ip, 80).into()))?;
    }
    Ok(())
}

/// A pod that ran to a bad end, and still is an object.
fn failed_pods(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({}))?;
    let ways = Way::both(ground.client(), service.vip());
    ground.served_by(ways, [&a.name])?;
    ground.cluster.fail_pod(&ground.space, &a.name)?;
    until_nobody_is_left(ground)?;
    ground.refused(ways)?;
    ground.refused([Way::tcp(ground.node("worker-1"), service.vip())])
}

/// Where there is no endpoint at all, a local policy does not turn a refusal into silence.
fn local_policies(ground: &Ground<'_>) -> Outcome {
    let spec = json!({
        "type": "NodePort", "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
    });
    let service = ground.service("web", &spec)?;
    ground.refused(Way::both(ground.client(), service.vip()))?;
    ground.refused([Way::tcp(
        ground.outside(),
        ground.at_node("worker-1", &service),
    )])
}
