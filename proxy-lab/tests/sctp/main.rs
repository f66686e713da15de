//! SCTP through Services, packet by packet (semantics S1, P1; ADR 25): from a pod and from outside, to a backend here, elsewhere
//! and to the client itself, by tc and by XDP. The associations are frames ([`association`]), so that they are seen on kernels
//! without SCTP, too; with sockets they are where the kernel has those ([`sockets`]).

mod association;
mod sockets;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use proxy_lab::objects::Service;
use proxy_lab::{
    Agent, AgentOptions, Family, Host, Lab, Node, Result, address, agent_command, check_sums,
    skipped,
};
use serde_json::Value;

use association::{End, associate};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
/// Services, by their only backend.
const HERE: u8 = 1;
const THERE: u8 = 2;
const ITSELF: u8 = 3;
const NOBODY: u8 = 4;
const CLIENT_PORT: u16 = 50_132;

fn node_port(number: u8) -> u16 {
    31_320 + u16::from(number)
}

fn vip(number: u8, family: Family) -> SocketAddr {
    (address::cluster_ip(number.into()).of(family), PORT).into()
}

/// worker-1 translates for its pod `client` and the workstation.
fn lab(label: &str, xdp: &str) -> Result<(Lab, Agent)> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["client", "here"])
        .pods("worker-2", ["there"])
        .fit_for_xdp()
        .up()?;
    let source = lab.source()?;
    for (number, pod) in [
        (HERE, Some("here")),
        (THERE, Some("there")),
        (ITSELF, Some("client")),
        (NOBODY, None),
    ] {
        let service = Service::new(&format!("sctp-{number}"))
            .cluster_ips(address::cluster_ip(number.into()))
            .port("m3ua", "SCTP", PORT)
            .node_port(node_port(number))
            .load_balancer(address::load_balancer(number).v4)
            .load_balancer(address::load_balancer(number).v6);
        for family in Family::ALL {
            let pods = pod.map(|pod| lab.pod(pod));
            source.put(service.slice_of(family, TARGET_PORT, pods))?;
        }
        source.put(service)?;
    }
    let options = AgentOptions::files(source.path()).xdp(xdp);
    let agent = lab.node("worker-1").spawn_agent(&options)?;
    Ok((lab, agent))
}

/// What a command of the agent's says of a node.
fn said(node: &Node, command: &str) -> Result<Value> {
    let bpffs = node.bpffs().to_str().expect("a plain path");
    let text = agent_command(node, [command, "--bpffs", bpffs, "-o", "json"])?;
    Ok(serde_json::from_str(&text).expect("JSON"))
}

#[test]
fn p1_a_pods_associations_through_a_cluster_ip() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("sctppod", "off")?;
    let node = lab.node("worker-1");
    for family in Family::ALL {
        let client = lab.pod("client");
        let begins = End::pod(client, node, client.at(family, CLIENT_PORT));
        for (number, name) in [(HERE, "here"), (THERE, "there"), (ITSELF, "client")] {
            let pod = lab.pod(name);
            let backend = End::pod(pod, lab.node(pod.node()), pod.at(family, TARGET_PORT));
            let source = associate(&begins, vip(number, family), &backend)?;
            if number == ITSELF {
                // L5: from the VIP, under a port of its own.
                assert_eq!(source.ip(), vip(number, family).ip());
            } else {
                assert_eq!(source, begins.at, "A1: the client's own address");
            }
        }
    }

    // What the commands say of it: shut down, and kept for a while.
    let flows = said(node, "flows")?;
    let flows = flows["flows"].as_array().expect("flows");
    let ended = flows
        .iter()
        .filter(|flow| flow["protocol"] == "SCTP" && flow["state"] == "reset");
    assert_eq!(ended.count(), 6, "{flows:?}");
    let services = said(node, "services")?;
    let frontends = services["frontends"].as_array().expect("frontends");
    let shown = frontends
        .iter()
        .filter(|frontend| frontend["protocol"] == "SCTP" && frontend["kind"] == "ClusterIP");
    assert_eq!(shown.count(), 8, "{frontends:?}");
    Ok(())
}

