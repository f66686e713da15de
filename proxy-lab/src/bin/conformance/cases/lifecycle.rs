//! Services, proxies and API servers that go and come again.

use std::time::Duration;

use proxy_lab::{Component, Family, TcpRequest};
use serde_json::json;

use crate::case::{Case, Outcome, ensure};
use crate::ground::{Ground, Way};

pub const CASES: &[Case] = &[
    Case::new(
        "S1",
        "services-come-and-go",
        &[
            "should be able to up and down services",
            "should delete a collection of services",
        ],
        come_and_go,
    ),
    Case::new(
        "S1",
        "service-is-created-anew-with-its-address",
        &["should work after the service has been recreated"],
        created_anew,
    ),
    Case::new(
        "S1",
        "load-balancer-ips-follow-the-status",
        &["should complete a service status lifecycle"],
        status_changes,
    ),
    Case::new(
        "B6",
        "rolling-update-without-a-failure",
        &[],
        rolling_update,
    ),
    Case::new(
        "B6",
        "policy-changes-without-a-failure",
        &[],
        policy_changes,
    ),
    Case::new(
        "S1",
        "works-after-the-proxy-restarts",
        &["should work after restarting kube-proxy"],
        proxy_restarts,
    )
    .alone(),
    Case::new(
        "S1",
        "works-after-the-api-server-restarts",
        &["should work after restarting apiserver"],
        api_server_restarts,
    )
    .alone(),
];

/// One of three goes, and the others stay; another comes.
fn come_and_go(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let services = [
        ground.service("one", &json!({}))?,
        ground.service("two", &json!({}))?,
        ground.service("three", &json!({}))?,
    ];
    let way = |service: &crate::ground::Service| Way::tcp(ground.client(), service.vip());
    for service in &services {
        ground.served_by([way(service)], [&a.name, &b.name])?;
    }
    ground.delete_service(&services[0])?;
    ground.settled()?;
    ground.unanswered([way(&services[0])])?;
    let fourth = ground.service("four", &json!({}))?;
    for service in [&services[1], &services[2], &fourth] {
        ground.served_by([way(service)], [&a.name, &b.name])?;
    }
    for service in [&services[1], &services[2], &fourth] {
        ground.delete_service(service)?;
    }
    ground.settled()?;
    ground.unanswered([way(&services[1]), way(&services[2]), way(&fourth)])
}

/// Deleted and created at once, with the same name and address, and other pods.
fn created_anew(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-1")])?;
    let other = json!({"metadata": {"labels": {"app": "other"}}});
    let b = ground.server_with("b", "worker-2", &other)?;
    let first = ground.service("web", &json!({}))?;
    ground.served_by(Way::both(ground.client(), first.vip()), [&a.name])?;
    ground.delete_service(&first)?;
    let spec = json!({"clusterIP": first.vip().ip(), "selector": {"app": "other"}});
    let second = ground.service("web", &spec)?;
    ensure(second.vip() == first.vip(), || {
        "the API server gave another address".to_owned()
    })?;
    ground.served_by(Way::both(ground.client(), second.vip()), [&b.name])?;
    ground.served_by([Way::tcp(ground.node("worker-1"), second.vip())], [&b.name])
}

/// One address more, only that one, none; the node port serves all the time.
fn status_changes(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let [first, second] = [ground.load_balancer_ip().v4, ground.load_balancer_ip().v4];
    let service = ground.balanced("web", &json!({}), first.into())?;
    let at = |ip: std::net::Ipv4Addr| Way::tcp(ground.outside(), (ip, 80).into());
    let node = Way::tcp(ground.outside(), ground.at_node("worker-1", &service));
    ground.served_by([at(first), node], [&a.name])?;
    let probe = ground.probe(&node)?;
    ground.set_ingress(&service, &json!([{"ip": first}, {"ip": second}]))?;
    ground.served_by([at(second), at(first)], [&a.name])?;
    ground.set_ingress(&service, &json!([{"ip": second}]))?;
    ground.settled()?;
    ground.unanswered([at(first)])?;
    ground.served_by([at(second)], [&a.name])?;
    ground.set_ingress(&service, &json!(null))?;
    ground.settled()?;
    ground.unanswered([at(second)])?;
    ground.never_failed(probe)
}

