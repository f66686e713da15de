//! Pods that are asked to end: no new connections while others are ready, and the last resort when none is.

use proxy_lab::control_plane::kubelet::READY;
use proxy_lab::{Family, Result, TcpRequest};
use serde_json::json;

use crate::case::{Case, Outcome, ensure};
use crate::ground::{Ground, Server, Service, TARGET, Way};

pub const CASES: &[Case] = &[
    Case::new(
        "L4",
        "terminating-pods-get-no-new-connections",
        &[],
        no_new_connections,
    ),
    Case::new(
        "L4",
        "terminating-pods-keep-their-connections",
        &[],
        keep_connections,
    ),
    Case::new(
        "B2",
        "fallback-to-terminating-pods-at-the-cluster-ip",
        &[
            "should fallback to terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Cluster",
        ],
        fallback_at_the_cluster_ip,
    ),
    Case::new(
        "B2",
        "fallback-to-terminating-pods-from-outside",
        &[
            "should fallback to terminating endpoints when there are no ready endpoints with externalTrafficPolicy=Cluster",
        ],
        fallback_from_outside,
    ),
    Case::new(
        "B3",
        "fallback-to-terminating-pods-here-by-internal-local",
        &[
            "should fallback to local terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Local",
        ],
        fallback_internal_local,
    ),
    Case::new(
        "B3",
        "fallback-to-terminating-pods-here-by-external-local",
        &[
            "should fallback to local terminating endpoints when there are no ready endpoints with externalTrafficPolicy=Local",
        ],
        fallback_external_local,
    ),
    Case::new(
        "B2",
        "terminating-unready-pods-are-published",
        &[
            "should be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is true",
        ],
        published,
    ),
    Case::new(
        "B5",
        "terminating-unready-pods-are-no-endpoints",
        &[
            "should not be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is false",
        ],
        not_published,
    ),
];

/// A pod that serves on for minutes after it was asked to end; the case's end ends it.
fn lingering(ground: &Ground<'_>, name: &str, node: &str) -> Result<Server> {
    ground.server_with(
        name,
        node,
        &json!({"spec": {"terminationGracePeriodSeconds": 300}}),
    )
}

/// Deletes the pod, and waits until the Service's slices show it as terminating.
fn terminate(ground: &Ground<'_>, service: &Service, server: &Server) -> Result<()> {
    ground.delete_pod(server)?;
    ground.until_known(
        &service.name,
        &format!("{} is terminating", server.name),
        |known| {
            known
                .iter()
                .any(|endpoint| endpoint.pod == server.name && endpoint.terminating)
        },
    )
}

/// A program that is no more ready while it ends.
fn unready(ground: &Ground<'_>, service: &Service, server: &Server) -> Result<()> {
    ground.set_ready(server, false)?;
    ground.until_known(
        &service.name,
        &format!("{} does not serve", server.name),
        |known| {
            known
                .iter()
                .any(|endpoint| endpoint.pod == server.name && !endpoint.serving)
        },
    )
}

fn no_new_connections(ground: &Ground<'_>) -> Outcome {
    let a = lingering(ground, "a", "worker-1")?;
    let b = lingering(ground, "b", "worker-2")?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let node = ground.at_node("worker-1", &service);
    let [tcp, udp] = Way::both(ground.client(), service.vip());
    let ways = [tcp, udp, Way::tcp(ground.outside(), node)];
    ground.served_by(ways, [&a.name, &b.name])?;
    terminate(ground, &service, &a)?;
    ground.served_by(ways, [&b.name])
}

/// What was established before goes on, from a pod, a node and outside.
fn keep_connections(ground: &Ground<'_>) -> Outcome {
    let a = lingering(ground, "a", "worker-2")?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let ways = [
        Way::tcp(ground.client(), service.vip()),
        Way::tcp(ground.node("worker-1"), service.vip()),
        Way::tcp(ground.outside(), ground.at_node("worker-1", &service)),
    ];
    ground.served_by(ways, [&a.name])?;
    let mut held = Vec::new();
    for way in ways {
        held.push((way, way.from.hold(TcpRequest::to(way.to).times(3))?));
    }
    let [b] = ground.servers([("b", "worker-1")])?;
    ground.served_by(ways, [&a.name, &b.name])?;
    terminate(ground, &service, &a)?;
    ground.served_by(ways, [&b.name])?;
    for (way, hold) in held {
        let answers = hold.check(std::time::Duration::from_secs(3))?;
        let by_a = answers
            .iter()
            .filter(|answer| answer.server() == Some(&a.name))
            .count();
        hold.close()?;
        ensure(by_a == 3, || {
            format!("{way}: {by_a} of 3 connections live on")
        })?;
    }
    Ok(())
}

