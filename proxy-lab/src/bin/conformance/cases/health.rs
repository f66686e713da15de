//! What load balancers, probes and scrapers see.

use std::net::{Ipv4Addr, SocketAddr};

use proxy_lab::{Family, Host, HttpAnswer};
use serde_json::{Value, json};

use crate::case::{Case, Failure, Outcome, ensure};
use crate::ground::{Ground, PORT, Server, Service, Way};
use crate::subject::Subject;

/// The cases.
pub const CASES: &[Case] = &[
    Case::new("H1", "health-check-node-port", &[], check_node_port),
    Case::new(
        "H1",
        "health-check-with-only-terminating-endpoints",
        &["should fail health check node port if there are only terminating endpoints"],
        only_terminating,
    ),
    Case::new(
        "H2",
        "urls-of-the-proxy",
        &["should check kube-proxy urls"],
        urls,
    ),
    Case::new("H2", "healthz-of-a-node-that-goes", &[], node_that_goes).alone(),
    Case::new("H3", "metrics-of-kube-proxy", &[], metrics),
];

const HEALTHZ: u16 = 10_256;
const METRICS: u16 = 10_249;

/// Metrics that mean the same with every proxy; kube-proxy's own of iptables and nftables aside.
const COMMON: &[&str] = &[
    "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
    "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
    "kubeproxy_sync_proxy_rules_endpoint_changes_total",
    "kubeproxy_sync_proxy_rules_service_changes_pending",
    "kubeproxy_sync_proxy_rules_service_changes_total",
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"}",
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"}",
    "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}",
    "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.25\"}",
    "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"300\"}",
    "kubeproxy_proxy_livez_total{code=\"200\"}",
    "kubeproxy_proxy_healthz_total{code=\"200\"}",
];

fn ask(client: &Host, to: SocketAddr, path: &str) -> Outcome<HttpAnswer> {
    let answer = client.http(to, path)?;
    answer.map_err(|error| Failure::differs(format!("{} to {to}{path}: {error}", client.name())))
}

fn has(answer: &HttpAnswer, status: u16) -> Outcome {
    ensure(answer.status == status, || {
        format!("{status} was expected: {answer:?}")
    })
}

/// A LoadBalancer's Service with a port for health checks, and that port.
fn checked(ground: &Ground<'_>) -> Outcome<(Service, u16)> {
    let spec = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ipFamilyPolicy": "RequireDualStack",
    });
    let service = ground.service("web", &spec)?;
    let port = service.object["spec"]["healthCheckNodePort"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok());
    Ok((
        service,
        port.ok_or_else(|| Failure::differs("it has no port for health checks"))?,
    ))
}

/// Soon a balancer outside hears this of a node, and in kube-proxy's words.
fn hears(
    ground: &Ground<'_>,
    (node, family): (&str, Family),
    port: u16,
    (status, endpoints): (u16, usize),
) -> Outcome {
    let to = ground.node(node).at(family, port);
    let mut last = None;
    let heard = ground.eventually("", || {
        last = ground.outside().http(to, "/healthz")?.ok();
        Ok(last.as_ref().is_some_and(|answer| {
            answer.status == status && answer.json()["localEndpoints"] == endpoints
        }))
    });
    let told = |what: &str| format!("{to}: {what} was expected, at last there was {last:?}");
    heard.map_err(|failure| {
        failure.in_words(|| told(&format!("{status} with {endpoints} endpoints")))
    })?;
    let answer = last.as_ref();
    let answer = answer.ok_or_else(|| Failure::differs(told("an answer")))?;
    let body = json!({
        "service": {"namespace": ground.space, "name": "web"},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": true,
    });
    ensure(answer.json() == body, || format!("{to}: {}", answer.body))?;
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-content-type-options", "nosniff"),
        ("x-load-balancing-endpoint-weight", &endpoints.to_string()),
    ] {
        let found = answer.headers.get(name);
        ensure(found.is_some_and(|found| found == value), || {
            format!("{to}: {name} is {found:?}")
        })?;
    }
    Ok(())
}

fn check_node_port(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-1")])?;
    let (service, port) = checked(ground)?;
    for family in Family::ALL {
        hears(ground, ("worker-1", family), port, (200, 2))?;
        hears(ground, ("worker-2", family), port, (503, 0))?;
    }
    ground.set_ready(&a, false)?;
    hears(ground, ("worker-1", Family::V4), port, (200, 1))?;
    ground.set_ready(&b, false)?;
    hears(ground, ("worker-1", Family::V4), port, (503, 0))?;
    ground.set_ready(&a, true)?;
    hears(ground, ("worker-1", Family::V4), port, (200, 1))?;
    // The health check port is removed with `externalTrafficPolicy: Local`.
    ground.change_service(&service, &json!({"externalTrafficPolicy": "Cluster"}))?;
    ground.settled()?;
    let to = ground.node("worker-1").at(Family::V4, port);
    let answer = ground.outside().http(to, "/healthz")?;
    ensure(answer.is_err(), || {
        format!("{to} still answers: {answer:?}")
    })
}

