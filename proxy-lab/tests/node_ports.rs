//! Node ports answer on every address of the node, whenever it gets it, and on its loopback for its own processes; external IPs
//! that are addresses of the node take nothing from it (semantics S4, S7; ADR 8, 14).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proxy_lab::objects::Service;
use proxy_lab::protocol::FailureKind;
use proxy_lab::{
    Agent, AgentOptions, Exchange, Family, Host, Lab, PodSpec, Protocol, Result, TcpRequest,
    UdpRequest, address, eventually, skipped,
};

const TARGET_PORT: u16 = 8080;
/// Node ports of the Services whose backends are here and elsewhere.
const HERE: u16 = 30_601;
const THERE: u16 = 30_602;
/// The port of the Service whose external IP is worker-1's own address.
const EXTERNAL: u16 = 7_000;
const TIMEOUT: Duration = Duration::from_secs(2);
/// From a change of devices or files to the traffic that follows it.
const FOLLOWED: Duration = Duration::from_secs(5);

/// worker-1 has the agent; what it translates, it translates by itself.
fn lab(label: &str, options: impl FnOnce(AgentOptions) -> AgentOptions) -> Result<(Lab, Agent)> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["here", "sockets"])
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .pods("worker-2", ["there"])
        .up()?;
    let source = lab.source()?;
    for (number, port, pod) in [(1, HERE, "here"), (2, THERE, "there")] {
        lab.pod(pod).serve(TARGET_PORT)?;
        let service = Service::new(pod)
            .cluster_ips(address::cluster_ip(number))
            .both(80)
            .node_port(port);
        for family in Family::ALL {
            source.put(service.slice_of(family, TARGET_PORT, [lab.pod(pod)]))?;
        }
        source.put(service)?;
    }
    let own = lab.node("worker-1").addresses();
    let external = Service::new("external")
        .cluster_ips(address::cluster_ip(3))
        // Port 30601 is a node port of another Service, which keeps it.
        .both(EXTERNAL)
        .port("tcp-taken", Protocol::Tcp, HERE)
        .port("udp-taken", Protocol::Udp, HERE)
        .external_ip(own.v4)
        .external_ip(own.v6);
    for family in Family::ALL {
        source.put(external.slice_of(family, TARGET_PORT, [lab.pod("there")]))?;
    }
    source.put(external)?;
    let agent = lab
        .node("worker-1")
        .spawn_agent(&options(AgentOptions::files(source.path())))?;
    Ok((lab, agent))
}

fn attempt(client: &Host, protocol: Protocol, to: SocketAddr) -> Result<Exchange> {
    let exchanges = match protocol {
        Protocol::Tcp => client.tcp_all(TcpRequest::to(to).timeout(TIMEOUT))?,
        Protocol::Udp => client.udp_all(UdpRequest::to(to).connected().timeout(TIMEOUT))?,
    };
    Ok(exchanges.into_iter().next().expect("one was asked for"))
}

/// Who answers, over both protocols; `None` is a refusal.
#[track_caller]
fn assert_answers(client: &Host, to: SocketAddr, server: Option<&str>) -> Result<()> {
    for protocol in Protocol::ALL {
        let exchange = attempt(client, protocol, to)?;
        let what = format!(
            "{} to {to} {protocol}: {:?}",
            client.name(),
            exchange.outcome
        );
        match &exchange.outcome {
            Ok(identity) => assert_eq!(Some(identity.server.as_str()), server, "{what}"),
            Err(failure) => {
                assert_eq!(None, server, "{what}");
                assert_eq!(failure.kind, FailureKind::Refused, "{what}");
            }
        }
    }
    Ok(())
}

fn at(address: &str, port: u16) -> SocketAddr {
    let address: IpAddr = address.parse().expect("an address");
    (address, port).into()
}

#[test]
fn s4_node_ports_are_on_the_nodes_loopback_and_on_no_pods() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("nploop", |options| options)?;
    let loopbacks = [
        "127.0.0.1",
        "127.0.0.2",
        "::1",
        "0.0.0.0",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:0.0.0.0",
    ];
    for loopback in loopbacks {
        let node = lab.node("worker-1");
        for (port, server) in [(HERE, "here"), (THERE, "there")] {
            assert_answers(node, at(loopback, port), Some(server))?;
        }
        let exchange = node.udp(at(loopback, HERE))?;
        assert_eq!(
            exchange.server(),
            Some("here"),
            "{loopback} by an unconnected socket"
        );
        // A pod's loopback is its own, whoever translates the pod.
        for pod in ["sockets", "packets"] {
            assert_answers(lab.pod(pod), at(loopback, HERE), None)?;
        }
    }
    for pod in ["sockets", "packets"] {
        let pod = lab.pod(pod);
        pod.serve(HERE)?;
        for loopback in loopbacks {
            assert_answers(pod, at(loopback, HERE), Some(pod.name()))?;
        }
    }
    Ok(())
}

#[test]
fn s4_node_ports_are_on_every_address_of_the_node() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("npaddr", |options| options)?;
    let node = lab.node("worker-1");
    for family in Family::ALL {
        let addresses = [node.ip(family), node.pod_gateway().of(family)];
        for (port, server) in [(HERE, "here"), (THERE, "there")] {
            for address in addresses {
                for client in [&**node, &**lab.pod("sockets"), &**lab.pod("packets")] {
                    assert_answers(client, (address, port).into(), Some(server))?;
                }
            }
            for client in [lab.workstation(), lab.node("worker-2")] {
                assert_answers(client, (addresses[0], port).into(), Some(server))?;
            }
        }
    }
    Ok(())
}

