//! Services that cannot serve: refused where no endpoint exists anywhere, dropped where the policy's list alone is empty
//! (semantics B4, B5; ADR 9), and served as soon as the first endpoint is there.

use std::net::SocketAddr;
use std::time::Duration;

use proxy_lab::objects::Service;
use proxy_lab::protocol::FailureKind;
use proxy_lab::{
    AgentOptions, Exchange, Family, Folder, Host, Lab, PodSpec, Protocol, Result, TcpRequest,
    UdpRequest, address, eventually, skipped, spawn_agents,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const NODE_PORT: u16 = 30_200;

/// What "at once" is, on a machine whose two cores others use too. A SYN's retransmit, which a refusal that came in an
/// unlucky moment would need, comes after 1 s.
const AT_ONCE: Duration = Duration::from_millis(500);
/// How long a packet that is dropped is waited for.
const DROPPED: Duration = Duration::from_millis(300);
/// From the write of a file to the traffic that follows it.
const PROGRAMMED: Duration = Duration::from_secs(5);

/// A frontend's address, for a family.
type Destination = fn(&Lab, Family) -> SocketAddr;

fn lab(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["sockets"])
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .pods("worker-2", ["server"])
        .up()?;
    lab.pod("server").serve(TARGET_PORT)?;
    Ok(lab)
}

/// A Service with a frontend of every kind; `number` keeps Services apart.
fn service(number: u8) -> Service {
    let load_balancer = address::load_balancer(number);
    let external = address::external_ip(number);
    Service::new(&format!("refuse-{number}"))
        .cluster_ips(address::cluster_ip(number.into()))
        .both(PORT)
        .node_port(NODE_PORT + u16::from(number))
        .load_balancer(load_balancer.v4)
        .load_balancer(load_balancer.v6)
        .external_ip(external.v4)
        .external_ip(external.v6)
}

fn cluster_ip(number: u8, family: Family) -> SocketAddr {
    (address::cluster_ip(number.into()).of(family), PORT).into()
}

fn node_port(lab: &Lab, node: &str, number: u8, family: Family) -> SocketAddr {
    lab.node(node).at(family, NODE_PORT + u16::from(number))
}

fn load_balancer(number: u8, family: Family) -> SocketAddr {
    (address::load_balancer(number).of(family), PORT).into()
}

fn external_ip(number: u8, family: Family) -> SocketAddr {
    (address::external_ip(number).of(family), PORT).into()
}

/// One attempt. UDP uses a connected socket, since only those get ICMP errors.
fn attempt(
    client: &Host,
    protocol: Protocol,
    to: SocketAddr,
    timeout: Duration,
) -> Result<Exchange> {
    let exchanges = match protocol {
        Protocol::Tcp => client.tcp_all(TcpRequest::to(to).timeout(timeout))?,
        Protocol::Udp => client.udp_all(UdpRequest::to(to).connected().timeout(timeout))?,
    };
    Ok(exchanges.into_iter().next().expect("one was asked for"))
}

/// Every protocol and family, with the words that name it in a failure.
fn each(mut test: impl FnMut(Protocol, Family) -> Result<()>) -> Result<()> {
    for protocol in Protocol::ALL {
        for family in Family::ALL {
            test(protocol, family)?;
        }
    }
    Ok(())
}

#[track_caller]
fn assert_refused(exchange: &Exchange, stages: &[&str], what: &str) {
    let failure = exchange
        .outcome
        .as_ref()
        .expect_err(&format!("{what}: was answered"));
    assert_eq!(failure.kind, FailureKind::Refused, "{what}: {failure}");
    assert!(
        stages.contains(&failure.stage.as_str()),
        "{what}: refused at {}, not {stages:?}",
        failure.stage
    );
    assert!(
        exchange.elapsed < AT_ONCE,
        "{what}: refused after {:?} only",
        exchange.elapsed
    );
}

#[track_caller]
fn assert_dropped(exchange: &Exchange, what: &str) {
    let failure = exchange
        .outcome
        .as_ref()
        .expect_err(&format!("{what}: was answered"));
    assert_eq!(failure.kind, FailureKind::TimedOut, "{what}: {failure}");
    assert!(
        exchange.elapsed > DROPPED * 9 / 10,
        "{what}: ended after {:?} already",
        exchange.elapsed
    );
}

