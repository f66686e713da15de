//! One client port, several frontends, one backend: each conversation has its own tuple (ADR 7), works, and
//! does not mix with the others. The client address that the backend sees identifies a conversation, so it
//! must not change during one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_lab::objects::{Endpoint, Service};
use proxy_lab::protocol::{Serve, unspecified_like};
use proxy_lab::{
    Agent, AgentOptions, Exchange, Family, Hold, Host, Lab, PodSpec, Protocol, Result, TcpRequest,
    address, skipped,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const NODE_PORT: u16 = 30_400;
/// The one port from which clients speak.
const CLIENT_PORT: u16 = 40_123;
const TIMEOUT: Duration = Duration::from_secs(4);

/// Lists of backends: pods here and elsewhere, the node itself, the client itself, two of which a flow may
/// choose, and one that takes its time to answer.
const HERE: usize = 0;
const THERE: usize = 1;
const NODE: usize = 2;
const ITSELF: usize = 3;
const TWO: usize = 4;
const SLOW: usize = 5;
const LISTS: [&[&str]; 6] = [
    &["here"],
    &["there"],
    &["worker-1"],
    &["packets"],
    &["here", "here-too"],
    &["slow"],
];

/// The numbers of the two Services that share a list.
fn twins(list: usize) -> [u8; 2] {
    let first = 2 * list as u8 + 1;
    [first, first + 1]
}

/// A pod or node by name.
fn host<'a>(lab: &'a Lab, name: &str) -> &'a Host {
    let found = lab.hosts().find(|host| host.name() == name);
    found.unwrap_or_else(|| panic!("no host {name}"))
}

fn endpoint(lab: &Lab, name: &str, family: Family) -> Endpoint {
    match lab.pods().iter().find(|pod| pod.name() == name) {
        Some(pod) => Endpoint::of(pod, family),
        None => Endpoint::host_network(lab.node(name), family),
    }
}

/// Two Services for each list of backends. All clients meet worker-1's agent.
fn lab(label: &str) -> Result<(Lab, Agent)> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["here", "here-too", "slow"])
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .pods("worker-2", ["there"])
        .up()?;
    for host in lab.hosts().filter(|host| host.name() != "slow") {
        host.serve(TARGET_PORT)?;
    }
    for address in ["0.0.0.0", "::"] {
        lab.pod("slow").serve_as(Serve {
            name: "slow".to_owned(),
            protocol: Protocol::Udp,
            address: SocketAddr::new(address.parse().expect("an address"), TARGET_PORT),
            delay: Duration::from_millis(200),
            silent: false,
        })?;
    }
    let source = lab.source()?;
    for (list, backends) in LISTS.iter().enumerate() {
        for number in twins(list) {
            let service = Service::new(&format!("claims-{number}"))
                .cluster_ips(address::cluster_ip(number.into()))
                .both(PORT)
                .node_port(NODE_PORT + u16::from(number))
                .load_balancer(address::load_balancer(number).v4)
                .load_balancer(address::load_balancer(number).v6);
            for family in Family::ALL {
                let endpoints = backends.iter().map(|name| endpoint(&lab, name, family));
                source.put(service.slice(family, TARGET_PORT).endpoints(endpoints))?;
            }
            source.put(service)?;
        }
    }
    let agent = lab
        .node("worker-1")
        .spawn_agent(&AgentOptions::files(source.path()))?;
    Ok((lab, agent))
}

fn cluster_ip(number: u8, family: Family) -> SocketAddr {
    (address::cluster_ip(number.into()).of(family), PORT).into()
}

fn load_balancer(number: u8, family: Family) -> SocketAddr {
    (address::load_balancer(number).of(family), PORT).into()
}

fn node_port(lab: &Lab, number: u8, family: Family) -> SocketAddr {
    lab.node("worker-1")
        .at(family, NODE_PORT + u16::from(number))
}

/// An open conversation, and the client address that the backend first saw.
struct Conversation<'a> {
    to: SocketAddr,
    hold: Hold<'a>,
    /// The server's name and the client as it sees it.
    first: (String, SocketAddr),
}

fn said(exchange: &Exchange, to: SocketAddr) -> (String, SocketAddr) {
    let identity = exchange
        .outcome
        .as_ref()
        .unwrap_or_else(|failure| panic!("to {to}: {failure}"));
    assert_eq!(exchange.peer, Some(to), "the peer as the client sees it");
    assert_eq!(
        exchange.local.map(|local| local.port()),
        Some(CLIENT_PORT),
        "the client's own port"
    );
    (identity.server.clone(), identity.client)
}

/// Opens a TCP connection from [`CLIENT_PORT`] and keeps it.
fn open(client: &Host, to: SocketAddr) -> Result<Conversation<'_>> {
    let hold = client.hold(TcpRequest::to(to).from_port(CLIENT_PORT).timeout(TIMEOUT))?;
    let first = said(&hold.opened[0], to);
    Ok(Conversation { to, hold, first })
}

impl Conversation<'_> {
    /// Asks again: the same server answers, to the same client.
    fn ask(&self) -> Result<()> {
        let exchanges = self.hold.check(TIMEOUT)?;
        assert_eq!(said(&exchanges[0], self.to), self.first, "to {}", self.to);
        Ok(())
    }
}

