//! Connected UDP sockets whose backend is gone (semantics L6, ADR 9) get an error from their next or
//! pending call. All other sockets keep working, and reconnecting reaches a living backend.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use proxy_lab::objects::Service;
use proxy_lab::protocol::{FailureKind, Protocol, Serve};
use proxy_lab::{
    AgentOptions, Family, Folder, Host, Lab, Pod, Result, UdpSocket, address, skipped, spawn_agents,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const NODE_PORT: u16 = 30_700;
const TIMEOUT: Duration = Duration::from_secs(2);
/// From the write of a file to the last socket's error.
const ABORTED: Duration = Duration::from_millis(500);

/// One server on the client's node, two on another. `there` is the one that is removed.
const SERVERS: [&str; 3] = ["here", "beside", "there"];
const LIVING: [&str; 2] = ["here", "beside"];
/// Sockets of one kind: that none of them is on a server happens once in 60,000 runs.
const EACH: usize = 30;

fn lab(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["client", "here"])
        .pods("worker-2", ["beside", "there"])
        .up()?;
    for name in SERVERS {
        lab.pod(name).serve(TARGET_PORT)?;
    }
    Ok(lab)
}

/// Two Services with the same endpoints.
fn services() -> [Service; 2] {
    let service = |name, number| {
        Service::new(name)
            .cluster_ips(address::cluster_ip(number))
            .both(PORT)
    };
    [
        service("first", 1).node_port(NODE_PORT),
        service("second", 2),
    ]
}

fn put(lab: &Lab, source: &Folder, service: &Service, servers: &[&str]) -> Result<()> {
    for family in Family::ALL {
        let pods: Vec<&Pod> = servers.iter().map(|name| lab.pod(name)).collect();
        source.put(service.slice_of(family, TARGET_PORT, pods))?;
    }
    Ok(())
}

fn unspecified(family: Family) -> SocketAddr {
    match family {
        Family::V4 => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        Family::V6 => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// A socket and the server that it is connected to.
struct Conversation<'a> {
    client: &'a Host,
    to: SocketAddr,
    socket: UdpSocket<'a>,
    server: String,
}

impl<'a> Conversation<'a> {
    fn begin(client: &'a Host, bind: SocketAddr, to: SocketAddr) -> Result<Self> {
        let socket = client.udp_socket(bind, Some(to))?;
        let first = socket.exchange(None, TIMEOUT)?;
        let server = first
            .server()
            .unwrap_or_else(|| panic!("{} to {to}: {:?}", client.name(), first.outcome))
            .to_owned();
        Ok(Self {
            client,
            to,
            socket,
            server,
        })
    }

    /// `times` of them, of which some are on either server.
    fn some(client: &'a Host, to: SocketAddr, times: usize) -> Result<Vec<Self>> {
        let bind = unspecified(if to.is_ipv4() { Family::V4 } else { Family::V6 });
        let all: Result<Vec<_>> = (0..times).map(|_| Self::begin(client, bind, to)).collect();
        let all = all?;
        for server in SERVERS {
            assert!(
                all.iter().any(|one| one.server == server),
                "none of {times} is on {server}"
            );
        }
        Ok(all)
    }

    fn what(&self) -> String {
        format!("{} to {} on {}", self.client.name(), self.to, self.server)
    }

    fn assert_goes_on(&self) -> Result<()> {
        let exchange = self.socket.exchange(None, TIMEOUT)?;
        assert_eq!(
            exchange.server(),
            Some(&*self.server),
            "{}: {:?}",
            self.what(),
            exchange.outcome
        );
        assert_eq!(exchange.peer, Some(self.to), "{}", self.what());
        Ok(())
    }
}

fn cluster_ip(number: u16, family: Family) -> SocketAddr {
    (address::cluster_ip(number).of(family), PORT).into()
}

#[test]
fn l6_sockets_connected_to_a_backend_that_is_gone_are_aborted() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("abort")?;
    let source = lab.source()?;
    let [first, second] = services();
    for service in [&first, &second] {
        source.put(service.clone())?;
        put(&lab, &source, service, &SERVERS)?;
    }
    let _agents = spawn_agents(&lab, &AgentOptions::files(source.path()))?;
    let clients: [&Host; 2] = [lab.node("worker-1"), lab.pod("client")];
    let (mut touched, mut others) = (Vec::new(), Vec::new());
    for client in clients {
        for family in Family::ALL {
            let mut all = Conversation::some(client, cluster_ip(1, family), EACH)?;
            touched.append(&mut all);
            // The other Service keeps both endpoints.
            others.extend(Conversation::some(client, cluster_ip(2, family), EACH)?);
        }
        // A socket of both families, connected to IPv4.
        let SocketAddr::V4(to) = cluster_ip(1, Family::V4) else {
            unreachable!("an IPv4 address");
        };
        let mapped = SocketAddr::new(to.ip().to_ipv6_mapped().into(), PORT);
        touched.extend(Conversation::some(client, mapped, EACH)?);
    }
    for family in Family::ALL {
        let node = lab.node("worker-1");
        touched.extend(Conversation::some(node, node.at(family, NODE_PORT), EACH)?);
    }
    let (lost, kept): (Vec<_>, Vec<_>) = touched
        .into_iter()
        .partition(|conversation| conversation.server == "there");

    put(&lab, &source, &first, &LIVING)?;
    let written = Instant::now();
    let short = Duration::from_millis(50);
    for conversation in &lost {
        let mut failure = None;
        // The endpoint itself lives on and answers until then.
        while failure.is_none() && written.elapsed() < ABORTED {
            failure = conversation.socket.exchange(None, short)?.outcome.err();
        }
        let failure = failure.unwrap_or_else(|| panic!("{}: no error", conversation.what()));
        // ADR 9: the kernel looks for a peer before it looks for errors.
        let expected = match &*failure.stage {
            "send" => Errno::EDESTADDRREQ,
            _ => Errno::ECONNABORTED,
        };
        let errno = failure.errno.map(Errno::from_raw);
        assert_eq!(errno, Some(expected), "{}: {failure}", conversation.what());
    }
    println!("{} sockets, {:?}", lost.len(), written.elapsed());
    for conversation in kept.iter().chain(&others) {
        conversation.assert_goes_on()?;
    }
    for conversation in lost {
        let (client, to) = (conversation.client, conversation.to);
        let bind = unspecified(if to.is_ipv4() { Family::V4 } else { Family::V6 });
        let again = Conversation::begin(client, bind, to)?;
        assert!(LIVING.contains(&&*again.server), "{}", again.what());
    }
    Ok(())
}

