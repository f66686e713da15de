//! LoadBalancer IPs. Who gives them in a cloud is the case itself here; the workstation routes them to the first worker.

use proxy_lab::address::Pair;
use proxy_lab::{Family, Protocol};
use serde_json::{Value, json};

use crate::case::{Case, Failure, Outcome, ensure};
use crate::ground::{Ground, PORT, Service, TARGET, Way};

/// The cases.
pub const CASES: &[Case] = &[
    Case::new(
        "S2",
        "change-type-and-ports-tcp",
        &["should be able to change the type and ports of a TCP service"],
        |ground| change_type_and_ports(ground, Protocol::Tcp),
    ),
    Case::new(
        "S2",
        "change-type-and-ports-udp",
        &["should be able to change the type and ports of a UDP service"],
        |ground| change_type_and_ports(ground, Protocol::Udp),
    ),
    Case::new(
        "S1",
        "load-balancer-ip-from-everywhere",
        &["should serve the same port and different protocols on a LoadBalancer"],
        from_everywhere,
    ),
    Case::new("S1", "load-balancer-ip-comes-and-goes", &[], comes_and_goes),
    Case::new(
        "S1",
        "load-balancer-without-node-ports",
        &["should be able to create LoadBalancer Service without NodePort and change it"],
        without_node_ports,
    ),
    Case::new("S3", "load-balancer-ip-mode", &[], ip_mode),
    Case::new(
        "B4",
        "load-balancer-external-policy-local",
        &[
            "should work for type=LoadBalancer (externalTrafficPolicy: Local)",
            "should only target nodes with endpoints (externalTrafficPolicy: Local)",
            "should work from pods (externalTrafficPolicy: Local)",
        ],
        external_policy_local,
    ),
    Case::new(
        "A3",
        "source-ranges-from-outside",
        &["should only allow access from service loadbalancer source ranges"],
        ranges_from_outside,
    ),
    Case::new("A3", "source-ranges-from-pods", &[], ranges_from_pods),
    Case::new(
        "A3",
        "source-ranges-of-one-family",
        &[],
        ranges_of_one_family,
    ),
];

/// All of a family's addresses, and none that anybody has here (RFC 5737, RFC 3849).
const EVERYBODY: [&str; 2] = ["0.0.0.0/0", "::/0"];
const NOBODY: [&str; 2] = ["192.0.2.0/24", "2001:db8:ffff::/64"];

/// A Service of both families with an address of each, and that address.
fn balanced(ground: &Ground<'_>, mut spec: Value) -> Outcome<(Service, Pair)> {
    spec["type"] = "LoadBalancer".into();
    spec["ipFamilyPolicy"] = "RequireDualStack".into();
    let service = ground.service("web", &spec)?;
    let ip = ground.load_balancer_ip();
    ground.set_ingress(&service, &json!([{"ip": ip.v4}, {"ip": ip.v6}]))?;
    Ok((service, ip))
}

fn at(ip: Pair, family: Family) -> (std::net::IpAddr, u16) {
    (ip.of(family), PORT)
}

/// From outside, by all protocols over both families.
fn from_outside<'a>(ground: &'a Ground<'_>, ip: Pair) -> impl Iterator<Item = Way<'a>> {
    let families = Family::ALL.into_iter();
    families.flat_map(move |family| Way::both(ground.outside(), at(ip, family).into()))
}

fn from_pod<'a>(ground: &'a Ground<'_>, ip: Pair) -> impl Iterator<Item = Way<'a>> {
    let families = Family::ALL.into_iter();
    families.flat_map(move |family| Way::both(ground.client(), at(ip, family).into()))
}

