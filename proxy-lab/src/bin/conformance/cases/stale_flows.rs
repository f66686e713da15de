//! UDP flows whose server is removed, and TCP connections that must survive.

use std::net::SocketAddr;
use std::time::Duration;

use proxy_lab::protocol::unspecified_like;
use proxy_lab::{Host, Result, TcpRequest, UdpSocket};
use serde_json::{Value, json};

use crate::case::{Case, Outcome, ensure};
use crate::ground::{Ground, PORT, Server, TARGET, Way};
use crate::subject::Subject;

pub const CASES: &[Case] = &[
    Case::new(
        "L3",
        "udp-server-is-replaced-behind-a-cluster-ip",
        &["should be able to preserve UDP traffic when server pod cycles for a ClusterIP service"],
        behind_a_cluster_ip,
    ),
    Case::new(
        "L3",
        "udp-server-is-replaced-behind-a-node-port",
        &["should be able to preserve UDP traffic when server pod cycles for a NodePort service"],
        behind_a_node_port,
    ),
    Case::new(
        "L3",
        "udp-server-is-replaced-behind-a-load-balancer-ip",
        &[
            "should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service",
        ],
        behind_a_load_balancer_ip,
    ),
    Case::new(
        "L3",
        "udp-server-in-the-host-network-is-replaced",
        &[
            "should be able to preserve UDP traffic when server pod cycles for a NodePort service (hostNetwork)",
        ],
        in_the_host_network,
    ),
    Case::new(
        "L3",
        "udp-first-endpoint-ever",
        &["should be able to preserve UDP traffic when initial unready endpoints get ready"],
        first_endpoint,
    ),
    Case::new(
        "L3",
        "udp-moves-from-an-unready-server",
        &[],
        moves_from_unready,
    ),
    Case::new("L3", "tcp-stays-with-an-unready-server", &[], tcp_stays),
    Case::new(
        "L3",
        "tcp-survives-its-service",
        &[],
        tcp_survives_its_service,
    ),
    Case::new(
        "L6",
        "udp-socket-keeps-its-server",
        &[],
        socket_keeps_its_server,
    ),
    Case::new(
        "L6",
        "connected-udp-socket-whose-server-goes",
        &[],
        connected_socket,
    ),
];

/// How long a datagram may wait for its answer.
const TIMEOUT: Duration = Duration::from_millis(300);

/// A socket that goes on sending from one port to one address.
struct Sender<'a> {
    socket: UdpSocket<'a>,
    to: SocketAddr,
    from: &'a str,
}

impl<'a> Sender<'a> {
    fn new(from: &'a Host, to: SocketAddr) -> Result<Self> {
        let socket = from.udp_socket((unspecified_like(to), 0).into(), None)?;
        let from = from.name();
        Ok(Self { socket, to, from })
    }

    /// Who answers, if anybody.
    fn server(&self) -> Result<Option<String>> {
        let exchange = self.socket.exchange(Some(self.to), TIMEOUT)?;
        Ok(exchange.server().map(str::to_owned))
    }

    /// Goes on sending until this server answers; then no other does.
    fn until(&self, ground: &Ground<'_>, server: &Server) -> Outcome {
        let what = format!(
            "the socket of {} that goes on sending to {} reaches {}",
            self.from, self.to, server.name
        );
        ground.eventually(&what, || Ok(self.server()?.as_ref() == Some(&server.name)))?;
        let again = self.server()?;
        ensure(again.as_ref() == Some(&server.name), || {
            format!("{what}, and later {again:?}")
        })
    }
}

/// Sockets of each client go on sending while the server is replaced.
fn replaced(
    ground: &Ground<'_>,
    senders: &[Sender<'_>],
    first: &Server,
    second: impl FnOnce() -> Result<Server>,
) -> Outcome {
    for sender in senders {
        sender.until(ground, first)?;
    }
    ground.delete_pod(first)?;
    // The senders go on while there are no endpoints.
    for sender in senders {
        sender.server()?;
    }
    let second = second()?;
    for sender in senders {
        sender.until(ground, &second)?;
    }
    Ok(())
}

fn behind_a_cluster_ip(ground: &Ground<'_>) -> Outcome {
    let [first] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({}))?;
    let to = service.vip();
    ground.served_by(
        [
            Way::udp(ground.client(), to),
            Way::udp(ground.node("worker-1"), to),
        ],
        [&first.name],
    )?;
    let senders = [
        Sender::new(ground.client(), to)?,
        Sender::new(ground.far_client(), to)?,
        Sender::new(ground.node("worker-1"), to)?,
    ];
    replaced(ground, &senders, &first, || {
        let [second] = ground.servers([("b", "worker-1")])?;
        Ok(second)
    })
}