/// Pods are replaced one by one, each with time to end, and no request fails.
fn rolling_update(ground: &Ground<'_>) -> Outcome {
    let lingers = json!({"spec": {"terminationGracePeriodSeconds": 20}});
    let mut old = vec![ground.server_with("a1", "worker-1", &lingers)?];
    old.push(ground.server_with("a2", "worker-2", &lingers)?);
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let ways = [
        Way::tcp(ground.client(), service.vip()),
        Way::tcp(ground.node("worker-1"), service.vip()),
        Way::tcp(ground.outside(), ground.at_node("worker-1", &service)),
    ];
    ground.served_by(ways, old.iter().map(|server| &server.name))?;
    let probes: Result<Vec<_>, _> = ways.iter().map(|way| ground.probe(way)).collect();
    let mut new = Vec::new();
    for (name, node) in [("b1", "worker-1"), ("b2", "worker-2")] {
        new.push(ground.server_with(name, node, &lingers)?);
        ground.delete_pod(&old.remove(0))?;
    }
    ground.served_by(ways, new.iter().map(|server| &server.name))?;
    for probe in probes? {
        ground.never_failed(probe)?;
    }
    Ok(())
}

/// Affinity, policies and ports change; open connections live on.
fn policy_changes(ground: &Ground<'_>) -> Outcome {
    let [a, _] = ground.servers([("a", "worker-1"), ("b", "worker-1")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let ways = [
        Way::tcp(ground.client(), service.vip()),
        Way::tcp(ground.outside(), ground.at_node("worker-1", &service)),
    ];
    ground.served_by(ways, [a.name.clone(), ground.pod_name("b")])?;
    let probes: Result<Vec<_>, _> = ways.iter().map(|way| ground.probe(way)).collect();
    for spec in [
        json!({"sessionAffinity": "ClientIP"}),
        json!({"internalTrafficPolicy": "Local"}),
        json!({"externalTrafficPolicy": "Local"}),
        json!({"externalIPs": [ground.external_ip().v4]}),
        json!({"sessionAffinity": "None", "sessionAffinityConfig": null}),
        json!({"internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster"}),
    ] {
        ground.change_service(&service, &spec)?;
        ground.settled()?;
    }
    for probe in probes? {
        ground.never_failed(probe)?;
    }
    Ok(())
}

/// What there was before it works at all times, what comes after it too, and connections live on.
fn proxy_restarts(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let before = ground.service("before", &json!({"type": "NodePort"}))?;
    let ways = [
        Way::tcp(ground.client(), before.vip()),
        Way::tcp(ground.outside(), ground.at_node("worker-1", &before)),
    ];
    ground.served_by(ways, [&a.name, &b.name])?;
    let held = ground
        .client()
        .hold(TcpRequest::to(before.vip()).times(4))?;
    let probe = ground.probe(&ways[0])?;
    ground.restart_proxies()?;
    ground.never_failed(probe)?;
    let alive = held.check(Duration::from_secs(3))?;
    held.close()?;
    ensure(alive.iter().all(|answer| answer.outcome.is_ok()), || {
        "connections were lost".to_owned()
    })?;
    let after = ground.service("after", &json!({}))?;
    ground.served_by([Way::tcp(ground.client(), after.vip())], [&a.name, &b.name])?;
    ground.delete_service(&before)?;
    ground.settled()?;
    ground.unanswered(ways)
}

/// Nothing changes while it is away; afterwards changes arrive as before.
fn api_server_restarts(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let before = ground.service("before", &json!({}))?;
    let way = Way::tcp(ground.client(), before.vip());
    ground.served_by([way], [&a.name, &b.name])?;
    ground.cluster.kill_component(Component::ApiServer)?;
    let without = ground.served_by([way], [&a.name, &b.name]);
    ground.cluster.start_component(Component::ApiServer)?;
    without?;
    let after = ground.service("after", &json!({}))?;
    ground.served_by(
        Way::both(ground.client(), after.at(Family::V4, 80)),
        [&a.name, &b.name],
    )?;
    ground.set_ready(&a, false)?;
    ground.served_by([way], [&b.name])
}
