//! Session affinity: a client and its server.

use std::thread;
use std::time::Duration;

use proxy_lab::Host;
use serde_json::{Value, json};

use crate::case::{Case, Outcome, ensure};
use crate::ground::{Ground, PORT, Server, Way};

pub const CASES: &[Case] = &[
    Case::new(
        "L2",
        "affinity-by-cluster-ip",
        &[
            "should have session affinity work for service with type clusterIP",
            "should function for client IP based session affinity: http",
            "should function for client IP based session affinity: udp",
        ],
        by_cluster_ip,
    ),
    Case::new(
        "L2",
        "affinity-by-node-port",
        &["should have session affinity work for NodePort service"],
        by_node_port,
    ),
    Case::new(
        "L2",
        "affinity-times-out-by-cluster-ip",
        &["should have session affinity timeout work for service with type clusterIP"],
        |ground| times_out(ground, false),
    ),
    Case::new(
        "L2",
        "affinity-times-out-by-node-port",
        &["should have session affinity timeout work for NodePort service"],
        |ground| times_out(ground, true),
    ),
    Case::new(
        "L2",
        "affinity-lasts-while-it-is-used",
        &[],
        lasts_while_used,
    ),
    Case::new(
        "L2",
        "affinity-is-switched-by-cluster-ip",
        &["should be able to switch session affinity for service with type clusterIP"],
        |ground| is_switched(ground, false),
    ),
    Case::new(
        "L2",
        "affinity-is-switched-by-node-port",
        &["should be able to switch session affinity for NodePort service"],
        |ground| is_switched(ground, true),
    ),
    Case::new(
        "L2",
        "affinity-by-load-balancer-ip",
        &[
            "should have session affinity work for LoadBalancer service with Cluster traffic policy",
            "should be able to switch session affinity for LoadBalancer service with Cluster traffic policy",
        ],
        |ground| by_load_balancer_ip(ground, "Cluster", 4),
    ),
    Case::new(
        "L2",
        "affinity-by-load-balancer-ip-and-local-policy",
        &[
            "should have session affinity work for LoadBalancer service with Local traffic policy",
            "should be able to switch session affinity for LoadBalancer service with Local traffic policy",
        ],
        |ground| by_load_balancer_ip(ground, "Local", 2),
    ),
    Case::new("L2", "affinity-over-all-frontends", &[], over_all_frontends),
    Case::new("L2", "affinity-to-a-pod-that-goes", &[], pod_goes),
];

const FOUR: [(&str, &str); 4] = [
    ("a", "worker-1"),
    ("b", "worker-1"),
    ("c", "worker-2"),
    ("d", "worker-2"),
];

/// By chance, eight connections to four pods all go to one in 1 of 16,384 rounds.
const SEVERAL: usize = 24;

fn affinity(seconds: u32) -> Value {
    json!({
        "type": "NodePort", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
    })
}

/// A client's connections all go to one of many pods.
fn by_cluster_ip(ground: &Ground<'_>) -> Outcome {
    let servers = ground.servers(FOUR)?;
    let service = ground.service("web", &affinity(10_800))?;
    until_all_are_known(ground, &servers)?;
    let clients: [&Host; 3] = [
        ground.client(),
        ground.far_client(),
        ground.node("worker-1"),
    ];
    for client in clients {
        for way in Way::both(client, service.vip()) {
            one_server(ground, &way)?;
        }
    }
    Ok(())
}

fn by_node_port(ground: &Ground<'_>) -> Outcome {
    let servers = ground.servers(FOUR)?;
    let service = ground.service("web", &affinity(10_800))?;
    until_all_are_known(ground, &servers)?;
    let to = ground.at_node("worker-1", &service);
    for client in [ground.outside(), ground.client()] {
        one_server(ground, &Way::tcp(client, to))?;
    }
    let udp = (to.ip(), service.node_port_of(1)).into();
    one_server(ground, &Way::udp(ground.outside(), udp)).map(drop)
}

/// On, off and on again, for a client outside, who reaches the first so many pods.
fn by_load_balancer_ip(ground: &Ground<'_>, policy: &str, reached: usize) -> Outcome {
    let servers = ground.servers(FOUR)?;
    let names = || servers[..reached].iter().map(|server| &server.name);
    let ip = ground.load_balancer_ip().v4;
    let spec = json!({"sessionAffinity": "ClientIP", "externalTrafficPolicy": policy});
    let service = ground.balanced("web", &spec, ip.into())?;
    until_all_are_known(ground, &servers)?;
    let way = Way::tcp(ground.outside(), (ip, PORT).into());
    let first = one_server(ground, &way)?;
    ensure(names().any(|name| *name == first), || {
        format!("{way}: {first}")
    })?;
    ground.change_service(
        &service,
        &json!({"sessionAffinity": "None", "sessionAffinityConfig": null}),
    )?;
    ground.served_by([way], names())?;
    ground.change_service(&service, &json!({"sessionAffinity": "ClientIP"}))?;
    ground.settled()?;
    one_server(ground, &way).map(drop)
}