fn change_type_and_ports(ground: &Ground<'_>, protocol: Protocol) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let all = [&a.name, &b.name];
    let ports = |port: u16, node_port: Option<u16>| {
        json!([{
            "name": "web", "port": port, "targetPort": TARGET, "protocol": protocol.to_string(), "nodePort": node_port,
        }])
    };
    let way = |from, to| Way { from, protocol, to };
    let node = ground.node("worker-1");
    let (inside, outside) = (ground.client(), ground.outside());

    let service = ground.service("web", &json!({"ports": ports(PORT, None)}))?;
    ground.served_by([way(inside, service.vip())], all)?;
    // ClusterIP to NodePort.
    let service = ground.change_service(&service, &json!({"type": "NodePort"}))?;
    let first = service.node_port();
    ground.served_by(
        [
            way(outside, node.at(Family::V4, first)),
            way(inside, service.vip()),
        ],
        all,
    )?;
    // Another node port; a concurrent case may use the next one.
    let service = (1..=20)
        .find_map(|step| {
            let other = ports(PORT, Some(30_000 + (first - 30_000 + step) % 2_767));
            ground
                .change_service(&service, &json!({"ports": other}))
                .ok()
        })
        .ok_or_else(|| Failure::differs("no node port is free"))?;
    let second = service.node_port();
    ground.served_by([way(outside, node.at(Family::V4, second))], all)?;
    ground.settled()?;
    ground.unanswered([way(outside, node.at(Family::V4, first))])?;
    // To LoadBalancer.
    let service = ground.change_service(&service, &json!({"type": "LoadBalancer"}))?;
    let ip = ground.load_balancer_ip();
    ground.set_ingress(&service, &json!([{"ip": ip.v4}]))?;
    let balancer = |port: u16| (ip.v4, port).into();
    ground.served_by(
        [
            way(outside, balancer(PORT)),
            way(inside, balancer(PORT)),
            way(outside, node.at(Family::V4, second)),
        ],
        all,
    )?;
    // Another port.
    let service = ground.change_service(&service, &json!({"ports": ports(81, Some(second))}))?;
    let vip = service.at(Family::V4, 81);
    ground.served_by([way(outside, balancer(81)), way(inside, vip)], all)?;
    ground.settled()?;
    ground.unanswered([
        way(outside, balancer(PORT)),
        way(inside, service.at(Family::V4, PORT)),
    ])?;
    // And back.
    let service = ground.change_service(&service, &json!({"type": "NodePort"}))?;
    ground.served_by(
        [way(outside, node.at(Family::V4, second)), way(inside, vip)],
        all,
    )?;
    ground.settled()?;
    ground.unanswered([way(outside, balancer(81)), way(inside, balancer(81))])?;
    ground.change_service(&service, &json!({"type": "ClusterIP"}))?;
    ground.settled()?;
    ground.unanswered([way(outside, node.at(Family::V4, second))])?;
    ground.served_by([way(inside, vip)], all)
}

fn from_everywhere(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let (service, ip) = balanced(ground, json!({}))?;
    ground.served_by(from_outside(ground, ip), [&a.name, &b.name])?;
    ground.served_by(from_pod(ground, ip), [&a.name, &b.name])?;
    let of_node = Way::both(ground.node("worker-2"), at(ip, Family::V4).into());
    ground.served_by(of_node, [&a.name, &b.name])?;
    // One of the two goes.
    let tcp = json!([{"name": "tcp", "port": PORT, "targetPort": TARGET}]);
    ground.change_service(&service, &json!({"ports": tcp}))?;
    ground.settled()?;
    let outside = ground.outside();
    ground.unanswered([Way::udp(outside, at(ip, Family::V4).into())])?;
    ground.served_by(
        [Way::tcp(outside, at(ip, Family::V4).into())],
        [&a.name, &b.name],
    )
}

fn comes_and_goes(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let (service, ip) = balanced(ground, json!({}))?;
    ground.served_by(from_outside(ground, ip), [&a.name])?;
    ground.set_ingress(&service, &json!([]))?;
    ground.settled()?;
    ground.unanswered(from_outside(ground, ip).chain(from_pod(ground, ip)))?;
    ground.served_by(Way::both(ground.client(), service.vip()), [&a.name])?;
    // One family's again, and another of the other's.
    let second = ground.load_balancer_ip();
    ground.set_ingress(&service, &json!([{"ip": ip.v4}, {"ip": second.v6}]))?;
    let outside = ground.outside();
    let now = [(ip, Family::V4), (second, Family::V6)].map(|(ip, family)| at(ip, family));
    ground.served_by(now.map(|to| Way::tcp(outside, to.into())), [&a.name])?;
    ground.unanswered([Way::tcp(outside, at(ip, Family::V6).into())])
}

fn without_node_ports(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let (service, ip) = balanced(ground, json!({"allocateLoadBalancerNodePorts": false}))?;
    ensure(
        service.object["spec"]["ports"][0]["nodePort"].is_null(),
        || "the API server gave it a node port".to_owned(),
    )?;
    ground.served_by(from_outside(ground, ip), [&a.name, &b.name])?;
    ground.served_by(from_pod(ground, ip), [&a.name, &b.name])?;
    let changed =
        ground.change_service(&service, &json!({"allocateLoadBalancerNodePorts": true}))?;
    let node_port = ground.node("worker-2").at(Family::V4, changed.node_port());
    ground.served_by([Way::tcp(ground.outside(), node_port)], [&a.name, &b.name])?;
    ground.served_by(from_outside(ground, ip), [&a.name, &b.name])
}

