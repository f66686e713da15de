//! Connections that are held, and new ones all the time.

use std::net::SocketAddr;
use std::time::Duration;

use proxy_lab::protocol::{Failure, unspecified_like};
use proxy_lab::{
    Exchange, Family, Hold, Probe, ProbeRequest, Protocol, Result, TcpRequest, UdpSocket,
};

use crate::cluster::{CHANGED, Cluster, SERVICES, cluster_ip, load_balancer};

/// Connections of each kind that are held.
const EACH: usize = 5;
/// A new connection each.
const INTERVAL: Duration = Duration::from_millis(10);
const TIMEOUT: Duration = Duration::from_secs(3);

/// The load, while it lasts.
pub struct Load<'a> {
    holds: Vec<(String, Hold<'a>)>,
    datagrams: Vec<Datagrams<'a>>,
    probes: Vec<(String, Probe<'a>)>,
}

/// A UDP socket that speaks with a Service whose endpoints stay.
struct Datagrams<'a> {
    what: String,
    socket: UdpSocket<'a>,
    to: SocketAddr,
    first: Exchange,
}

impl<'a> Load<'a> {
    pub fn start(cluster: &'a Cluster) -> Result<Self> {
        let mut holds = Vec::new();
        for number in [1, CHANGED, SERVICES] {
            for family in Family::ALL {
                for (client, to) in ways(cluster, number, family) {
                    let what = format!("{client} to {to}");
                    let request = TcpRequest::to(to).times(EACH).timeout(TIMEOUT);
                    let hold = cluster.client(client).hold(request)?;
                    for exchange in &hold.opened {
                        assert!(exchange.outcome.is_ok(), "{what}: {exchange:?}");
                    }
                    holds.push((what, hold));
                }
            }
        }
        let mut datagrams = Vec::new();
        for family in Family::ALL {
            for (client, to) in ways(cluster, SERVICES, family) {
                let what = format!("{client} to {to} UDP");
                let any = SocketAddr::new(unspecified_like(to), 0);
                let socket = cluster.client(client).udp_socket(any, None)?;
                let first = socket.exchange(Some(to), TIMEOUT)?;
                assert!(first.outcome.is_ok(), "{what}: {first:?}");
                datagrams.push(Datagrams {
                    what,
                    socket,
                    to,
                    first,
                });
            }
        }
        let mut probes = Vec::new();
        for (client, to, protocol) in probed(cluster) {
            let request = ProbeRequest {
                protocol,
                to,
                interval: INTERVAL,
                timeout: TIMEOUT,
            };
            let probe = cluster.client(client).probe(request)?;
            probes.push((format!("{client} to {to} {protocol}"), probe));
        }
        Ok(Self {
            holds,
            datagrams,
            probes,
        })
    }

    /// Asks over every held connection and socket: the same server answers to the same client.
    pub fn check(&self, when: &str) {
        for (what, hold) in &self.holds {
            let exchanges = hold.check(TIMEOUT).expect("the client lives");
            assert_eq!(exchanges.len(), EACH);
            for (exchange, first) in exchanges.iter().zip(&hold.opened) {
                assert_eq!(said(exchange), said(first), "{when}: {what}");
            }
        }
        for one in &self.datagrams {
            let exchange = one.socket.exchange(Some(one.to), TIMEOUT);
            let exchange = exchange.expect("the client lives");
            assert_eq!(said(&exchange), said(&one.first), "{when}: {}", one.what);
        }
    }

    /// Ends it; nothing may have failed.
    pub fn finish(self) -> String {
        let held: usize = self.holds.iter().map(|(_, hold)| hold.opened.len()).sum();
        assert!(held >= 200, "{held} connections were held");
        let (mut attempts, mut slowest) = (0, Duration::ZERO);
        for (what, probe) in self.probes {
            let report = probe.stop().expect("the client lives");
            assert_eq!(report.failed(), 0, "{what}: {:?}", report.failures);
            assert!(report.ok > 100, "{what}: {} attempts", report.attempts);
            let new = report
                .servers
                .keys()
                .filter(|server| Cluster::is_new(server));
            assert!(
                new.count() > 0,
                "{what}: no new endpoint was reached: {:?}",
                report.servers
            );
            attempts += report.attempts;
            slowest = slowest.max(report.slowest);
        }
        let sockets = self.datagrams.len();
        format!(
            "{held} connections and {sockets} UDP sockets held, {attempts} new ones, none failed, slowest {slowest:?}"
        )
    }
}

/// The server's name, and the client as it sees it.
fn said(exchange: &Exchange) -> Result<(String, SocketAddr), Failure> {
    let said = exchange.outcome.clone()?;
    Ok((said.server, said.client))
}

/// Every way to a Service of which a held connection is opened.
fn ways(cluster: &Cluster, number: u8, family: Family) -> [(&'static str, SocketAddr); 7] {
    [
        ("worker-1", cluster_ip(number, family)),
        ("sockets", cluster_ip(number, family)),
        ("packets", cluster_ip(number, family)),
        ("packets", cluster.node_port("worker-1", number, family)),
        ("sockets", cluster.node_port("worker-2", number, family)),
        ("workstation", cluster.node_port("worker-1", number, family)),
        ("workstation", load_balancer(number, family)),
    ]
}

/// Where new connections go, to Services that change.
fn probed(cluster: &Cluster) -> [(&'static str, SocketAddr, Protocol); 6] {
    use Family::{V4, V6};
    use Protocol::{Tcp, Udp};
    [
        ("sockets", cluster_ip(2, V4), Tcp),
        ("packets", cluster_ip(3, V6), Tcp),
        ("packets", cluster_ip(4, V4), Udp),
        ("workstation", cluster.node_port("worker-1", 5, V4), Tcp),
        ("workstation", load_balancer(6, V6), Tcp),
        ("sockets", cluster.node_port("worker-2", 7, V6), Udp),
    ]
}
