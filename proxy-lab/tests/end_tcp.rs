//! TCP connections to a backend that was deleted (ADR 27): ended at once where that is asked for, be they of sockets that were
//! connected to it, or of packets that are translated; and never because it merely terminates, or does not serve (semantics L4).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proxy_lab::objects::{Endpoint, Service};
use proxy_lab::protocol::FailureKind;
use proxy_lab::{
    AgentOptions, Exchange, Family, Folder, Hold, Host, Lab, PodSpec, Protocol, Result, TcpRequest,
    address, agent_command, eventually, skipped, spawn_agents,
};
use serde_json::Value;

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const NODE_PORT: u16 = 30_600;
const TIMEOUT: Duration = Duration::from_secs(2);
/// From the write of a file to its effect, on a busy machine.
const PROGRAMMED: Duration = Duration::from_secs(5);
const ABORTED: &str = "proxy_sockets_aborted_total{protocol=\"tcp\"}";
const ENDED: &str = "proxy_datapath_events_total{event=\"tcp_ended\"}";
const FLAG: &str = "--end-tcp-of-deleted-backends";

/// `there` is deleted, from another node; and `beside`, from this one.
const DELETED: [&str; 2] = ["there", "beside"];
const SERVERS: [&str; 3] = ["here", "there", "beside"];
/// Connections of one kind: that none of them is on a server happens once in 60,000 runs.
const EACH: usize = 30;

fn lab(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["sockets", "here", "beside"])
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .pods("worker-2", ["there"])
        .up()?;
    for name in SERVERS {
        lab.pod(name).serve(TARGET_PORT)?;
    }
    Ok(lab)
}

fn service() -> Service {
    Service::new("web")
        .cluster_ips(address::cluster_ip(1))
        .port("http", Protocol::Tcp, PORT)
        .node_port(NODE_PORT)
}

/// Makes `here` an endpoint, and those that are to be deleted what `change` makes of them.
fn put(lab: &Lab, source: &Folder, change: impl Fn(Endpoint) -> Option<Endpoint>) -> Result<()> {
    let slices = Family::ALL.map(|family| {
        let deleted = DELETED.into_iter().filter_map(|name| {
            let endpoint = Endpoint::of(lab.pod(name), family);
            change(endpoint)
        });
        service()
            .slice_of(family, TARGET_PORT, [lab.pod("here")])
            .endpoints(deleted)
    });
    source.put_together("slices.yaml", slices)
}

/// Connections of one client to one frontend, and the server of each.
struct Connections<'a> {
    what: String,
    hooks: bool,
    held: Hold<'a>,
    servers: Vec<String>,
}

/// From every kind of client, of both families, some to each server.
fn connect(lab: &Lab) -> Result<Vec<Connections<'_>>> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let cluster_ip: SocketAddr = (address::cluster_ip(1).of(family), PORT).into();
        let node_port = lab.node("worker-1").at(family, NODE_PORT);
        let clients: [(&Host, bool, SocketAddr); 4] = [
            (lab.pod("sockets"), true, cluster_ip),
            (lab.node("worker-1"), true, cluster_ip),
            (lab.pod("packets"), false, cluster_ip),
            (lab.workstation(), false, node_port),
        ];
        for (client, hooks, to) in clients {
            let held = client.hold(TcpRequest::to(to).times(EACH))?;
            let what = format!("{} to {to}", client.name());
            let server = |exchange: &Exchange| {
                let server = exchange.server().map(str::to_owned);
                server.unwrap_or_else(|| panic!("{what}: {:?}", exchange.outcome))
            };
            let servers: Vec<_> = held.opened.iter().map(server).collect();
            for server in SERVERS {
                assert!(
                    servers.iter().any(|one| one == server),
                    "{what}: none on {server}"
                );
            }
            all.push(Connections {
                what,
                hooks,
                held,
                servers,
            });
        }
    }
    Ok(all)
}

impl Connections<'_> {
    /// How many connections are to servers that will be deleted.
    fn lost(&self) -> usize {
        let lost = self.servers.iter();
        lost.filter(|server| DELETED.contains(&server.as_str()))
            .count()
    }

    /// Asks over each of them: all are answered by the server that they have had.
    fn assert_all_go_on(&self, when: &str) -> Result<()> {
        for (exchange, server) in self.held.check(TIMEOUT)?.iter().zip(&self.servers) {
            assert_eq!(
                exchange.server(),
                Some(&**server),
                "{when}: {}: {exchange:?}",
                self.what
            );
        }
        Ok(())
    }

    /// Asks over each of them: the clients of servers that were deleted are told, all others go on.
    fn assert_lost_are_told(&self) -> Result<()> {
        for (exchange, server) in self.held.check(TIMEOUT)?.iter().zip(&self.servers) {
            if !DELETED.contains(&server.as_str()) {
                assert_eq!(
                    exchange.server(),
                    Some(&**server),
                    "{}: {exchange:?}",
                    self.what
                );
                continue;
            }
            let failure = exchange
                .outcome
                .as_ref()
                .expect_err("its server was deleted");
            let expected = if self.hooks {
                FailureKind::Aborted
            } else {
                FailureKind::Reset
            };
            assert_eq!(failure.kind, expected, "{}: {failure}", self.what);
        }
        Ok(())
    }
}

