//! One client port, several frontends, one backend: each conversation has a tuple of its own (ADR 7), works, and does not
//! mix with the others. What the backend sees as the client tells conversations apart: it must not change while one lasts.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_lab::objects::Service;
use proxy_lab::{
    AgentOptions, Exchange, Family, Hold, Host, Lab, PodSpec, Result, TcpRequest, address, skipped,
    spawn_agents,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const NODE_PORT: u16 = 30_400;
/// The one port from which clients speak.
const CLIENT_PORT: u16 = 40_123;
const TIMEOUT: Duration = Duration::from_secs(4);

/// The two Services that share their backends.
const SERVICES: [u8; 2] = [1, 2];

/// A lab with Services 1 and 2 before these pods, and agents.
fn lab(label: &str, backends: &[&str]) -> Result<(Lab, Vec<proxy_lab::Agent>)> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["here", "here-too"])
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .pods("worker-2", ["there"])
        .up()?;
    for host in lab.hosts() {
        host.serve(TARGET_PORT)?;
    }
    let source = lab.source()?;
    for number in SERVICES {
        let service = Service::new(&format!("claims-{number}"))
            .cluster_ips(address::cluster_ip(number.into()))
            .both(PORT)
            .node_port(NODE_PORT + u16::from(number))
            .load_balancer(address::load_balancer(number).v4)
            .load_balancer(address::load_balancer(number).v6);
        for family in Family::ALL {
            let pods = backends.iter().map(|name| lab.pod(name));
            source.put(service.slice_of(family, TARGET_PORT, pods))?;
        }
        source.put(service)?;
    }
    let agents = spawn_agents(&lab, &AgentOptions::files(source.path()))?;
    Ok((lab, agents))
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

/// A conversation that is open, and what the backend said of it at first.
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
    eprintln!("{} → {destinations:?}: seen as {tuples:?}", client.name());
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
    for backend in ["here", "there", "packets"] {
        let (lab, _agents) = lab("clmvip", &[backend])?;
        for family in Family::ALL {
            // Several rounds: what a round leaves behind must not be in the next one's way.
            for _ in 0..3 {
                let both = SERVICES.map(|number| cluster_ip(number, family));
                all_at_once(lab.pod("packets"), &both)?;
            }
        }
    }
    Ok(())
}

#[test]
fn one_port_to_two_cluster_ips_with_two_backends() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agents) = lab("clmtwo", &["here", "here-too"])?;
    for family in Family::ALL {
        let all = [
            cluster_ip(1, family),
            cluster_ip(2, family),
            load_balancer(1, family),
            load_balancer(2, family),
            node_port(&lab, 1, family),
            node_port(&lab, 2, family),
        ];
        all_at_once(lab.pod("packets"), &all)?;
    }
    Ok(())
}

#[test]
fn one_port_from_outside_to_node_port_and_load_balancer_ip() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    for backend in ["here", "there"] {
        let (lab, _agents) = lab("clmout", &[backend])?;
        for family in Family::ALL {
            for _ in 0..3 {
                let all = [
                    node_port(&lab, 1, family),
                    load_balancer(1, family),
                    node_port(&lab, 2, family),
                    load_balancer(2, family),
                ];
                all_at_once(lab.workstation(), &all)?;
            }
        }
    }
    Ok(())
}

/// A client, the VIP that it may call, and the same backend's own address.
fn vip_and_direct(lab: &Lab, family: Family) -> [(&Host, SocketAddr, SocketAddr); 2] {
    [
        (
            lab.pod("packets"),
            cluster_ip(1, family),
            lab.pod("here").at(family, TARGET_PORT),
        ),
        (
            lab.pod("packets"),
            cluster_ip(2, family),
            lab.pod("there").at(family, TARGET_PORT),
        ),
    ]
}

#[test]
fn one_port_straight_to_the_backend_and_then_to_its_frontend() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agents) = lab("clmdir", &["here"])?;
    for family in Family::ALL {
        for (client, vip, backend) in &vip_and_direct(&lab, family)[..1] {
            let straight = open(client, *backend)?;
            straight.ask()?;
            let translated = open(client, *vip)?;
            for _ in 0..3 {
                straight.ask()?;
                translated.ask()?;
            }
        }
    }
    Ok(())
}

#[test]
fn one_port_to_a_frontend_and_then_straight_to_its_backend() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agents) = lab("clmdir2", &["here"])?;
    for family in Family::ALL {
        for (client, vip, backend) in &vip_and_direct(&lab, family)[..1] {
            let translated = open(client, *vip)?;
            translated.ask()?;
            let straight = open(client, *backend)?;
            for _ in 0..3 {
                straight.ask()?;
            }
            eprintln!("{:?}", translated.hold.check(Duration::from_secs(1))?);
        }
    }
    Ok(())
}