fn ip_mode(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let (service, ip) = balanced(ground, json!({}))?;
    ground.served_by(from_outside(ground, ip), [&a.name, &b.name])?;
    let set = |mode: &str| {
        let ingress = [ip.of(Family::V4), ip.of(Family::V6)];
        let ingress = ingress.map(|ip| json!({"ip": ip, "ipMode": mode}));
        ground.set_ingress(&service, &json!(ingress))
    };
    // With `Proxy`, traffic goes to the load balancer itself, which does not exist here.
    set("Proxy")?;
    ground.settled()?;
    let node = ground.node("worker-2");
    let of_node = Way::both(node, at(ip, Family::V4).into());
    ground.unanswered(
        from_outside(ground, ip)
            .chain(from_pod(ground, ip))
            .chain(of_node),
    )?;
    ground.served_by(
        Way::both(ground.client(), service.vip()),
        [&a.name, &b.name],
    )?;
    set("VIP")?;
    ground.served_by(
        from_outside(ground, ip).chain(from_pod(ground, ip)),
        [&a.name, &b.name],
    )
}

fn external_policy_local(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let (service, ip) = balanced(ground, json!({"externalTrafficPolicy": "Local"}))?;
    // Traffic from outside comes by the first worker: its own endpoint alone, which sees who asks.
    ground.served_by(from_outside(ground, ip), [&a.name])?;
    for family in Family::ALL {
        let seen = ground.client_seen(&Way::tcp(ground.outside(), at(ip, family).into()))?;
        let client = ground.outside().ip(family);
        ensure(seen.iter().eq([&client]), || {
            format!("{client} was seen as {seen:?}")
        })?;
    }
    // Whoever is inside reaches all.
    let node = ground.node("worker-1");
    let inside = || from_pod(ground, ip).chain([Way::tcp(node, at(ip, Family::V4).into())]);
    ground.served_by(inside(), [&a.name, &b.name])?;
    ground.set_ready(&a, false)?;
    ground.served_by(inside(), [&b.name])?;
    // No endpoint here: dropped, not refused, so that the balancer tries another node.
    ground.silent(from_outside(ground, ip))?;
    ground.change_service(&service, &json!({"externalTrafficPolicy": "Cluster"}))?;
    ground.served_by(from_outside(ground, ip), [&b.name])
}

fn set_ranges(ground: &Ground<'_>, service: &Service, ranges: &Value) -> Outcome {
    ground.change_service(service, &json!({"loadBalancerSourceRanges": ranges}))?;
    ground.settled()
}

fn ranges_from_outside(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let all = [&a.name, &b.name];
    let client = ground.outside().addresses();
    let own = json!([format!("{}/32", client.v4), format!("{}/128", client.v6)]);
    let (service, ip) = balanced(ground, json!({"loadBalancerSourceRanges": own}))?;
    ground.served_by(from_outside(ground, ip), all)?;
    set_ranges(ground, &service, &json!(NOBODY))?;
    ground.silent(from_outside(ground, ip))?;
    // They are the LoadBalancer IP's alone.
    let node_port = ground.node("worker-1").at(Family::V4, service.node_port());
    ground.served_by([Way::tcp(ground.outside(), node_port)], all)?;
    ground.served_by([Way::tcp(ground.client(), service.vip())], all)?;
    set_ranges(ground, &service, &json!(EVERYBODY))?;
    ground.served_by(from_outside(ground, ip), all)?;
    set_ranges(ground, &service, &json!(NOBODY))?;
    ground.silent([Way::tcp(ground.outside(), at(ip, Family::V4).into())])?;
    set_ranges(ground, &service, &Value::Null)?;
    ground.served_by(from_outside(ground, ip), all)
}

fn ranges_from_pods(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let all = [&a.name, &b.name];
    let client = ground.client().addresses();
    let own = json!([format!("{}/32", client.v4), format!("{}/128", client.v6)]);
    let (service, ip) = balanced(ground, json!({"loadBalancerSourceRanges": own}))?;
    ground.served_by(from_pod(ground, ip), all)?;
    // Another pod is another client.
    let far = ground.far_client();
    ground.settled()?;
    ground.silent(Family::ALL.map(|family| Way::tcp(far, at(ip, family).into())))?;
    ground.served_by([Way::tcp(far, service.vip())], all)?;
    set_ranges(ground, &service, &json!(NOBODY))?;
    ground.silent(from_pod(ground, ip))?;
    ground.served_by([Way::tcp(ground.client(), service.vip())], all)
}

/// If ranges of only one family are listed, no client of the other family is allowed.
fn ranges_of_one_family(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let own = json!([format!("{}/32", ground.outside().addresses().v4)]);
    let (_, ip) = balanced(ground, json!({"loadBalancerSourceRanges": own}))?;
    let outside = ground.outside();
    ground.served_by(
        Way::both(outside, at(ip, Family::V4).into()),
        [&a.name, &b.name],
    )?;
    ground.settled()?;
    ground.silent(Way::both(outside, at(ip, Family::V6).into()))
}
