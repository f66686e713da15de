//! What keeps a UDP conversation on its backend, and what moves it (semantics L3, L6; ADR 4, 9): a flow
//! stays while its backend serves, even if backends are added, and moves with the next datagram after the
//! backend is removed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_lab::objects::Service;
use proxy_lab::{
    AgentOptions, Family, Folder, Host, Lab, Pod, PodSpec, Protocol, Result, TcpRequest, UdpSocket,
    address, eventually, skipped, spawn_agents,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const NODE_PORT: u16 = 30_300;
const TIMEOUT: Duration = Duration::from_secs(2);
/// From the write of a file to the traffic that follows it.
const PROGRAMMED: Duration = Duration::from_secs(5);

/// Backends here and elsewhere: flows of either kind must hold and move.
const SERVERS: [&str; 4] = ["here-1", "there-1", "here-2", "there-2"];

fn lab(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["sockets", "here-1", "here-2"])
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .pods("worker-2", ["there-1", "there-2"])
        .up()?;
    for name in SERVERS {
        lab.pod(name).serve(TARGET_PORT)?;
    }
    Ok(lab)
}

fn service() -> Service {
    Service::new("flows")
        .cluster_ips(address::cluster_ip(1))
        .both(PORT)
        .node_port(NODE_PORT)
}

/// Makes these pods the Service's endpoints.
fn put(lab: &Lab, source: &Folder, servers: &[&str]) -> Result<()> {
    for family in Family::ALL {
        let pods: Vec<&Pod> = servers.iter().map(|name| lab.pod(name)).collect();
        source.put(service().slice_of(family, TARGET_PORT, pods))?;
    }
    Ok(())
}

/// Who sends, and to which frontend: every way that a datagram is translated by.
fn senders(lab: &Lab, family: Family) -> [(&Host, SocketAddr); 4] {
    let cluster_ip = (address::cluster_ip(1).of(family), PORT).into();
    let node_port = lab.node("worker-1").at(family, NODE_PORT);
    [
        (lab.node("worker-1"), cluster_ip),
        (lab.pod("sockets"), cluster_ip),
        (lab.pod("packets"), cluster_ip),
        (lab.workstation(), node_port),
    ]
}

fn unspecified(family: Family) -> SocketAddr {
    match family {
        Family::V4 => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        Family::V6 => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// An unconnected socket on `client`.
fn unconnected(client: &Host, family: Family) -> Result<UdpSocket<'_>> {
    client.udp_socket(unspecified(family), None)
}

/// Sends one datagram; the server's name, after a look at what the client sees.
fn ask(socket: &UdpSocket<'_>, to: SocketAddr, what: &str) -> Result<String> {
    let exchange = socket.exchange(Some(to), TIMEOUT)?;
    let server = exchange
        .server()
        .unwrap_or_else(|| panic!("{what}: {:?}", exchange.outcome))
        .to_owned();
    assert_eq!(
        exchange.peer,
        Some(to),
        "{what}: recvmsg names the frontend"
    );
    Ok(server)
}

/// Waits until new conversations reach exactly these servers.
fn wait_for(lab: &Lab, servers: &[&str]) -> Result<()> {
    let wanted: BTreeSet<&str> = servers.iter().copied().collect();
    let (client, to) = senders(lab, Family::V4)[1];
    eventually("new endpoints are used", PROGRAMMED, || {
        let seen = client.tcp_all(TcpRequest::to(to).times(16 * servers.len()))?;
        let seen: BTreeSet<&str> = seen
            .iter()
            .filter_map(|exchange| exchange.server())
            .collect();
        Ok(seen == wanted)
    })?;
    // Families and nodes are programmed one after the other.
    std::thread::sleep(Duration::from_millis(200));
    Ok(())
}

#[test]
fn l6_a_udp_socket_keeps_its_backend_while_others_come_and_go() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("udpkeep")?;
    let source = lab.source()?;
    source.put(service())?;
    put(&lab, &source, &SERVERS[..2])?;
    let _agents = spawn_agents(&lab, &AgentOptions::files(source.path()))?;
    let mut conversations = Vec::new();
    for family in Family::ALL {
        for (client, to) in senders(&lab, family) {
            let what = format!("{} to {to}", client.name());
            let socket = unconnected(client, family)?;
            let server = ask(&socket, to, &what)?;
            conversations.push((socket, to, server, what));
        }
    }
    // More endpoints and fewer, but always the two that are in use.
    for servers in [&SERVERS[..], &SERVERS[..3], &SERVERS[..2], &SERVERS[..]] {
        put(&lab, &source, servers)?;
        wait_for(&lab, servers)?;
        for (socket, to, server, what) in &conversations {
            for _ in 0..25 {
                assert_eq!(&ask(socket, *to, what)?, server, "{what}: another backend");
            }
        }
    }
    Ok(())
}

