//! Families: a Service has one or both, and never crosses them.

use proxy_lab::objects::{Endpoint, Service as Builder};
use proxy_lab::{Family, Protocol};
use serde_json::json;

use crate::case::{Case, Outcome, ensure};
use crate::ground::{Ground, PORT, Service, TARGET, Way, family_name};

/// The cases.
pub const CASES: &[Case] = &[
    Case::new(
        "S1",
        "single-stack-ipv4",
        &["should create service with ipv4 cluster ip"],
        |ground| single(ground, Family::V4),
    ),
    Case::new(
        "S1",
        "single-stack-ipv6",
        &["should create service with ipv6 cluster ip"],
        |ground| single(ground, Family::V6),
    ),
    Case::new(
        "S1",
        "dual-stack-ipv4-first",
        &[
            "should create service with ipv4,v6 cluster ip",
            "should function for pod-Service and node-Service over both families: http",
        ],
        |ground| dual(ground, Family::V4),
    ),
    Case::new(
        "S1",
        "dual-stack-ipv6-first",
        &[
            "should create service with ipv6,v4 cluster ip",
            "should function for pod-Service and node-Service over both families: udp",
        ],
        |ground| dual(ground, Family::V6),
    ),
    Case::new("S1", "second-family-comes-and-goes", &[], comes_and_goes),
    Case::new("B5", "family-without-endpoints", &[], without_endpoints),
    Case::new(
        "S1",
        "addresses-of-a-family-that-the-service-has-not",
        &[],
        other_family,
    ),
];

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

/// From pods, from a node's own processes and from outside.
fn ways<'a>(ground: &'a Ground<'_>, service: &Service, family: Family) -> Vec<Way<'a>> {
    let vip = service.at(family, PORT);
    let node_port = ground.node("worker-1").at(family, service.node_port());
    let mut ways = Vec::new();
    for (client, to) in [
        (ground.client(), vip),
        (ground.client(), node_port),
        (&**ground.node("worker-2"), vip),
        (ground.outside(), node_port),
    ] {
        ways.extend(Way::both(client, to));
    }
    ways
}

fn single(ground: &Ground<'_>, family: Family) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let spec = json!({
        "type": "NodePort", "ipFamilyPolicy": "SingleStack", "ipFamilies": [family_name(family)],
    });
    let service = ground.service("web", &spec)?;
    ensure(service.cluster_ips().len() == 1, || {
        format!("{:?}", service.cluster_ips())
    })?;
    ground.served_by(ways(ground, &service, family), [&a.name, &b.name])?;
    // The node port is the family's own.
    let node_port = ground
        .node("worker-1")
        .at(other(family), service.node_port());
    ground.unanswered([ground.client(), ground.outside()].map(|client| Way::tcp(client, node_port)))
}

fn dual(ground: &Ground<'_>, first: Family) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let families = [first, other(first)];
    let spec = json!({
        "type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "ipFamilies": families.map(family_name),
    });
    let service = ground.service("web", &spec)?;
    let given: Vec<_> = service.cluster_ips().into_iter().map(Family::of).collect();
    ensure(given == families, || format!("{:?}", service.cluster_ips()))?;
    for family in families {
        ground.served_by(ways(ground, &service, family), [&a.name, &b.name])?;
    }
    Ok(())
}

fn comes_and_goes(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let spec = json!({"type": "NodePort", "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]});
    let service = ground.service("web", &spec)?;
    ground.served_by(ways(ground, &service, Family::V4), [&a.name, &b.name])?;
    let both = ground.change_service(&service, &json!({"ipFamilyPolicy": "RequireDualStack"}))?;
    for family in Family::ALL {
        ground.served_by(ways(ground, &both, family), [&a.name, &b.name])?;
    }
    let only = json!({
        "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": service.cluster_ips(),
    });
    ground.change_service(&service, &only)?;
    ground.settled()?;
    ground.unanswered([
        Way::tcp(ground.client(), both.at(Family::V6, PORT)),
        Way::tcp(
            ground.outside(),
            ground.node("worker-1").at(Family::V6, both.node_port()),
        ),
    ])?;
    ground.served_by(ways(ground, &service, Family::V4), [&a.name, &b.name])
}

fn without_endpoints(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-1")])?;
    let spec = json!({"type": "NodePort", "selector": null, "ipFamilyPolicy": "RequireDualStack"});
    let service = ground.service("web", &spec)?;
    let slices = Builder::new("web")
        .namespace(&ground.space)
        .port("tcp", Protocol::Tcp, PORT)
        .port("udp", Protocol::Udp, PORT);
    let slice = slices
        .slice(Family::V4, TARGET)
        .endpoint(Endpoint::of(&a, Family::V4));
    ground.api().put(slice)?;
    ground.served_by(ways(ground, &service, Family::V4), [&a.name])?;
    let node = ground.node("worker-2").name();
    // (Datagrams from the node itself are left out: a socket hook refuses them, netfilter returns
    // EPERM.)
    let refused = ways(ground, &service, Family::V6)
        .into_iter()
        .filter(|way| way.protocol == Protocol::Tcp || way.from.name() != node);
    ground.refused(refused)?;
    let slice = slices
        .slice(Family::V6, TARGET)
        .endpoint(Endpoint::of(&a, Family::V6));
    ground.api().put(slice)?;
    ground.served_by(ways(ground, &service, Family::V6), [&a.name])
}

fn other_family(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let (balancer, external) = (ground.load_balancer_ip(), ground.external_ip());
    let spec = json!({
        "type": "LoadBalancer", "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"],
        "externalIPs": [external.v4, external.v6],
    });
    let service = ground.service("web", &spec)?;
    ground.set_ingress(&service, &json!([{"ip": balancer.v4}, {"ip": balancer.v6}]))?;
    let ways = |family| {
        let to = [balancer, external].map(|pair| (pair.of(family), PORT).into());
        to.into_iter().flat_map(|to| {
            [ground.client(), ground.outside()].map(move |client| Way::tcp(client, to))
        })
    };
    ground.served_by(ways(Family::V4), [&a.name, &b.name])?;
    ground.unanswered(ways(Family::V6))
}