/// Through the node port and the load balancer's IP.
fn from_outside(label: &str, xdp: &str) -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab(label, xdp)?;
    let (node, outside) = (lab.node("worker-1"), lab.workstation());
    for family in Family::ALL {
        let own = outside.at(family, CLIENT_PORT);
        let client = End::beside(outside, node, own);
        for (number, name) in [(HERE, "here"), (THERE, "there")] {
            let pod = lab.pod(name);
            let backend = End::pod(pod, lab.node(pod.node()), pod.at(family, TARGET_PORT));
            for frontend in [
                node.at(family, node_port(number)),
                (address::load_balancer(number).of(family), PORT).into(),
            ] {
                let source = associate(&client, frontend, &backend)?;
                // A2: a backend here sees the client; one elsewhere this node, so that answers come back.
                let expected = if number == HERE {
                    own.ip()
                } else {
                    node.ip(family)
                };
                assert_eq!(source.ip(), expected, "{frontend}");
            }
        }
    }
    let sent = xdp_sent(node);
    eprintln!("{label}: {sent} frames by XDP");
    // Both ways, of two frontends and families, once neighbours are known.
    assert!(if xdp == "off" { sent == 0 } else { sent >= 36 }, "{sent}");
    Ok(())
}

fn xdp_sent(node: &Node) -> u64 {
    use proxy_agent::dataplane::{open, pin::PinFolder};
    use proxy_common::abi::counter::Counter;
    let pins = PinFolder::new(node.bpffs());
    let map = open::counters(&pins).expect("counters");
    map.sum(Counter::XdpSent as u32).expect("a counter")
}

#[test]
fn p1_associations_from_outside_by_tc() -> Result<()> {
    from_outside("sctptc", "off")
}

#[test]
fn p1_associations_from_outside_by_xdp() -> Result<()> {
    from_outside("sctpxdp", "native")
}

/// As kube-proxy does it: an ICMP error, with enough of the INIT for its sender to believe it.
#[test]
fn b5_an_init_to_nobody_is_answered_with_port_unreachable() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("sctpnone", "off")?;
    let (node, client, outside) = (lab.node("worker-1"), lab.pod("client"), lab.workstation());
    for family in Family::ALL {
        let port = CLIENT_PORT;
        let of_pod = End::pod(client, node, client.at(family, port));
        let of_outside = End::beside(outside, node, outside.at(family, port));
        for (end, frontend) in [
            (of_pod, vip(NOBODY, family)),
            (of_outside, node.at(family, node_port(NOBODY))),
        ] {
            refused(end.host, family, frontend, &end.init(frontend).bytes())?;
        }
    }
    Ok(())
}

fn refused(host: &Host, family: Family, frontend: SocketAddr, init: &[u8]) -> Result<()> {
    let capture = host.capture("eth0", &[])?;
    host.inject("eth0", &[init.to_vec()])?;
    thread::sleep(Duration::from_millis(200));
    let captured = capture.stop()?;
    let (protocol, kind, header) = match family {
        Family::V4 => (1, [3, 3], 20),
        Family::V6 => (58, [1, 4], 40),
    };
    let mut answers = captured.frames.iter().filter(|frame| {
        frame.packet().is_some_and(|packet| {
            !frame.outgoing && packet.protocol == protocol && packet.source == frontend.ip()
        })
    });
    let answer = answers.next();
    let answer = answer.unwrap_or_else(|| panic!("{frontend} did not refuse: {captured:?}"));
    assert_eq!(check_sums(&answer.bytes), Ok(()), "{answer}");
    let packet = answer.packet().expect("IP");
    assert_eq!(packet.payload[..2], kind);
    let quoted = &packet.payload[8..];
    assert_eq!(quoted, &init[14..14 + header + 20], "{answer}");
    assert!(answers.next().is_none(), "refused once");
    Ok(())
}