#[track_caller]
fn assert_served(exchange: &Exchange, to: SocketAddr, what: &str) {
    let identity = exchange
        .outcome
        .as_ref()
        .unwrap_or_else(|failure| panic!("{what}: {failure}"));
    assert_eq!(identity.server, "server", "{what}");
    assert_eq!(
        exchange.peer,
        Some(to),
        "{what}: the peer as the client sees it"
    );
}

#[test]
fn b5_without_endpoints_sockets_are_refused_by_the_call_itself() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("rfsock")?;
    let source = lab.source()?;
    source.put(service(1))?;
    let _agents = spawn_agents(&lab, &AgentOptions::files(source.path()))?;
    let mut slowest = Duration::ZERO;
    for client in [&**lab.node("worker-1"), &**lab.pod("sockets")] {
        each(|protocol, family| {
            let frontends = [
                cluster_ip(1, family),
                node_port(&lab, "worker-1", 1, family),
                load_balancer(1, family),
                external_ip(1, family),
            ];
            for to in frontends {
                let what = format!("{} to {to} {protocol}", client.name());
                let exchange = attempt(client, protocol, to, Duration::from_secs(2))?;
                assert_refused(&exchange, &["connect"], &what);
                slowest = slowest.max(exchange.elapsed);
            }
            Ok(())
        })?;
        for family in Family::ALL {
            let to = cluster_ip(1, family);
            let what = format!("{} to {to} by an unconnected UDP socket", client.name());
            assert_refused(&client.udp(to)?, &["send"], &what);
        }
    }
    eprintln!("refused by sockets: slowest {slowest:?}");
    Ok(())
}

#[test]
fn b5_without_endpoints_packets_are_answered_with_rst_and_icmp() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("rfpkt")?;
    let source = lab.source()?;
    source.put(service(1))?;
    let _agents = spawn_agents(&lab, &AgentOptions::files(source.path()))?;
    let mut slowest = [Duration::ZERO; 2];
    each(|protocol, family| {
        let elsewhere = node_port(&lab, "worker-2", 1, family);
        let cases: [(&Host, Vec<SocketAddr>); 2] = [
            (
                lab.pod("packets"),
                vec![
                    cluster_ip(1, family),
                    node_port(&lab, "worker-1", 1, family),
                    elsewhere,
                    load_balancer(1, family),
                    external_ip(1, family),
                ],
            ),
            (
                lab.workstation(),
                vec![
                    node_port(&lab, "worker-1", 1, family),
                    elsewhere,
                    load_balancer(1, family),
                    external_ip(1, family),
                ],
            ),
        ];
        for (client, frontends) in cases {
            for to in frontends {
                let what = format!("{} to {to} {protocol}", client.name());
                let exchange = attempt(client, protocol, to, Duration::from_secs(3))?;
                assert_refused(&exchange, &["connect", "read"], &what);
                let slowest = &mut slowest[usize::from(protocol == Protocol::Udp)];
                *slowest = exchange.elapsed.max(*slowest);
            }
        }
        Ok(())
    })?;
    let [tcp, udp] = slowest;
    eprintln!("refused by packets: slowest RST {tcp:?}, slowest ICMP {udp:?}");
    Ok(())
}

#[test]
fn b4_b5_external_local_drops_outside_and_serves_inside() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("rfetp")?;
    let source = lab.source()?;
    let service = service(2).external_local();
    put_endpoint(&lab, &source, &service)?;
    source.put(service)?;
    let _agents = spawn_agents(&lab, &AgentOptions::files(source.path()))?;
    each(|protocol, family| {
        // worker-1 has no endpoint: what comes from outside is dropped there.
        for to in [
            node_port(&lab, "worker-1", 2, family),
            load_balancer(2, family),
            external_ip(2, family),
        ] {
            let what = format!("outside to {to} {protocol}");
            assert_dropped(&attempt(lab.workstation(), protocol, to, DROPPED)?, &what);
            // B4: traffic of this node and its pods takes the Cluster list.
            for client in [
                &**lab.node("worker-1"),
                &**lab.pod("sockets"),
                &**lab.pod("packets"),
            ] {
                let what = format!("{} to {to} {protocol}", client.name());
                assert_served(&attempt(client, protocol, to, PROGRAMMED)?, to, &what);
            }
        }
        // worker-2 has it, and the client's address stays (A2).
        let to = node_port(&lab, "worker-2", 2, family);
        let exchange = attempt(lab.workstation(), protocol, to, PROGRAMMED)?;
        assert_served(&exchange, to, &format!("outside to {to} {protocol}"));
        let seen = exchange.outcome.expect("was served").client.ip();
        assert_eq!(
            seen,
            lab.workstation().ip(family),
            "A2: {protocol} {family}"
        );
        Ok(())
    })
}

