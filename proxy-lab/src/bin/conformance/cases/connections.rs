//! Who is chosen, and what a connection carries.

use std::time::Duration;

use proxy_lab::{Host, Protocol, TcpRequest, UdpRequest};
use serde_json::json;

use crate::case::{Case, Outcome, ensure};
use crate::ground::{Answers, Ground, Way};

/// A port on which no pod listens.
const CLOSED: u16 = 9;

pub const CASES: &[Case] = &[
    Case::new("L1", "connections-are-spread-evenly", &[], spread),
    Case::new(
        "P1",
        "large-requests-by-tcp",
        &["should be able to handle large requests: http"],
        large_by_tcp,
    ),
    Case::new(
        "P3",
        "large-requests-by-udp",
        &["should be able to handle large requests: udp"],
        large_by_udp,
    ),
    Case::new("P2", "a-closed-port-refuses", &[], closed_port),
    Case::new("P1", "connections-live-on", &[], live_on),
    Case::new("P1", "one-port-after-the-other", &[], port_again),
];

/// From a pod, a node and outside. Of three, each gets a third of 300: within five standard deviations (8.2).
fn spread(ground: &Ground<'_>) -> Outcome {
    let servers = ground.servers([("a", "worker-1"), ("b", "worker-2"), ("c", "worker-2")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let ways = [
        Way::tcp(ground.client(), service.vip()),
        Way::udp(ground.client(), service.vip()),
        Way::tcp(ground.node("worker-1"), service.vip()),
        Way::tcp(ground.outside(), ground.at_node("worker-1", &service)),
    ];
    for way in ways {
        ground.served_by([way], servers.iter().map(|server| &server.name))?;
        let answers = way.ask(300, Duration::from_secs(2))?;
        let counts: Vec<_> = answers.servers.values().copied().collect();
        let even = counts.len() == 3 && counts.iter().all(|count| (59..=141).contains(count));
        ensure(even && answers.failures.is_empty(), || {
            format!("{way}: {answers}")
        })?;
    }
    Ok(())
}

/// Whoever asks by another path: pod and node at the ClusterIP, outside at a node without the pod.
fn paths<'a>(
    ground: &Ground<'a>,
    service: &crate::ground::Service,
    index: usize,
) -> [(&'a Host, std::net::SocketAddr); 3] {
    let node = (
        ground.node("worker-1").addresses().v4,
        service.node_port_of(index),
    )
        .into();
    [
        (ground.client(), service.vip()),
        (ground.node("worker-1"), service.vip()),
        (ground.outside(), node),
    ]
}

/// 200 kB there and back: many segments, offloaded or not.
fn large_by_tcp(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    for (client, to) in paths(ground, &service, 0) {
        ground.served_by([Way::tcp(client, to)], [&a.name])?;
        let request = TcpRequest::to(to).times(3).padded(200_000);
        let answers = Answers::of(&client.tcp_all(request.timeout(Duration::from_secs(10)))?);
        ensure(answers.servers.get(&a.name) == Some(&3), || {
            format!("{} to {to}: {answers}", client.name())
        })?;
    }
    Ok(())
}

/// 1,900 bytes there and back: more than a frame holds, so both are fragments.
fn large_by_udp(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    for (client, to) in paths(ground, &service, 1) {
        ground.served_by([Way::udp(client, to)], [&a.name])?;
        let request = UdpRequest::to(to).times(3).padded(1_900);
        let answers = Answers::of(&client.udp_all(request)?);
        ensure(answers.servers.get(&a.name) == Some(&3), || {
            format!("{} to {to}: {answers}", client.name())
        })?;
    }
    Ok(())
}

/// A pod's kernel rejects a datagram with an ICMP error, which quotes the translated packet. The error must
/// still reach the client's socket.
fn closed_port(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let ways = paths(ground, &service, 1).map(|(client, to)| Way::udp(client, to));
    ground.served_by(ways, [&a.name])?;
    let mut ports = service.object["spec"]["ports"].clone();
    ports[1]["targetPort"] = json!(CLOSED);
    ground.change_service(&service, &json!({"ports": ports}))?;
    ground.refused(ways)
}

/// Many connections are open at once, each is used repeatedly, and getpeername returns the Service's
/// address.
fn live_on(ground: &Ground<'_>) -> Outcome {
    let servers = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    for (client, to) in paths(ground, &service, 0) {
        ground.served_by(
            [Way::tcp(client, to)],
            servers.iter().map(|server| &server.name),
        )?;
        let held = client.hold(TcpRequest::to(to).times(40))?;
        let first: Vec<_> = held
            .opened
            .iter()
            .map(|answer| answer.server().map(str::to_owned))
            .collect();
        ensure(first.iter().all(Option::is_some), || {
            format!("{} to {to}: {first:?}", client.name())
        })?;
        let peers = held
            .opened
            .iter()
            .filter(|answer| answer.peer == Some(to))
            .count();
        ensure(peers == 40, || {
            format!(
                "{} to {to}: {peers} of 40 peers are the Service",
                client.name()
            )
        })?;
        for _ in 0..5 {
            let answers = held.check(Duration::from_secs(5))?;
            let same = answers
                .iter()
                .zip(&first)
                .all(|(answer, first)| answer.server() == first.as_deref());
            ensure(same, || {
                format!("{} to {to}: {}", client.name(), Answers::of(&answers))
            })?;
        }
        held.close()?;
    }
    Ok(())
}

/// The same client port, used again at once for a new connection, and for two Services.
fn port_again(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let [first, second] = [
        ground.service("first", &json!({}))?,
        ground.service("second", &json!({}))?,
    ];
    let ways = [&first, &second].map(|service| Way::tcp(ground.client(), service.vip()));
    ground.served_by(ways, [&a.name])?;
    for _ in 0..5 {
        for way in ways {
            let request = TcpRequest::to(way.to).from_port(19_999);
            let answers = Answers::of(&way.from.tcp_all(request)?);
            ensure(answers.are_by(&[a.name.as_str()].into()), || {
                format!("{way} from port 19999: {answers}")
            })?;
        }
    }
    let udp = UdpRequest::to(first.vip())
        .from_port(19_998)
        .times(5)
        .same_socket();
    let answers = Answers::of(&ground.client().udp_all(udp)?);
    ensure(answers.are_by(&[a.name.as_str()].into()), || {
        format!("{} from one port: {answers}", Protocol::Udp)
    })
}