/// Opens all, asks each several times in turn, closes one after the other and asks those that are left.
fn all_at_once(client: &Host, destinations: &[SocketAddr]) -> Result<()> {
    let mut open_ones = Vec::new();
    for &to in destinations {
        open_ones.push(open(client, to)?);
        for conversation in &open_ones {
            conversation.ask()?;
        }
    }
    let tuples: BTreeSet<_> = open_ones.iter().map(|one| one.first.clone()).collect();
    assert_eq!(
        tuples.len(),
        open_ones.len(),
        "two conversations look alike: {tuples:?}"
    );
    while let Some(conversation) = open_ones.pop() {
        conversation.hold.close()?;
        for conversation in &open_ones {
            conversation.ask()?;
        }
    }
    Ok(())
}

#[test]
fn one_port_to_two_cluster_ips_with_one_backend() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("clmvip")?;
    for list in [HERE, THERE, NODE, ITSELF] {
        for family in Family::ALL {
            // Several rounds: what a round leaves behind must not be in the next one's way.
            for _ in 0..3 {
                let both = twins(list).map(|number| cluster_ip(number, family));
                all_at_once(lab.pod("packets"), &both)?;
            }
        }
    }
    Ok(())
}

#[test]
fn one_port_to_many_frontends_with_two_backends() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("clmtwo")?;
    for family in Family::ALL {
        let frontends = twins(TWO).map(|number| {
            [
                cluster_ip(number, family),
                load_balancer(number, family),
                node_port(&lab, number, family),
            ]
        });
        all_at_once(lab.pod("packets"), frontends.as_flattened())?;
    }
    Ok(())
}

#[test]
fn one_port_from_outside_to_node_ports_and_load_balancer_ips() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("clmout")?;
    for list in [HERE, THERE, NODE] {
        for family in Family::ALL {
            for _ in 0..3 {
                let frontends = twins(list).map(|number| {
                    [
                        node_port(&lab, number, family),
                        load_balancer(number, family),
                    ]
                });
                all_at_once(lab.workstation(), frontends.as_flattened())?;
            }
        }
    }
    Ok(())
}

/// A client, a frontend, and the address of the backend behind it: per packet from a pod, to backends here and elsewhere;
/// from outside, to a backend in the node's own network (the world outside knows no way to pods).
fn straight_ways(lab: &Lab, family: Family) -> Vec<(&Host, SocketAddr, SocketAddr)> {
    let own = |list: usize| host(lab, LISTS[list][0]).at(family, TARGET_PORT);
    let mut ways: Vec<(&Host, SocketAddr, SocketAddr)> = [HERE, THERE, NODE]
        .map(|list| {
            let frontend = cluster_ip(twins(list)[0], family);
            (&**lab.pod("packets"), frontend, own(list))
        })
        .into();
    let frontend = node_port(lab, twins(NODE)[0], family);
    ways.push((lab.workstation(), frontend, own(NODE)));
    ways
}

#[test]
fn one_port_straight_to_a_backend_and_then_to_its_frontend() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("clmafter")?;
    for family in Family::ALL {
        for (client, frontend, own) in straight_ways(&lab, family) {
            all_at_once(client, &[own, frontend])?;
        }
    }
    Ok(())
}

#[test]
fn one_port_to_a_frontend_and_then_straight_to_its_backend() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("clmbefore")?;
    for family in Family::ALL {
        for (client, frontend, own) in straight_ways(&lab, family) {
            all_at_once(client, &[frontend, own])?;
        }
    }
    Ok(())
}

/// UDP: frontends are told apart, but a frontend and its backend are not (ADR 7).
#[test]
fn one_udp_socket_to_several_frontends_with_one_backend() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("clmudp")?;
    for list in [HERE, THERE, NODE, ITSELF] {
        for family in Family::ALL {
            let frontends = twins(list).map(|number| {
                [
                    node_port(&lab, number, family),
                    load_balancer(number, family),
                ]
            });
            for client in [&**lab.pod("packets"), lab.workstation()] {
                datagrams(client, frontends.as_flattened())?;
            }
        }
    }
    Ok(())
}

/// One socket sends to all destinations in turn, several times. Each conversation keeps its own tuple.
fn datagrams(client: &Host, destinations: &[SocketAddr]) -> Result<()> {
    let any = unspecified_like(destinations[0]);
    let socket = client.udp_socket(SocketAddr::new(any, CLIENT_PORT), None)?;
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        for &to in destinations {
            let exchange = socket.exchange(Some(to), TIMEOUT)?;
            seen.insert((to, said(&exchange, to)));
        }
    }
    assert_eq!(
        seen.len(),
        destinations.len(),
        "a conversation changed its tuple: {seen:?}"
    );
    let tuples: BTreeSet<_> = seen.iter().map(|(_, tuple)| tuple).collect();
    assert_eq!(tuples.len(), seen.len(), "two look alike: {seen:?}");
    socket.close()
}

/// Neither flow has been answered when the other begins: the claim alone keeps them apart.
#[test]
fn one_udp_port_to_two_frontends_that_are_both_unanswered() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("clmslow")?;
    let client = lab.pod("packets");
    for family in Family::ALL {
        let both = twins(SLOW).map(|number| cluster_ip(number, family));
        let from = SocketAddr::new(unspecified_like(both[0]), CLIENT_PORT);
        let exchanges = std::thread::scope(|scope| {
            let asking = both.map(|to| {
                scope.spawn(move || client.udp_socket(from, Some(to))?.exchange(None, TIMEOUT))
            });
            asking.map(|thread| thread.join().expect("does not panic"))
        });
        let mut tuples = BTreeSet::new();
        for (exchange, to) in exchanges.into_iter().zip(both) {
            tuples.insert(said(&exchange?, to));
        }
        assert_eq!(tuples.len(), 2, "the two look alike: {tuples:?}");
    }
    Ok(())
}
