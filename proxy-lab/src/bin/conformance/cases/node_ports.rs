//! Node ports.

use std::net::{Ipv4Addr, Ipv6Addr};

use proxy_lab::{Family, Host};
use serde_json::json;

use crate::case::{Case, Failure, Outcome};
use crate::ground::{Ground, Service, TARGET, Way};
use crate::subject::Subject;

pub const CASES: &[Case] = &[
    Case::new(
        "S4",
        "node-port-on-every-node",
        &[
            "should be able to create a functioning NodePort service",
            "should support basic nodePort: udp functionality",
            "should function for endpoint-Service: http",
            "should function for endpoint-Service: udp",
        ],
        on_every_node,
    ),
    Case::new(
        "S4",
        "node-port-on-the-loopback-of-nodes",
        &["localhost_nodeports: should accept connections to node ports on the loopback address"],
        |ground| on_the_loopback(ground, Family::V4),
    ),
    Case::new(
        "S4",
        "node-port-on-the-ipv6-loopback-of-nodes",
        &[],
        |ground| on_the_loopback(ground, Family::V6),
    ),
    Case::new(
        "S4",
        "node-port-not-on-the-loopback-of-pods",
        &[],
        not_on_the_loopback_of_pods,
    ),
    Case::new(
        "S4",
        "node-port-on-all-addresses-of-a-node",
        &[],
        on_all_addresses,
    ),
    Case::new(
        "S4",
        "node-port-changes",
        &[
            "should update nodePort: http",
            "should update nodePort: udp",
        ],
        changes,
    ),
    Case::new(
        "S4",
        "node-port-one-number-for-tcp-and-udp",
        &[
            "should be able to update service type to NodePort listening on same port number but different protocols",
        ],
        one_number,
    ),
    Case::new(
        "S4",
        "node-port-is-free-after-the-service",
        &["should release NodePorts on delete"],
        is_free_again,
    ),
];

/// On each node's address, whichever node has the pod: from outside, from pods (the serving one too) and from nodes.
fn on_every_node(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let itself: &Host = &a;
    for client in [
        ground.outside(),
        ground.client(),
        ground.node("worker-1"),
        itself,
    ] {
        for node in ground.lab.nodes() {
            let ways = [
                Way::tcp(client, node.at(Family::V4, service.node_port_of(0))),
                Way::udp(client, node.at(Family::V4, service.node_port_of(1))),
            ];
            ground.served_by(ways, [&a.name])?;
        }
    }
    Ok(())
}

/// For processes in the node's network namespace, whichever node has the pod.
fn on_the_loopback(ground: &Ground<'_>, family: Family) -> Outcome {
    if ground.subject == Subject::Packets {
        let why =
            "nodes' own sockets are translated when they connect, as the subject `sockets` shows";
        return Err(Failure::NotApplicable(why.to_owned()));
    }
    let [a] = ground.servers([("a", "worker-2")])?;
    let spec = json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack"});
    let service = ground.service("web", &spec)?;
    let loopback: std::net::IpAddr = match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    for node in ["worker-1", "worker-2"] {
        let ways = [
            Way::tcp(
                ground.node(node),
                (loopback, service.node_port_of(0)).into(),
            ),
            Way::udp(
                ground.node(node),
                (loopback, service.node_port_of(1)).into(),
            ),
        ];
        ground.served_by(ways, [&a.name])?;
    }
    Ok(())
}

/// Each pod has its own loopback. Nobody listens there, and the pod's kernel refuses.
fn not_on_the_loopback_of_pods(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-1")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    ground.served_by(
        [Way::tcp(
            ground.client(),
            ground.at_node("worker-1", &service),
        )],
        [&a.name],
    )?;
    let loopback = (Ipv4Addr::LOCALHOST, service.node_port()).into();
    ground.refused([Way::tcp(ground.client(), loopback)])?;
    // The serving pod's own listener is still there for itself.
    ground.served_by(
        [Way::tcp(&a, (Ipv4Addr::LOCALHOST, TARGET).into())],
        [&a.name],
    )
}

/// Node ports also work on a node's secondary addresses, such as its address in the pod range.
fn on_all_addresses(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    ground.served_by(
        [Way::tcp(
            ground.outside(),
            ground.at_node("worker-1", &service),
        )],
        [&a.name],
    )?;
    let gateway = ground.node("worker-1").pod_gateway().v4;
    let to = (gateway, service.node_port()).into();
    ground.served_by(
        [
            Way::tcp(ground.client(), to),
            Way::tcp(ground.node("worker-1"), to),
        ],
        [&a.name],
    )
}

/// The new number answers, the old one does not.
fn changes(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let ways = |service: &Service| {
        let ip = ground.node("worker-1").ip(Family::V4);
        [
            Way::tcp(ground.outside(), (ip, service.node_port_of(0)).into()),
            Way::udp(ground.outside(), (ip, service.node_port_of(1)).into()),
        ]
    };
    ground.served_by(ways(&service), [&a.name])?;
    // Node ports that are free again.
    let spare = ground.service("spare", &json!({"type": "NodePort"}))?;
    ground.delete_service(&spare)?;
    let mut ports = service.object["spec"]["ports"].clone();
    for index in [0, 1] {
        ports[index]["nodePort"] = spare.node_port_of(index).into();
    }
    ground.change_service(&service, &json!({"ports": ports}))?;
    ground.served_by(ways(&spare), [&a.name])?;
    ground.settled()?;
    ground.unanswered(ways(&service))
}

/// A ClusterIP Service becomes one with the same node port for both protocols.
fn one_number(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service(
        "web",
        &json!({"ports": [{"name": "tcp", "port": 80, "targetPort": TARGET}]}),
    )?;
    ground.served_by([Way::tcp(ground.client(), service.vip())], [&a.name])?;
    let service = ground.change_service(&service, &json!({"type": "NodePort"}))?;
    let number = service.node_port();
    let node = ground.at_node("worker-1", &service);
    ground.served_by([Way::tcp(ground.outside(), node)], [&a.name])?;
    let ports = json!([
        {"name": "tcp", "port": 80, "targetPort": TARGET, "nodePort": number},
        {"name": "udp", "port": 80, "targetPort": TARGET, "nodePort": number, "protocol": "UDP"},
    ]);
    ground.change_service(&service, &json!({"ports": ports}))?;
    for client in [ground.outside(), ground.client()] {
        ground.served_by(Way::both(client, node), [&a.name])?;
    }
    Ok(())
}

/// Then a process of the node may have it, and is reached.
fn is_free_again(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let node = ground.node("worker-1");
    let to = ground.at_node("worker-1", &service);
    ground.served_by([Way::tcp(ground.outside(), to)], [&a.name])?;
    ground.delete_service(&service)?;
    ground.settled()?;
    ground.refused([Way::tcp(ground.outside(), to)])?;
    let process = node.server(proxy_lab::Protocol::Tcp, Family::V4, service.node_port())?;
    let reached = ground.served_by([Way::tcp(ground.outside(), to)], [node.name()]);
    process.stop()?;
    reached
}