/// A counter of the clients' node.
fn counted(lab: &Lab, name: &str) -> Result<usize> {
    let to = (std::net::Ipv4Addr::LOCALHOST, 10_249).into();
    let answer = lab.node("worker-1").http(to, "/metrics")?;
    let body = answer.map_or_else(|_| String::new(), |answer| answer.body);
    let mut lines = body.lines().filter_map(|line| line.rsplit_once(' '));
    let found = lines.find(|(sample, _)| *sample == name);
    let (_, value) = found.unwrap_or_else(|| panic!("no {name} in {body}"));
    Ok(value.parse().expect("a whole number"))
}

/// Waits until new connections go to these servers only.
fn wait_for(lab: &Lab, servers: &[&str]) -> Result<()> {
    for family in Family::ALL {
        let to = (address::cluster_ip(1).of(family), PORT).into();
        for client in [lab.pod("sockets"), lab.pod("packets")] {
            eventually("the change is programmed", PROGRAMMED, || {
                let seen = client.tcp_all(TcpRequest::to(to).times(20))?;
                let mut seen = seen.iter().filter_map(Exchange::server);
                Ok(seen.all(|server| servers.contains(&server)))
            })?;
        }
    }
    Ok(())
}

#[test]
fn l3_l4_connections_end_with_the_deletion_of_their_backend_and_not_before() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("endtcp")?;
    let source = lab.source()?;
    source.put(service())?;
    put(&lab, &source, Some)?;
    let _agents = spawn_agents(&lab, &AgentOptions::files(source.path()).arg(FLAG))?;
    let all = connect(&lab)?;

    for (when, change) in [
        (
            "not ready",
            (|e| Some(e.not_ready())) as fn(Endpoint) -> Option<Endpoint>,
        ),
        ("terminating", |e| Some(e.terminating(true))),
        ("terminating and not serving", |e| {
            Some(e.terminating(false))
        }),
    ] {
        put(&lab, &source, change)?;
        wait_for(&lab, &["here"])?;
        for one in &all {
            one.assert_all_go_on(when)?;
        }
    }
    assert_eq!(counted(&lab, ABORTED)?, 0);

    put(&lab, &source, |_| None)?;
    // Sockets end without a word of theirs.
    let sockets: usize = all
        .iter()
        .filter(|one| one.hooks)
        .map(Connections::lost)
        .sum();
    let written = Instant::now();
    eventually("sockets are aborted", PROGRAMMED, || {
        Ok(counted(&lab, ABORTED)? == sockets)
    })?;
    eprintln!(
        "{sockets} sockets were aborted within {:?}",
        written.elapsed()
    );
    for one in &all {
        one.assert_lost_are_told()?;
    }
    let packets: usize = all
        .iter()
        .filter(|one| !one.hooks)
        .map(Connections::lost)
        .sum();
    let told = counted(&lab, ENDED)?;
    assert!(told >= packets, "{told} of {packets}");
    let deleted = |flow: &Value| {
        let backend = flow["backend"].as_str().unwrap_or_default();
        let mut places = DELETED.into_iter().flat_map(|name| {
            Family::ALL.map(|family| lab.pod(name).at(family, TARGET_PORT).to_string())
        });
        places.any(|place| place == backend)
    };
    for flow in flows(&lab)?.iter().filter(|flow| deleted(flow)) {
        // Those that a client has closed before are kept for as long as ever.
        assert_eq!(flow["state"], "closed", "{flow}");
    }
    Ok(())
}

/// The flows of the clients' node, as the command of that name tells them.
fn flows(lab: &Lab) -> Result<Vec<Value>> {
    let node = lab.node("worker-1");
    let bpffs = node.bpffs().display().to_string();
    let text = agent_command(node, ["flows", "--bpffs", &bpffs, "-o", "json"])?;
    let report: Value = serde_json::from_str(&text).expect("is JSON");
    Ok(report["flows"].as_array().cloned().unwrap_or_default())
}

#[test]
fn l3_connections_outlive_their_backend_where_nothing_else_is_asked_for() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("endtcpoff")?;
    let source = lab.source()?;
    source.put(service())?;
    put(&lab, &source, Some)?;
    let _agents = spawn_agents(&lab, &AgentOptions::files(source.path()))?;
    let all = connect(&lab)?;
    put(&lab, &source, |_| None)?;
    wait_for(&lab, &["here"])?;
    for one in &all {
        one.assert_all_go_on("deleted, though its process lives")?;
    }
    Ok(())
}