#[test]
fn l3_a_udp_flow_moves_when_its_backend_goes_away() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("udpmove")?;
    let source = lab.source()?;
    source.put(service())?;
    put(&lab, &source, &[SERVERS[0]])?;
    let _agents = spawn_agents(&lab, &AgentOptions::files(source.path()))?;
    let mut conversations = Vec::new();
    for family in Family::ALL {
        for (client, to) in senders(&lab, family) {
            let what = format!("{} to {to}", client.name());
            let socket = unconnected(client, family)?;
            assert_eq!(ask(&socket, to, &what)?, SERVERS[0], "{what}");
            conversations.push((socket, to, what));
        }
    }
    // The old server goes on answering: only the list says that it is gone. Here → elsewhere → elsewhere → here.
    for server in ["there-1", "there-2", "here-2", "here-1"] {
        put(&lab, &source, &[server])?;
        wait_for(&lab, &[server])?;
        for (socket, to, what) in &conversations {
            for _ in 0..3 {
                assert_eq!(ask(socket, *to, what)?, server, "{what}");
            }
        }
    }
    Ok(())
}

#[test]
fn l3_a_udp_flow_ends_with_the_last_endpoint_and_begins_with_the_first() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("udpfirst")?;
    let source = lab.source()?;
    source.put(service())?;
    let _agents = spawn_agents(&lab, &AgentOptions::files(source.path()))?;
    let mut conversations = Vec::new();
    for family in Family::ALL {
        for (client, to) in senders(&lab, family) {
            conversations.push((unconnected(client, family)?, to, client.name()));
        }
    }
    let short = Duration::from_millis(100);
    for server in ["here-1", "there-1"] {
        for (socket, to, what) in &conversations {
            let exchange = socket.exchange(Some(*to), short)?;
            assert!(exchange.outcome.is_err(), "{what} to {to} was answered");
        }
        put(&lab, &source, &[server])?;
        wait_for(&lab, &[server])?;
        for (socket, to, what) in &conversations {
            assert_eq!(ask(socket, *to, what)?, server, "{what} to {to}");
        }
        put(&lab, &source, &[])?;
        let (client, to) = senders(&lab, Family::V6)[1];
        eventually("the last endpoint is gone", PROGRAMMED, || {
            Ok(client.tcp(to)?.outcome.is_err())
        })?;
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

#[test]
fn l6_connected_sockets_name_the_frontend_as_their_peer() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("udppeer")?;
    let source = lab.source()?;
    source.put(service())?;
    put(&lab, &source, &SERVERS)?;
    let _agents = spawn_agents(&lab, &AgentOptions::files(source.path()))?;
    for family in Family::ALL {
        for (client, to) in senders(&lab, family) {
            let what = format!("{} to {to}", client.name());
            let connected = client.udp_socket(unspecified(family), Some(to))?;
            let first = connected.exchange(None, TIMEOUT)?;
            let server = first
                .server()
                .unwrap_or_else(|| panic!("{what}: {first:?}"));
            for _ in 0..10 {
                let exchange = connected.exchange(None, TIMEOUT)?;
                assert_eq!(exchange.server(), Some(server), "{what}");
                assert_eq!(exchange.peer, Some(to), "{what}: getpeername of UDP");
            }
            let exchange = client.request(Protocol::Tcp, to)?;
            assert!(exchange.outcome.is_ok(), "{what}: {exchange:?}");
            assert_eq!(exchange.peer, Some(to), "{what}: getpeername of TCP");
        }
    }
    Ok(())
}