#[test]
fn l6_a_socket_that_waits_for_an_answer_is_woken_when_its_backend_is_gone() -> Result<()> {
    /// A port without a server.
    const SILENT: u16 = 9090;
    if skipped() {
        return Ok(());
    }
    let lab = lab("abortwait")?;
    let source = lab.source()?;
    let [service, _] = services();
    source.put(service.clone())?;
    for family in Family::ALL {
        lab.pod("there").serve_as(Serve {
            name: "silent".to_owned(),
            protocol: Protocol::Udp,
            address: SocketAddr::new(unspecified(family).ip(), SILENT),
            delay: Duration::ZERO,
            silent: true,
        })?;
        source.put(service.slice_of(family, SILENT, [lab.pod("there")]))?;
    }
    let _agents = spawn_agents(&lab, &AgentOptions::files(source.path()))?;
    let clients: [&Host; 2] = [lab.node("worker-1"), lab.pod("client")];
    let mut sockets = Vec::new();
    for client in clients {
        for family in Family::ALL {
            let to = cluster_ip(1, family);
            let socket = client.udp_socket(unspecified(family), Some(to))?;
            sockets.push((client, family, socket));
        }
    }
    std::thread::scope(|scope| -> Result<()> {
        let waiting: Vec<_> = sockets
            .iter()
            .map(|(_, _, socket)| scope.spawn(|| socket.exchange(None, 2 * TIMEOUT)))
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        put(&lab, &source, &service, &["here"])?;
        let written = Instant::now();
        for one in waiting {
            let exchange = one.join().expect("no panic")?;
            let failure = exchange.outcome.expect_err("nobody answers");
            assert_eq!(failure.kind, FailureKind::Aborted, "{failure}");
            assert_eq!(failure.stage, "read", "{failure}");
        }
        assert!(written.elapsed() < ABORTED, "{:?}", written.elapsed());
        Ok(())
    })?;
    for (client, family, _) in &sockets {
        let again = Conversation::begin(client, unspecified(*family), cluster_ip(1, *family))?;
        assert_eq!(again.server, "here");
    }
    Ok(())
}

#[test]
fn sockets_are_left_alone_where_that_is_asked_for() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("abortoff")?;
    let source = lab.source()?;
    let [service, _] = services();
    source.put(service.clone())?;
    put(&lab, &source, &service, &["there"])?;
    let options = AgentOptions::files(source.path()).arg("--abort-udp-sockets=false");
    let _agents = spawn_agents(&lab, &options)?;
    let node = lab.node("worker-1");
    let kept = Conversation::begin(node, unspecified(Family::V4), cluster_ip(1, Family::V4))?;
    put(&lab, &source, &service, &["here"])?;
    std::thread::sleep(ABORTED);
    let later = Conversation::begin(node, unspecified(Family::V4), cluster_ip(1, Family::V4))?;
    assert_eq!(later.server, "here", "the change is not programmed yet");
    kept.assert_goes_on()
}
