//! ICMP errors about translated packets reach the packets' sender (semantics P2): port unreachable from a
//! closed port, and time exceeded, in every way that packets are translated. A backend also gets the errors
//! about its replies.

use std::net::SocketAddr;
use std::time::Duration;

use proxy_lab::objects::Service;
use proxy_lab::protocol::FailureKind;
use proxy_lab::{
    AgentOptions, Cni, Exchange, Family, Host, Lab, NodeSpec, PodSpec, Result, UdpRequest, address,
    skipped, spawn_agents,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
/// Nobody listens there.
const CLOSED_PORT: u16 = 8081;
/// Of the Services whose one backend is on worker-1, and of those whose one is on worker-2: open, and closed.
const HERE: [u8; 2] = [1, 3];
const THERE: [u8; 2] = [2, 4];

fn node_port(number: u8) -> u16 {
    30_800 + u16::from(number)
}

fn lab(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node(NodeSpec::new("worker-2").cni(Cni::BRIDGE))
        .pod(PodSpec::new("client", "worker-1").not_covered_by_sockets())
        .pod(PodSpec::new("here", "worker-1").not_covered_by_sockets())
        .pod(PodSpec::new("bridged", "worker-2").not_covered_by_sockets())
        .pod(PodSpec::new("there", "worker-2").not_covered_by_sockets())
        .fit_for_xdp()
        .up()?;
    // The kernel sends such errors to the same host only once per second; turn that off.
    for host in lab.hosts() {
        host.sysctl([
            ("net.ipv4.icmp_ratelimit", "0"),
            ("net.ipv6.icmp.ratelimit", "0"),
        ])?;
    }
    let source = lab.source()?;
    for (numbers, name) in [(HERE, "here"), (THERE, "there")] {
        lab.pod(name).serve(TARGET_PORT)?;
        for (number, port) in numbers.into_iter().zip([TARGET_PORT, CLOSED_PORT]) {
            let service = Service::new(&format!("{name}-{number}"))
                .cluster_ips(address::cluster_ip(number.into()))
                .both(PORT)
                .node_port(node_port(number));
            for family in Family::ALL {
                source.put(service.slice_of(family, port, [lab.pod(name)]))?;
            }
            source.put(service)?;
        }
    }
    Ok(lab)
}

/// Who asks, and by which address: a pod's packets, turned round to itself too, and the outside at a node.
fn ways(lab: &Lab, number: u8, family: Family) -> Vec<(&Host, SocketAddr)> {
    let cluster_ip = (address::cluster_ip(number.into()).of(family), PORT).into();
    let at_node = lab.node("worker-1").at(family, node_port(number));
    let mut ways: Vec<(&Host, SocketAddr)> = vec![
        (lab.pod("client"), cluster_ip),
        (lab.pod("bridged"), cluster_ip),
        (lab.pod("client"), at_node),
        (lab.workstation(), at_node),
    ];
    if HERE.contains(&number) {
        ways.push((lab.pod("here"), cluster_ip));
    }
    ways
}

/// How a request fails; `None` if it does not.
fn failure(client: &Host, request: UdpRequest) -> Result<Option<FailureKind>> {
    let exchanges: Vec<Exchange> = client.udp_all(request)?;
    let failed = exchanges
        .into_iter()
        .next()
        .map(|exchange| exchange.outcome);
    Ok(failed.and_then(|outcome| outcome.err().map(|failure| failure.kind)))
}

#[test]
fn p2_who_sent_a_translated_packet_is_told_what_became_of_it() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("icmp")?;
    for xdp in ["off", "native"] {
        let options = AgentOptions::files(lab.source()?.path()).xdp(xdp);
        let agents = spawn_agents(&lab, &options)?;
        for family in Family::ALL {
            for [open, closed] in [HERE, THERE] {
                for (client, to) in ways(&lab, closed, family) {
                    let found = failure(client, UdpRequest::to(to).connected())?;
                    let what = format!("{} to {to}, XDP {xdp}", client.name());
                    assert_eq!(found, Some(FailureKind::Refused), "{what}");
                }
                // One to itself passes no router.
                for (client, to) in ways(&lab, open, family).into_iter().take(4) {
                    let mut hops = 1;
                    // As tracing does: every router tells, until the backend answers.
                    loop {
                        let request = UdpRequest::to(to).connected().hops(hops);
                        let found = failure(client, request)?;
                        let what = format!("{} to {to}, {hops} hops, XDP {xdp}", client.name());
                        match found {
                            None => break,
                            Some(kind) => assert_eq!(kind, FailureKind::Unreachable, "{what}"),
                        }
                        hops += 1;
                    }
                    // Between pods of one bridge there is no router.
                    let least = if client.name() == "bridged" { 1 } else { 2 };
                    assert!((least..=4).contains(&hops), "{hops} hops to {to}");
                }
            }
        }
        for agent in agents {
            agent.terminate()?;
        }
    }
    Ok(())
}

/// A client outside refuses the answers that it gets, by the address that it knows; the backend hears of it, by its own.
#[test]
fn p2_a_backend_is_told_that_its_answer_was_refused() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("icmpback")?;
    let options = AgentOptions::files(lab.source()?.path());
    let _agents = spawn_agents(&lab, &options)?;
    let outside = lab.workstation();
    outside.exec(["nft", "add", "table", "inet", "refusing"])?;
    let chain = "{ type filter hook input priority 0; }";
    outside.exec(["nft", "add", "chain", "inet", "refusing", "in", chain])?;
    for (number, name) in [(HERE[0], "here"), (THERE[0], "there")] {
        let port = node_port(number).to_string();
        let answers = [
            "nft", "add", "rule", "inet", "refusing", "in", "udp", "sport", &port,
        ];
        let refuse = ["reject", "with", "icmpx", "port-unreachable"];
        outside.exec([&answers[..], &refuse].concat())?;
        for family in Family::ALL {
            let pod = lab.pod(name);
            let capture = pod.capture("eth0", &[])?;
            let to = lab.node("worker-1").at(family, node_port(number));
            let request = UdpRequest::to(to).timeout(Duration::from_millis(300));
            assert!(failure(outside, request)?.is_some(), "{to} is refused");
            let captured = capture.stop()?;
            let told: Vec<_> = captured
                .frames
                .iter()
                .filter(|frame| !frame.outgoing)
                .filter_map(|frame| {
                    let packet = frame.packet()?;
                    let (from, to) = packet.quoted_ends()?;
                    assert_eq!(packet.destination, pod.ip(family));
                    assert_eq!(frame.check_sums(), Ok(()));
                    Some((from, to.ip()))
                })
                .collect();
            let server = pod.at(family, TARGET_PORT);
            let sent_to = match name {
                "here" => outside.ip(family),
                _ => lab.node("worker-1").ip(family),
            };
            assert_eq!(told, [(server, sent_to)], "{name}: {:?}", captured.frames);
        }
    }
    Ok(())
}
