//! Whom the server sees.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proxy_lab::{Family, Host, Node};
use serde_json::json;

use crate::case::{Case, Failure, Outcome, ensure};
use crate::ground::{Ground, PORT, TARGET, Way};
use crate::subject::Subject;

pub const CASES: &[Case] = &[
    Case::new(
        "A1",
        "pods-keep-their-address-through-a-cluster-ip",
        &["should preserve source pod IP for traffic thru service cluster IP"],
        pods_keep_theirs,
    ),
    Case::new(
        "A1",
        "nodes-are-seen-by-an-address-of-theirs",
        &[],
        nodes_keep_theirs,
    ),
    Case::new(
        "L5",
        "hairpin-through-a-cluster-ip",
        &["should allow pods to hairpin back to themselves through services"],
        hairpin,
    ),
    Case::new(
        "A1",
        "hairpin-is-seen-from-the-service",
        &[],
        hairpin_source,
    ),
    Case::new(
        "A2",
        "external-local-shows-the-client",
        &[],
        local_shows_the_client,
    ),
    Case::new(
        "A2",
        "external-cluster-shows-the-node-to-others",
        &[],
        cluster_shows_the_node,
    ),
    Case::new(
        "A2",
        "external-cluster-shows-the-client-here",
        &[],
        cluster_shows_the_client_here,
    ),
    Case::new(
        "S6",
        "cluster-ip-not-from-outside",
        &[],
        cluster_ip_from_outside,
    ),
    Case::new("P4", "other-traffic-passes-untouched", &[], other_traffic),
];

fn only(host: &Host) -> BTreeSet<IpAddr> {
    [host.ip(Family::V4)].into()
}

/// A node's own addresses.
fn of(node: &Node) -> BTreeSet<IpAddr> {
    [node.ip(Family::V4), node.pod_gateway().v4.into()].into()
}

fn seen(ground: &Ground<'_>, way: &Way<'_>, allowed: &BTreeSet<IpAddr>) -> Outcome {
    let seen = ground.client_seen(way)?;
    ensure(!seen.is_empty() && seen.is_subset(allowed), || {
        format!("{way}: the server saw {seen:?}, not {allowed:?}")
    })
}

/// To a pod on the same node and one on another, by TCP and UDP.
fn pods_keep_theirs(ground: &Ground<'_>) -> Outcome {
    for (name, node) in [("here", "worker-1"), ("there", "worker-2")] {
        let app = json!({"metadata": {"labels": {"app": name}}});
        let server = ground.server_with(name, node, &app)?;
        let service = ground.service(name, &json!({"selector": {"app": name}}))?;
        let ways = Way::both(ground.client(), service.vip());
        ground.served_by(ways, [&server.name])?;
        for way in ways {
            seen(ground, &way, &only(ground.client()))?;
        }
    }
    Ok(())
}

fn nodes_keep_theirs(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({}))?;
    for node in ground.lab.nodes() {
        let ways = Way::both(node, service.vip());
        ground.served_by(ways, [&a.name])?;
        for way in ways {
            seen(ground, &way, &of(node))?;
        }
    }
    Ok(())
}

/// The only pod reaches itself; of two, each reaches both.
fn hairpin(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-1")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    ground.served_by(Way::both(&a, service.vip()), [&a.name])?;
    ground.served_by(
        [Way::tcp(&a, ground.at_node("worker-1", &service))],
        [&a.name],
    )?;
    let [b] = ground.servers([("b", "worker-2")])?;
    ground.served_by(Way::both(&a, service.vip()), [&a.name, &b.name])?;
    ground.served_by(Way::both(&b, service.vip()), [&a.name, &b.name])
}

/// A pod that connects to itself sees its own address if the socket was translated. Otherwise it sees the
/// Service's address, so that replies come back.
fn hairpin_source(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-1")])?;
    let service = ground.service("web", &json!({}))?;
    let ways = Way::both(&a, service.vip());
    ground.served_by(ways, [&a.name])?;
    let expected = match ground.subject {
        Subject::Sockets => only(&a),
        _ => [service.vip().ip()].into(),
    };
    for way in ways {
        seen(ground, &way, &expected)?;
    }
    Ok(())
}

fn local_shows_the_client(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-1")])?;
    let spec = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    let service = ground.service("web", &spec)?;
    let ip = ground.node("worker-1").ip(Family::V4);
    let ways = [
        Way::tcp(ground.outside(), (ip, service.node_port_of(0)).into()),
        Way::udp(ground.outside(), (ip, service.node_port_of(1)).into()),
    ];
    ground.served_by(ways, [&a.name])?;
    for way in ways {
        seen(ground, &way, &only(ground.outside()))?;
    }
    Ok(())
}

/// A pod elsewhere answers to the node that the client asked, else the answer would not come from there.
fn cluster_shows_the_node(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let node = ground.node("worker-1");
    let ways = [
        Way::tcp(
            ground.outside(),
            node.at(Family::V4, service.node_port_of(0)),
        ),
        Way::udp(
            ground.outside(),
            node.at(Family::V4, service.node_port_of(1)),
        ),
    ];
    ground.served_by(ways, [&a.name])?;
    for way in ways {
        seen(ground, &way, &of(node))?;
    }
    Ok(())
}

/// A pod on the node that the client asked sees the client, although the policy is Cluster.
fn cluster_shows_the_client_here(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-1")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let way = Way::tcp(ground.outside(), ground.at_node("worker-1", &service));
    ground.served_by([way], [&a.name])?;
    seen(ground, &way, &only(ground.outside()))
}

/// A host outside that sends a ClusterIP's packets to a node is not let in.
fn cluster_ip_from_outside(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-1")])?;
    let service = ground.service("web", &json!({}))?;
    ground.served_by(Way::both(ground.client(), service.vip()), [&a.name])?;
    let range = format!("{}/32", service.vip().ip());
    let via = ground.node("worker-1").ip(Family::V4).to_string();
    ground
        .outside()
        .exec(["ip", "route", "add", &range, "via", &via])?;
    let outcome = ground.unanswered(Way::both(ground.outside(), service.vip()));
    ground.outside().exec(["ip", "route", "del", &range])?;
    outcome
}

/// Pod to pod, node to pod, and a process of a node at a port that a Service has too: all see who asks.
fn other_traffic(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({}))?;
    ground.served_by(Way::both(ground.client(), service.vip()), [&a.name])?;
    let pod = a.at(Family::V4, TARGET);
    for (client, allowed) in [
        (ground.client(), only(ground.client())),
        (ground.far_client(), only(ground.far_client())),
        (ground.node("worker-1"), of(ground.node("worker-1"))),
    ] {
        for way in Way::both(client, pod) {
            ground.served_by([way], [&a.name])?;
            seen(ground, &way, &allowed)?;
        }
    }
    let node = ground.node("worker-2");
    let process = node.server(proxy_lab::Protocol::Tcp, Family::V4, PORT)?;
    let way = Way::tcp(ground.outside(), node.at(Family::V4, PORT));
    let reached = ground
        .served_by([way], [node.name()])
        .and_then(|()| seen(ground, &way, &only(ground.outside())));
    process.stop().map_err(Failure::from)?;
    reached
}