fn fallback_at_the_cluster_ip(ground: &Ground<'_>) -> Outcome {
    let a = lingering(ground, "a", "worker-1")?;
    let b = lingering(ground, "b", "worker-2")?;
    let service = ground.service("web", &json!({}))?;
    let [tcp, udp] = Way::both(ground.client(), service.vip());
    let ways = [tcp, udp, Way::tcp(ground.node("worker-2"), service.vip())];
    ground.served_by(ways, [&a.name, &b.name])?;
    terminate(ground, &service, &a)?;
    terminate(ground, &service, &b)?;
    ground.settled()?;
    ground.served_by(ways, [&a.name, &b.name])?;
    // Of those that end, only who still serves.
    unready(ground, &service, &a)?;
    ground.served_by(ways, [&b.name])?;
    let [c] = ground.servers([("c", "worker-1")])?;
    ground.served_by(ways, [&c.name])
}

fn fallback_from_outside(ground: &Ground<'_>) -> Outcome {
    let a = lingering(ground, "a", "worker-2")?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let ways = [
        Way::tcp(ground.outside(), ground.at_node("worker-1", &service)),
        Way::tcp(ground.outside(), ground.at_node("worker-2", &service)),
    ];
    ground.served_by(ways, [&a.name])?;
    terminate(ground, &service, &a)?;
    ground.settled()?;
    ground.served_by(ways, [&a.name])?;
    unready(ground, &service, &a)?;
    ground.refused(ways)
}

/// This node's own pod that ends serves its clients, though another node has a ready one.
fn fallback_internal_local(ground: &Ground<'_>) -> Outcome {
    let a = lingering(ground, "a", "worker-1")?;
    let [b] = ground.servers([("b", "worker-2")])?;
    let service = ground.service("web", &json!({"internalTrafficPolicy": "Local"}))?;
    let ways = Way::both(ground.client(), service.vip());
    ground.served_by(ways, [&a.name])?;
    terminate(ground, &service, &a)?;
    ground.settled()?;
    ground.served_by(ways, [&a.name])?;
    ground.served_by([Way::tcp(ground.far_client(), service.vip())], [&b.name])?;
    ground.delete_pod_now(&a)?;
    ground.until_endpoints("web", [b.name.as_str()])?;
    ground.settled()?;
    ground.silent([ways[0]])
}

fn fallback_external_local(ground: &Ground<'_>) -> Outcome {
    let a = lingering(ground, "a", "worker-1")?;
    let [b] = ground.servers([("b", "worker-2")])?;
    let spec = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    let service = ground.service("web", &spec)?;
    let way = Way::tcp(ground.outside(), ground.at_node("worker-1", &service));
    ground.served_by([way], [&a.name])?;
    terminate(ground, &service, &a)?;
    ground.settled()?;
    ground.served_by([way], [&a.name])?;
    // From inside it is the cluster's list, in which there is a ready one.
    let inside = Way::tcp(ground.client(), ground.at_node("worker-1", &service));
    ground.served_by([inside], [&b.name])
}

/// A pod that ends and was not ready, of a Service that publishes all or not.
fn terminating_and_unready(ground: &Ground<'_>, publish: bool) -> Outcome<(Server, Service)> {
    let fields = json!({
        "metadata": {"annotations": {READY: "false"}},
        "spec": {"terminationGracePeriodSeconds": 300},
    });
    let a = ground.server_with("a", "worker-2", &fields)?;
    let spec = json!({"type": "NodePort", "publishNotReadyAddresses": publish});
    let service = ground.service("web", &spec)?;
    terminate(ground, &service, &a)?;
    ground.settled()?;
    Ok((a, service))
}

fn ways<'a>(ground: &Ground<'a>, service: &Service) -> [Way<'a>; 3] {
    [
        Way::tcp(ground.client(), service.vip()),
        Way::tcp(ground.node("worker-1"), service.vip()),
        Way::tcp(ground.outside(), ground.at_node("worker-1", service)),
    ]
}

fn published(ground: &Ground<'_>) -> Outcome {
    let (a, service) = terminating_and_unready(ground, true)?;
    ground.served_by(ways(ground, &service), [&a.name])
}

fn not_published(ground: &Ground<'_>) -> Outcome {
    let (a, service) = terminating_and_unready(ground, false)?;
    ground.refused(ways(ground, &service))?;
    // That it serves is sure: only its Service does not lead to it.
    ground.served_by(
        [Way::tcp(ground.client(), a.at(Family::V4, TARGET))],
        [&a.name],
    )
}