fn only_terminating(ground: &Ground<'_>) -> Outcome {
    let slow = json!({"spec": {"terminationGracePeriodSeconds": 60}});
    let a = ground.server_with("a", "worker-1", &slow)?;
    let (service, port) = checked(ground)?;
    let ip = ground.load_balancer_ip();
    ground.set_ingress(&service, &json!([{"ip": ip.v4}]))?;
    hears(ground, ("worker-1", Family::V4), port, (200, 1))?;
    ground.delete_pod(&a)?;
    hears(ground, ("worker-1", Family::V4), port, (503, 0))?;
    // What the balancer still sends is served.
    let way = Way::tcp(ground.outside(), (ip.v4, PORT).into());
    let outcome = ground.served_by([way], [&a.name]);
    end(ground, &a, outcome)
}

/// Does not leave a pod behind that takes its time.
fn end(ground: &Ground<'_>, server: &Server, outcome: Outcome) -> Outcome {
    ground.delete_pod_now(server)?;
    outcome
}

/// Where only administrators are meant to ask.
fn inside(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn urls(ground: &Ground<'_>) -> Outcome {
    for node in ground.lab.nodes() {
        for family in Family::ALL {
            let answer = ask(ground.outside(), node.at(family, HEALTHZ), "/healthz")?;
            has(&answer, 200)?;
            let body = answer.json();
            for field in ["lastUpdated", "currentTime"] {
                ensure(body[field].is_string(), || format!("no {field}: {body}"))?;
            }
            ensure(body["nodeEligible"] == true, || body.to_string())?;
            let live = ask(ground.outside(), node.at(family, HEALTHZ), "/livez")?;
            has(&live, 200)?;
        }
        let mode = ask(node, inside(METRICS), "/proxyMode")?;
        let expected = match ground.subject {
            Subject::Sockets | Subject::Packets => "ebpf",
            kube_proxy => kube_proxy.name(),
        };
        ensure(mode.body == expected, || {
            format!("its mode is {:?}", mode.body)
        })?;
        let outside = ground
            .outside()
            .http(node.at(Family::V4, METRICS), "/metrics")?;
        ensure(outside.is_err(), || "metrics are told outside".to_owned())?;
    }
    Ok(())
}

fn metrics(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-1")])?;
    let service = ground.service("web", &json!({}))?;
    ground.served_by([Way::tcp(ground.client(), service.vip())], [&a.name])?;
    for path in ["/healthz", "/livez"] {
        has(&ask(ground.node("worker-1"), inside(HEALTHZ), path)?, 200)?;
    }
    let answer = ask(ground.node("worker-1"), inside(METRICS), "/metrics")?;
    has(&answer, 200)?;
    let missing: Vec<_> = COMMON
        .iter()
        .filter(|name| answer.sample(name).is_none())
        .collect();
    ensure(missing.is_empty(), || format!("not told: {missing:?}"))?;
    for counted in [
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
        "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}",
    ] {
        let value = answer.sample(counted);
        ensure(value > Some(0.0), || format!("{counted} is {value:?}"))?;
    }
    Ok(())
}

fn node_that_goes(ground: &Ground<'_>) -> Outcome {
    let set_taints = |taints: Value| {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-2"}});
        ground
            .api()
            .patch(node, json!({"spec": {"taints": taints}}))
    };
    let to = ground.node("worker-2").at(Family::V4, HEALTHZ);
    let soon = |status: u16| {
        let mut last = None;
        let told = ground.eventually("", || {
            last = ground.outside().http(to, "/healthz")?.ok();
            Ok(last.as_ref().is_some_and(|answer| answer.status == status))
        });
        told.map_err(|failure| {
            failure.in_words(|| format!("{to}: {status} was expected, at last there was {last:?}"))
        })
    };
    soon(200)?;
    set_taints(json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]))?;
    let gone = soon(503).and_then(|()| {
        let health = ask(ground.outside(), to, "/healthz")?.json();
        ensure(health["nodeEligible"] == false, || health.to_string())?;
        has(&ask(ground.outside(), to, "/livez")?, 200)
    });
    set_taints(Value::Null)?;
    gone?;
    soon(200)
}