#[test]
fn b4_b5_internal_local_times_out_at_once_and_is_dropped_per_packet() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("rfitp")?;
    let source = lab.source()?;
    let service = service(3).internal_local();
    put_endpoint(&lab, &source, &service)?;
    source.put(service)?;
    let _agents = spawn_agents(&lab, &AgentOptions::files(source.path()))?;
    each(|protocol, family| {
        let to = cluster_ip(3, family);
        for client in [&**lab.node("worker-1"), &**lab.pod("sockets")] {
            let what = format!("{} to {to} {protocol}", client.name());
            let exchange = attempt(client, protocol, to, PROGRAMMED)?;
            let failure = exchange.outcome.expect_err(&what);
            assert_eq!(failure.errno, Some(libc::ETIMEDOUT), "{what}: {failure}");
            assert!(exchange.elapsed < AT_ONCE, "{what}: {:?}", exchange.elapsed);
        }
        let what = format!("packets to {to} {protocol}");
        assert_dropped(&attempt(lab.pod("packets"), protocol, to, DROPPED)?, &what);
        // Where the endpoint is, its own pods and node reach it; and the policy is the ClusterIP's alone.
        let exchange = attempt(lab.node("worker-2"), protocol, to, PROGRAMMED)?;
        assert_served(&exchange, to, &format!("worker-2 to {to} {protocol}"));
        let to = node_port(&lab, "worker-1", 3, family);
        let exchange = attempt(lab.pod("packets"), protocol, to, PROGRAMMED)?;
        assert_served(&exchange, to, &format!("packets to {to} {protocol}"));
        Ok(())
    })
}

#[test]
fn b5_the_first_endpoint_is_used_at_once_and_the_last_one_missed_at_once() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("rffirst")?;
    let source = lab.source()?;
    let service = service(4);
    source.put(service.clone())?;
    let _agents = spawn_agents(&lab, &AgentOptions::files(source.path()))?;
    let clients: [(&Host, Destination); 4] = [
        (lab.node("worker-1"), |_, family| cluster_ip(4, family)),
        (lab.pod("sockets"), |_, family| load_balancer(4, family)),
        (lab.pod("packets"), |_, family| cluster_ip(4, family)),
        (lab.workstation(), |lab, family| {
            node_port(lab, "worker-1", 4, family)
        }),
    ];
    let all = |wanted: Option<FailureKind>| -> Result<bool> {
        for (client, to) in clients {
            for protocol in Protocol::ALL {
                for family in Family::ALL {
                    let exchange = attempt(client, protocol, to(&lab, family), PROGRAMMED)?;
                    if exchange.outcome.err().map(|failure| failure.kind) != wanted {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    };
    for round in 1..=3 {
        let refused = eventually("all are refused", PROGRAMMED, || {
            all(Some(FailureKind::Refused))
        })?;
        put_endpoint(&lab, &source, &service)?;
        let served = eventually("all are served", PROGRAMMED, || all(None))?;
        for family in Family::ALL {
            source.put(service.slice(family, TARGET_PORT))?;
        }
        eprintln!("round {round}: refused after {refused:?}, served after {served:?}");
    }
    Ok(())
}

/// The Service's only endpoint: the pod on worker-2.
fn put_endpoint(lab: &Lab, source: &Folder, service: &Service) -> Result<()> {
    for family in Family::ALL {
        source.put(service.slice_of(family, TARGET_PORT, [lab.pod("server")]))?;
    }
    Ok(())
}