fn udp_node_port() -> Value {
    json!({"type": "NodePort", "ports": [{"name": "udp", "port": 80, "targetPort": TARGET, "protocol": "UDP"}]})
}

fn behind_a_node_port(ground: &Ground<'_>) -> Outcome {
    let [first] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &udp_node_port())?;
    let to = ground.at_node("worker-1", &service);
    ground.served_by(
        [
            Way::udp(ground.outside(), to),
            Way::udp(ground.client(), to),
        ],
        [&first.name],
    )?;
    let senders = [
        Sender::new(ground.outside(), to)?,
        Sender::new(ground.client(), to)?,
        Sender::new(ground.node("worker-1"), to)?,
        Sender::new(ground.outside(), ground.at_node("worker-2", &service))?,
    ];
    replaced(ground, &senders, &first, || {
        let [second] = ground.servers([("b", "worker-1")])?;
        Ok(second)
    })
}

fn behind_a_load_balancer_ip(ground: &Ground<'_>) -> Outcome {
    let [first] = ground.servers([("a", "worker-2")])?;
    let ip = ground.load_balancer_ip().v4;
    ground.balanced("web", &json!({}), ip.into())?;
    let to = (ip, PORT).into();
    let ways = [
        Way::udp(ground.outside(), to),
        Way::udp(ground.client(), to),
    ];
    ground.served_by(ways, [&first.name])?;
    let senders = [
        Sender::new(ground.outside(), to)?,
        Sender::new(ground.client(), to)?,
        Sender::new(ground.node("worker-1"), to)?,
    ];
    replaced(ground, &senders, &first, || {
        let [second] = ground.servers([("b", "worker-1")])?;
        Ok(second)
    })
}

/// From one node's process to another's.
fn in_the_host_network(ground: &Ground<'_>) -> Outcome {
    let spec = json!({"spec": {"hostNetwork": true, "containers": [{"name": "web", "image": "none", "ports": [
        {"containerPort": 8380, "protocol": "UDP"},
    ]}]}});
    let first = ground.server_with("a", "worker-2", &spec)?;
    let mut fields = udp_node_port();
    fields["ports"][0]["targetPort"] = 8380.into();
    let service = ground.service("web", &fields)?;
    let to = ground.at_node("worker-1", &service);
    ground.served_by(
        [
            Way::udp(ground.outside(), to),
            Way::udp(ground.client(), service.vip()),
        ],
        [&first.name],
    )?;
    let senders = [
        Sender::new(ground.outside(), to)?,
        Sender::new(ground.client(), service.vip())?,
    ];
    replaced(ground, &senders, &first, || {
        ground.server_with("b", "worker-1", &spec)
    })
}

/// A socket sends to a Service that has no ready endpoint yet, and does so until it has one.
fn first_endpoint(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    ground.set_ready(&a, false)?;
    let service = ground.service("web", &udp_node_port())?;
    // A controller that has not heard of it yet takes the pod for ready.
    ground.until_known("web", "the pod is there and unready", |known| {
        known.iter().any(|endpoint| !endpoint.ready)
    })?;
    let node = ground.at_node("worker-1", &service);
    let senders = [
        Sender::new(ground.client(), service.vip())?,
        Sender::new(ground.node("worker-1"), service.vip())?,
        Sender::new(ground.outside(), node)?,
    ];
    ground.settled()?;
    for sender in &senders {
        let early = sender.server()?;
        ensure(early.is_none(), || {
            format!("{early:?} answers {} and is not ready", sender.from)
        })?;
    }
    ground.set_ready(&a, true)?;
    for sender in &senders {
        sender.until(ground, &a)?;
    }
    Ok(())
}