#[test]
fn s4_an_address_that_comes_and_goes_is_followed() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("npcome", |options| options)?;
    let node = lab.node("worker-1");
    let clients = [
        &**node,
        &**lab.pod("sockets"),
        &**lab.pod("packets"),
        lab.workstation(),
    ];
    for (address, prefix, host_prefix) in [("172.30.0.77", 24, 32), ("fd00:30::77", 64, 128)] {
        for device in ["eth0", "lo"] {
            let prefix = if device == "lo" { host_prefix } else { prefix };
            let address_and_prefix = format!("{address}/{prefix}");
            node.exec(["ip", "address", "add", &address_and_prefix, "dev", device])?;
            let via = node
                .ip(Family::of(address.parse().expect("an address")))
                .to_string();
            lab.workstation()
                .exec(["ip", "route", "add", address, "via", &via])?;
            for client in clients {
                let to = at(address, HERE);
                let what = format!("{} reaches {to} on {device}", client.name());
                let elapsed = eventually(&what, FOLLOWED, || {
                    Ok(attempt(client, Protocol::Tcp, to)?.outcome.is_ok())
                })?;
                eprintln!("{what} after {elapsed:?}");
                assert_answers(client, to, Some("here"))?;
                assert_answers(client, at(address, THERE), Some("there"))?;
            }
            node.exec(["ip", "address", "del", &address_and_prefix, "dev", device])?;
            for client in clients {
                let to = at(address, HERE);
                let what = format!("{} no longer reaches {to}", client.name());
                eventually(&what, FOLLOWED, || {
                    let request = TcpRequest::to(to).timeout(Duration::from_millis(200));
                    Ok(client.tcp_all(request)?[0].outcome.is_err())
                })?;
            }
            lab.workstation()
                .exec(["ip", "route", "del", address, "via", &via])?;
        }
    }
    Ok(())
}

#[test]
fn s4_a_device_that_comes_and_goes_is_served() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("npdev", |options| options)?;
    let (node, outside) = (lab.node("worker-1"), lab.workstation());
    for round in 0..2 {
        node.exec([
            "ip",
            "link",
            "add",
            "eth1",
            "type",
            "veth",
            "peer",
            "name",
            "second",
            "netns",
            outside.netns().name(),
        ])?;
        for (host, device, last) in [(&**node, "eth1", 1), (outside, "second", 2)] {
            for address in [
                format!("192.168.77.{last}/24"),
                format!("fd00:77::{last}/64"),
            ] {
                host.exec(["ip", "address", "add", &address, "dev", device])?;
            }
            host.exec(["ip", "link", "set", device, "up"])?;
        }
        for address in ["192.168.77.1", "fd00:77::1"] {
            let to = at(address, HERE);
            let elapsed = eventually("the new device is served", FOLLOWED, || {
                Ok(attempt(outside, Protocol::Tcp, to)?.outcome.is_ok())
            })?;
            eprintln!("round {round}: {address} is served after {elapsed:?}");
            assert_answers(outside, to, Some("here"))?;
            assert_answers(outside, at(address, THERE), Some("there"))?;
        }
        node.exec(["ip", "link", "del", "eth1"])?;
        assert_answers(outside, node.at(Family::V4, HERE), Some("here"))?;
    }
    Ok(())
}

#[test]
fn s4_node_ports_are_on_the_addresses_that_were_named_and_on_the_loopback() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("npname", |options| {
        options.arg("--nodeport-addresses=172.30.0.0/24,fd00:30::/64")
    })?;
    let node = lab.node("worker-1");
    for family in Family::ALL {
        let loopback = match family {
            Family::V4 => "127.0.0.1",
            Family::V6 => "::1",
        };
        assert_answers(node, at(loopback, THERE), Some("there"))?;
        for client in [
            &**node,
            &**lab.pod("sockets"),
            &**lab.pod("packets"),
            lab.workstation(),
        ] {
            assert_answers(client, node.at(family, HERE), Some("here"))?;
            if client.name() != "workstation" {
                let to = (node.pod_gateway().of(family), HERE).into();
                assert_answers(client, to, None)?;
            }
        }
    }
    Ok(())
}

#[test]
fn s7_an_external_ip_of_the_node_itself_leaves_listeners_and_own_processes_alone() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("npext", |options| options)?;
    let node = lab.node("worker-1");
    let others = [
        lab.workstation(),
        &**lab.pod("sockets"),
        &**lab.pod("packets"),
    ];
    for listening in [false, true, false] {
        let servers = if listening {
            node.serve(EXTERNAL)?
        } else {
            Vec::new()
        };
        for family in Family::ALL {
            let to = node.at(family, EXTERNAL);
            // The node's own processes get what is theirs: their own listener, or a refusal.
            assert_answers(node, to, listening.then_some("worker-1"))?;
            for client in others {
                let server = if listening { "worker-1" } else { "there" };
                assert_answers(client, to, Some(server))?;
                // The node port of another Service goes before.
                assert_answers(client, node.at(family, HERE), Some("here"))?;
            }
            assert_answers(node, node.at(family, HERE), Some("here"))?;
        }
        for server in servers {
            server.stop()?;
        }
    }
    Ok(())
}
