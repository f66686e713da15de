//! `loadBalancerSourceRanges`: who is let in from outside, from pods and from the node itself (semantics A3).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proxy_lab::objects::Service;
use proxy_lab::protocol::FailureKind;
use proxy_lab::{
    Agent, AgentOptions, Exchange, Family, Host, Lab, PodSpec, Protocol, Result, TcpRequest,
    UdpRequest, address, eventually, skipped,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const NODE_PORT: u16 = 30_600;
const METRICS: u16 = 10_249;
const TIMEOUT: Duration = Duration::from_secs(1);
/// A socket is told at once; this machine may be busy.
const AT_ONCE: Duration = Duration::from_millis(700);
/// From a change of addresses to what follows from it.
const FOLLOWED: Duration = Duration::from_secs(5);
/// Addresses that worker-1 gets; the ranges let them in.
const OWN: [(&str, Family); 2] = [("172.30.0.77", Family::V4), ("fd00:30::77", Family::V6)];

/// A load balancer that lets in the workstation, and two addresses that nobody has yet.
fn lab(label: &str, flags: &[&str]) -> Result<(Lab, Agent)> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .pods("worker-1", ["server", "sockets"])
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .up()?;
    lab.pod("server").serve(TARGET_PORT)?;
    let source = lab.source()?;
    let outside = Family::ALL.map(|family| lab.workstation().ip(family));
    let service = Service::new("ranged")
        .cluster_ips(address::cluster_ip(1))
        .both(PORT)
        .load_balancer(address::load_balancer(1).v4)
        .load_balancer(address::load_balancer(1).v6)
        .node_port(NODE_PORT)
        .source_ranges([
            &format!("{}/32", outside[0]),
            &format!("{}/128", outside[1]),
            &format!("{}/32", OWN[0].0),
            &format!("{}/128", OWN[1].0),
        ]);
    for family in Family::ALL {
        source.put(service.slice_of(family, TARGET_PORT, [lab.pod("server")]))?;
    }
    source.put(service)?;
    let options = flags
        .iter()
        .fold(AgentOptions::files(source.path()), |options, flag| {
            options.arg(*flag)
        });
    let agent = lab.node("worker-1").spawn_agent(&options)?;
    Ok((lab, agent))
}

fn attempt(client: &Host, protocol: Protocol, to: SocketAddr) -> Result<Exchange> {
    let exchanges = match protocol {
        Protocol::Tcp => client.tcp_all(TcpRequest::to(to).timeout(TIMEOUT))?,
        Protocol::Udp => client.udp_all(UdpRequest::to(to).timeout(TIMEOUT))?,
    };
    Ok(exchanges.into_iter().next().expect("one was asked for"))
}

fn lets_in(client: &Host, protocol: Protocol, family: Family) -> Result<bool> {
    let to = (address::load_balancer(1).of(family), PORT).into();
    lets_in_at(client, protocol, to)
}

fn lets_in_at(client: &Host, protocol: Protocol, to: SocketAddr) -> Result<bool> {
    let exchange = attempt(client, protocol, to)?;
    let what = format!(
        "{} to {to} {protocol}: {:?}",
        client.name(),
        exchange.outcome
    );
    match &exchange.outcome {
        Ok(identity) => assert_eq!(identity.server, "server", "{what}"),
        Err(failure) => assert_eq!(failure.kind, FailureKind::TimedOut, "{what}"),
    }
    Ok(exchange.outcome.is_ok())
}

/// Over both protocols.
fn is_let_in(client: &Host, family: Family) -> Result<bool> {
    let answers = Protocol::ALL.map(|protocol| lets_in(client, protocol, family));
    let [one, other] = answers;
    let (one, other) = (one?, other?);
    assert_eq!(one, other, "{}", client.name());
    Ok(one)
}

/// Packets and calls that were dropped because of where they came from.
fn dropped(lab: &Lab) -> Result<Option<f64>> {
    let at = ([127, 0, 0, 1], METRICS).into();
    let metrics = lab.node("worker-1").http(at, "/metrics")?;
    let sample = metrics
        .expect("the agent answers")
        .sample("proxy_drops_total{reason=\"source_range\"}");
    Ok(sample)
}

#[test]
fn a3_the_node_itself_is_let_in_while_one_of_its_addresses_is_in_a_range() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("ranges", &[])?;
    let node = lab.node("worker-1");
    for family in Family::ALL {
        assert!(is_let_in(lab.workstation(), family)?, "{family}");
        let before = dropped(&lab)?.expect("a sample");
        let start = Instant::now();
        assert!(!is_let_in(node, family)?, "{family}: the node");
        assert!(start.elapsed() < AT_ONCE, "took {:?}", start.elapsed());
        let calls = dropped(&lab)?;
        assert_eq!(calls, Some(before + 2.0), "a call of each protocol");
        for pod in ["sockets", "packets"] {
            assert!(!is_let_in(lab.pod(pod), family)?, "{family}: {pod}");
        }
        assert!(
            dropped(&lab)? >= Some(before + 6.0),
            "and packets of each pod"
        );
        // The other frontends are everyone's.
        let to = (address::cluster_ip(1).of(family), PORT).into();
        for client in [&**node, &**lab.pod("sockets"), &**lab.pod("packets")] {
            assert_eq!(
                client.tcp(to)?.server(),
                Some("server"),
                "{}",
                client.name()
            );
        }
    }
    for (address, family) in OWN {
        let prefix = if family == Family::V4 { 32 } else { 128 };
        let own = format!("{address}/{prefix}");
        for (change, expected) in [("add", true), ("del", false)] {
            node.exec(["ip", "address", change, &own, "dev", "lo"])?;
            eventually(&format!("{change} {own}"), FOLLOWED, || {
                Ok(lets_in(node, Protocol::Tcp, family)? == expected)
            })?;
            assert_eq!(is_let_in(node, family)?, expected);
            let other = Family::ALL.into_iter().find(|other| *other != family);
            assert!(!is_let_in(node, other.expect("two"))?, "the other family");
            assert!(
                !is_let_in(lab.pod("sockets"), family)?,
                "a pod is not the node"
            );
        }
    }
    Ok(())
}

#[test]
fn a3_by_option_the_ranges_hold_for_all_frontends() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("rangesall", &["--source-ranges-for-all-frontends"])?;
    let node = lab.node("worker-1");
    for family in Family::ALL {
        let cluster_ip = (address::cluster_ip(1).of(family), PORT).into();
        let node_port = node.at(family, NODE_PORT);
        for protocol in Protocol::ALL {
            assert!(lets_in_at(lab.workstation(), protocol, node_port)?);
            for client in [&**node, &**lab.pod("sockets"), &**lab.pod("packets")] {
                for to in [cluster_ip, node_port] {
                    let is_in = lets_in_at(client, protocol, to)?;
                    assert!(!is_in, "{} to {to} {protocol}", client.name());
                }
            }
        }
    }
    Ok(())
}