/// After the timeout a client is new: among some rounds there is one with another server.
fn times_out(ground: &Ground<'_>, by_node_port: bool) -> Outcome {
    let servers = ground.servers(FOUR)?;
    let service = ground.service("web", &affinity(2))?;
    until_all_are_known(ground, &servers)?;
    let way = if by_node_port {
        Way::tcp(ground.outside(), ground.at_node("worker-1", &service))
    } else {
        Way::tcp(ground.client(), service.vip())
    };
    one_server(ground, &way)?;
    let mut met = std::collections::BTreeSet::new();
    // By chance, twelve clients that are new all get the same one of four once in four million rounds.
    for _ in 0..12 {
        let answers = way.ask(1, Duration::from_secs(2))?;
        ensure(answers.failures.is_empty(), || format!("{way}: {answers}"))?;
        met.extend(answers.servers.into_keys());
        if met.len() > 1 {
            return Ok(());
        }
        // The `recent` match of iptables counts whole seconds and takes one second more than
        // configured.
        thread::sleep(Duration::from_millis(3300));
    }
    ensure(false, || {
        format!("{way}: after each timeout {met:?} was chosen again")
    })
}

/// Each connection begins the time anew. Of three clients that all were new again twice, each would get the server that it
/// had once in 4,096 runs.
fn lasts_while_used(ground: &Ground<'_>) -> Outcome {
    let servers = ground.servers(FOUR)?;
    let service = ground.service("web", &affinity(3))?;
    until_all_are_known(ground, &servers)?;
    let clients: [&Host; 3] = [
        ground.client(),
        ground.far_client(),
        ground.node("worker-1"),
    ];
    let ways = clients.map(|client| Way::tcp(client, service.vip()));
    let mut first = Vec::new();
    for way in &ways {
        first.push(one_server(ground, way)?);
    }
    for _ in 0..6 {
        thread::sleep(Duration::from_millis(1200));
        for (way, first) in ways.iter().zip(&first) {
            let next = way.ask(1, Duration::from_secs(2))?;
            ensure(next.are_by(&[first.as_str()].into()), || {
                format!("{way}: {first}, and later {next}")
            })?;
        }
    }
    Ok(())
}

/// On, off and on again.
fn is_switched(ground: &Ground<'_>, by_node_port: bool) -> Outcome {
    let servers = ground.servers(FOUR)?;
    let names = || servers.iter().map(|server| &server.name);
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let way = if by_node_port {
        Way::tcp(ground.outside(), ground.at_node("worker-1", &service))
    } else {
        Way::tcp(ground.client(), service.vip())
    };
    ground.served_by([way], names())?;
    ground.change_service(&service, &json!({"sessionAffinity": "ClientIP"}))?;
    ground.settled()?;
    one_server(ground, &way)?;
    ground.change_service(
        &service,
        &json!({"sessionAffinity": "None", "sessionAffinityConfig": null}),
    )?;
    ground.served_by([way], names())
}

/// What a client was given at one frontend it has at the others.
fn over_all_frontends(ground: &Ground<'_>) -> Outcome {
    let servers = ground.servers(FOUR)?;
    let ip = ground.external_ip().v4;
    let mut spec = affinity(10_800);
    spec["externalIPs"] = json!([ip]);
    let service = ground.service("web", &spec)?;
    until_all_are_known(ground, &servers)?;
    let client = ground.client();
    let ways = [
        Way::tcp(client, service.vip()),
        Way::tcp(client, ground.at_node("worker-1", &service)),
        Way::tcp(client, (ip, 80).into()),
    ];
    let mut met = Vec::new();
    for way in &ways {
        met.push(one_server(ground, way)?);
    }
    ensure(met.iter().all(|name| *name == met[0]), || {
        format!("ClusterIP, node port and external IP: {met:?}")
    })
}

/// A client whose pod was deleted gets another pod, and keeps it.
fn pod_goes(ground: &Ground<'_>) -> Outcome {
    let servers = ground.servers(FOUR)?;
    let service = ground.service("web", &affinity(10_800))?;
    until_all_are_known(ground, &servers)?;
    let way = Way::tcp(ground.client(), service.vip());
    let first = one_server(ground, &way)?;
    let gone = servers.iter().find(|server| server.name == first);
    if let Some(gone) = gone {
        ground.delete_pod(gone)?;
    }
    ground.eventually("another answers", || {
        let answers = way.ask(1, Duration::from_secs(1))?;
        Ok(answers.failures.is_empty() && !answers.servers.contains_key(&first))
    })?;
    let second = one_server(ground, &way)?;
    ensure(second != first, || {
        format!("{way}: {first} is gone and answers")
    })
}

/// Waits until the Service's slices name all pods, and the subject knows. (A client must not be asked for: it would get
/// its server.)
fn until_all_are_known(ground: &Ground<'_>, servers: &[Server]) -> Outcome {
    ground.settled_on("web", servers.iter().map(|server| server.name.as_str()))
}

/// Expects one server to answer all requests of `way`, and returns its name.
fn one_server(ground: &Ground<'_>, way: &Way<'_>) -> Outcome<String> {
    ground.eventually("an answer", || {
        Ok(way.ask(1, Duration::from_secs(1))?.failures.is_empty())
    })?;
    let answers = way.ask(SEVERAL, Duration::from_secs(1))?;
    ensure(
        answers.failures.is_empty() && answers.servers.len() == 1,
        || format!("{way}: one server was to answer all, there was {answers}"),
    )?;
    Ok(answers.servers.into_keys().next().unwrap_or_default())
}