/// Its server lives on, and does not serve any more.
fn moves_from_unready(ground: &Ground<'_>) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &udp_node_port())?;
    let node = ground.at_node("worker-1", &service);
    ground.served_by(
        [
            Way::udp(ground.client(), service.vip()),
            Way::udp(ground.outside(), node),
        ],
        [&a.name],
    )?;
    let senders = [
        Sender::new(ground.client(), service.vip())?,
        Sender::new(ground.outside(), node)?,
    ];
    for sender in &senders {
        sender.until(ground, &a)?;
    }
    ground.set_ready(&a, false)?;
    let [b] = ground.servers([("b", "worker-1")])?;
    for sender in &senders {
        sender.until(ground, &b)?;
    }
    Ok(())
}

/// Connections of a pod, a node and a client outside, and what became of them at the end.
fn held_while(ground: &Ground<'_>, change: impl FnOnce(&Server, &[Way<'_>]) -> Outcome) -> Outcome {
    let [a] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({"type": "NodePort"}))?;
    let ways = [
        Way::tcp(ground.client(), service.vip()),
        Way::tcp(ground.node("worker-1"), service.vip()),
        Way::tcp(ground.outside(), ground.at_node("worker-1", &service)),
    ];
    ground.served_by(ways, [&a.name])?;
    let mut held = Vec::new();
    for way in ways {
        held.push(way.from.hold(TcpRequest::to(way.to).times(2))?);
    }
    change(&a, &ways)?;
    for (way, hold) in ways.iter().zip(held) {
        let answers = hold.check(Duration::from_secs(3))?;
        let alive = answers
            .iter()
            .filter(|answer| answer.server() == Some(&a.name))
            .count();
        hold.close()?;
        ensure(alive == 2, || {
            format!("{way}: {alive} of 2 connections live on")
        })?;
    }
    Ok(())
}

fn tcp_stays(ground: &Ground<'_>) -> Outcome {
    held_while(ground, |a, ways| {
        ground.set_ready(a, false)?;
        let [b] = ground.servers([("b", "worker-1")])?;
        ground.served_by(ways.iter().copied(), [&b.name])
    })
}

/// Nobody new is served, and who was goes on.
fn tcp_survives_its_service(ground: &Ground<'_>) -> Outcome {
    held_while(ground, |_, ways| {
        ground.delete("v1", "Service", "web")?;
        ground.settled()?;
        ground.unanswered(ways.iter().copied())
    })
}

/// Of many servers one answers all that a socket sends, also after others have come.
fn socket_keeps_its_server(ground: &Ground<'_>) -> Outcome {
    let servers = ground.servers([("a", "worker-1"), ("b", "worker-2"), ("c", "worker-2")])?;
    let service = ground.service("web", &json!({}))?;
    let names = servers.iter().map(|server| &server.name);
    ground.served_by([Way::udp(ground.client(), service.vip())], names)?;
    for client in [ground.client(), ground.node("worker-1")] {
        let sender = Sender::new(client, service.vip())?;
        let first = sender.server()?;
        ensure(first.is_some(), || format!("{}: no answer", client.name()))?;
        for _ in 0..20 {
            let next = sender.server()?;
            ensure(next == first, || {
                format!("{}: {first:?}, and later {next:?}", client.name())
            })?;
        }
    }
    Ok(())
}

/// By sockets, its next call fails and connecting again reaches a living one; per packet it moves by itself.
fn connected_socket(ground: &Ground<'_>) -> Outcome {
    let [first] = ground.servers([("a", "worker-2")])?;
    let service = ground.service("web", &json!({}))?;
    let to = service.vip();
    ground.served_by([Way::udp(ground.client(), to)], [&first.name])?;
    let open = || {
        ground
            .client()
            .udp_socket((unspecified_like(to), 0).into(), Some(to))
    };
    let mut socket = open()?;
    let mut reopened = 0;
    ground.eventually("the first answers", || {
        Ok(socket.exchange(None, TIMEOUT)?.server() == Some(&first.name))
    })?;
    ground.delete_pod(&first)?;
    let [second] = ground.servers([("b", "worker-1")])?;
    ground.served_by([Way::udp(ground.client(), to)], [&second.name])?;
    ground.eventually(
        "the socket reaches the second server, reopened after an error",
        || {
            let exchange = socket.exchange(None, TIMEOUT)?;
            if exchange.outcome.is_err() && ground.subject == Subject::Sockets && reopened == 0 {
                reopened += 1;
                let new = open()?;
                std::mem::replace(&mut socket, new).close()?;
                return Ok(false);
            }
            Ok(exchange.server() == Some(&second.name))
        },
    )?;
    Ok(socket.close()?)
}
