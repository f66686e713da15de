//! XDP on uplinks (ADR 22): packets that XDP sends arrive with the same bytes as by tc, and tc handles what
//! XDP leaves. XDP is attached where `--xdp` says, and never replaces another program.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_agent::dataplane::open;
use proxy_agent::dataplane::pin::PinFolder;
use proxy_agent::dataplane::sys::link::{self, XdpFlags};
use proxy_agent::dataplane::sys::program;
use proxy_agent::dataplane::xdp::program_on;
use proxy_common::abi::counter::Counter;
use proxy_lab::objects::Service;
use proxy_lab::{
    Agent, AgentOptions, Family, Folder, Host, Lab, Node, Offload, ProbeRequest, Protocol, Result,
    TcpRequest, UdpRequest, address, agent_command, eventually, skipped,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
/// Services: one backend elsewhere, one here, and one of each.
const THERE: u8 = 1;
const HERE: u8 = 2;
const BOTH: u8 = 3;
const TIMEOUT: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(5);

fn node_port(number: u8) -> u16 {
    30_900 + u16::from(number)
}

/// worker-1 translates for the workstation.
fn lab(label: &str) -> Result<(Lab, Folder)> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["here"])
        .pods("worker-2", ["there"])
        .fit_for_xdp()
        .up()?;
    let source = lab.source()?;
    for pod in lab.pods() {
        pod.serve(TARGET_PORT)?;
    }
    for (number, pods) in [
        (THERE, vec!["there"]),
        (HERE, vec!["here"]),
        (BOTH, vec!["here", "there"]),
    ] {
        let service = Service::new(&format!("xdp-{number}"))
            .cluster_ips(address::cluster_ip(number.into()))
            .both(PORT)
            .node_port(node_port(number))
            .load_balancer(address::load_balancer(number).v4)
            .load_balancer(address::load_balancer(number).v6)
            .external_ip(address::external_ip(number).v4)
            .external_ip(address::external_ip(number).v6);
        for family in Family::ALL {
            let pods = pods.iter().map(|pod| lab.pod(pod));
            source.put(service.slice_of(family, TARGET_PORT, pods))?;
        }
        source.put(service)?;
    }
    Ok((lab, source))
}

fn spawn(lab: &Lab, source: &Folder, mode: &str) -> Result<Agent> {
    let options = AgentOptions::files(source.path()).xdp(mode);
    lab.node("worker-1").spawn_agent(&options)
}

/// Every way to a Service from outside.
fn ways(node: &Host, number: u8, family: Family) -> [SocketAddr; 3] {
    [
        node.at(family, node_port(number)),
        (address::load_balancer(number).of(family), PORT).into(),
        (address::external_ip(number).of(family), PORT).into(),
    ]
}

/// Connections and datagrams by every way; who answered, and whom they saw.
fn ask(lab: &Lab, number: u8) -> Result<Vec<(String, std::net::IpAddr)>> {
    let mut answers = Vec::new();
    for family in Family::ALL {
        for to in ways(lab.node("worker-1"), number, family) {
            let tcp = TcpRequest::to(to).times(2).timeout(TIMEOUT);
            let udp = UdpRequest::to(to).times(2).timeout(TIMEOUT);
            let mut exchanges = lab.workstation().tcp_all(tcp)?;
            exchanges.extend(lab.workstation().udp_all(udp)?);
            for exchange in exchanges {
                let said = exchange.outcome.unwrap_or_else(|why| panic!("{to}: {why}"));
                answers.push((said.server, said.client.ip()));
            }
        }
    }
    Ok(answers)
}

/// All counters of a node.
fn counters(node: &Node) -> BTreeMap<&'static str, u64> {
    let pins = PinFolder::new(node.bpffs());
    let map = open::counters(&pins).expect("counters");
    let count = |counter: &Counter| {
        let number = map.sum(*counter as u32).expect("a counter");
        (counter.label(), number)
    };
    Counter::ALL.iter().map(count).collect()
}

fn xdp_sent(node: &Node) -> u64 {
    counters(node)["xdp_sent"]
}

/// Id of the XDP program on a device.
fn on(node: &Node, device: &str) -> Result<Option<u32>> {
    let ifindex = ifindex_of(node, device)?;
    let found = node.netns().run(|| Ok(program_on(ifindex)))?;
    Ok(found.expect("can be asked for"))
}

fn ifindex_of(host: &Host, device: &str) -> Result<u32> {
    let text = host.exec(["ip", "-o", "link", "show", "dev", device])?;
    let number = text.split(':').next().unwrap_or_default();
    Ok(number.trim().parse().expect("a number"))
}

fn log(agent: &Agent) -> String {
    std::fs::read_to_string(agent.log()).expect("a log")
}

/// XDP translates both directions of traffic to a backend elsewhere. Traffic to a backend here is left to
/// tc.
fn serves(mode: &str, label: &str) -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, source) = lab(label)?;
    let node = lab.node("worker-1");
    let agent = spawn(&lab, &source, mode)?;
    assert!(
        log(&agent).contains(&format!("{mode} XDP")),
        "{}",
        log(&agent)
    );
    // Neighbours become known.
    ask(&lab, THERE)?;

    let before = counters(node);
    for (server, client) in ask(&lab, THERE)? {
        assert_eq!(server, "there");
        assert!(
            node.ip(Family::V4) == client || node.ip(Family::V6) == client,
            "{client}"
        );
    }
    let after = counters(node);
    let sent = after["xdp_sent"] - before["xdp_sent"];
    let passed = after["xdp_passed"] - before["xdp_passed"];
    // Six ways, each with two connections of at least eight segments and two datagrams, there and back.
    assert!(
        sent >= 6 * (2 * 8 + 2 * 2),
        "{sent} by XDP, {passed} left to tc"
    );
    assert!(passed * 20 <= sent, "{sent} by XDP, {passed} left to tc");

    let before = counters(node);
    for (server, client) in ask(&lab, HERE)? {
        assert_eq!(server, "here");
        let own = lab.workstation();
        assert!(
            own.ip(Family::V4) == client || own.ip(Family::V6) == client,
            "{client}"
        );
    }
    assert_eq!(
        xdp_sent(node),
        before["xdp_sent"],
        "nothing of a local backend is sent by XDP"
    );

    // One here and one there get as much, and every flow is made once.
    let before = counters(node);
    let mut servers: BTreeMap<String, u32> = BTreeMap::new();
    let to = node.at(Family::V4, node_port(BOTH));
    let request = TcpRequest::to(to).times(400).timeout(TIMEOUT);
    for exchange in lab.workstation().tcp_all(request)? {
        *servers
            .entry(exchange.server().unwrap_or("nobody").to_owned())
            .or_default() += 1;
    }
    let created = counters(node)["flow_created"] - before["flow_created"];
    assert_eq!(created, 400, "flows of 400 connections");
    // Tosses of a coin: five standard deviations.
    assert!(
        servers.values().all(|n| n.abs_diff(200) < 50),
        "{servers:?}"
    );
    eprintln!(
        "{label}: {sent} frames by XDP, {passed} left to tc; one here, one there: {servers:?}"
    );
    Ok(())
}

#[test]
fn native_xdp_sends_on_what_is_for_elsewhere_and_leaves_the_rest() -> Result<()> {
    serves("native", "xdpnat")
}

#[test]
fn generic_xdp_sends_on_what_is_for_elsewhere_and_leaves_the_rest() -> Result<()> {
    serves("generic", "xdpgen")
}

#[test]
fn a_first_packet_to_a_neighbour_that_nobody_knows_is_not_lost() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, source) = lab("xdpneigh")?;
    let node = lab.node("worker-1");
    let _agent = spawn(&lab, &source, "native")?;
    for family in Family::ALL {
        let to = node.at(family, node_port(THERE));
        node.exec(["ip", "neigh", "flush", "all"])?;
        // One datagram, and no other that would be sent again.
        let request = UdpRequest::to(to).timeout(TIMEOUT);
        for exchange in lab.workstation().udp_all(request)? {
            assert!(exchange.outcome.is_ok(), "{to}: {exchange:?}");
        }
    }
    Ok(())
}

#[test]
fn in_by_one_uplink_and_out_by_another() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, source) = lab("xdptwo")?;
    let (node, outside) = (lab.node("worker-1"), lab.workstation());
    let peer = outside.netns().name();
    node.exec([
        "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "second", "netns", peer,
    ])?;
    for (host, device, last) in [(&**node, "eth1", 1), (outside, "second", 2)] {
        for address in [
            format!("192.168.77.{last}/24"),
            format!("fd00:77::{last}/64"),
        ] {
            host.exec(["ip", "address", "add", &address, "dev", device])?;
        }
        host.exec(["ip", "link", "set", device, "up"])?;
        host.offload(device, Offload::TxChecksum, false)?;
    }
    outside.offload("second", Offload::Receive, true)?;
    let agent = spawn(&lab, &source, "native")?;
    assert_eq!(
        log(&agent).matches("native XDP").count(),
        2,
        "{}",
        log(&agent)
    );
    for to in ["192.168.77.1", "fd00:77::1"] {
        let to: SocketAddr = (
            to.parse::<std::net::IpAddr>().expect("an address"),
            node_port(THERE),
        )
            .into();
        assert!(
            outside.tcp_all(TcpRequest::to(to).timeout(TIMEOUT))?[0]
                .outcome
                .is_ok(),
            "{to}"
        );
        let before = counters(node);
        for exchange in outside.tcp_all(TcpRequest::to(to).times(5).timeout(TIMEOUT))? {
            assert_eq!(exchange.server(), Some("there"));
        }
        let after = counters(node);
        let sent = after["xdp_sent"] - before["xdp_sent"];
        assert!(sent >= 5 * 8, "{to}: {sent}");
        assert_eq!(after["xdp_passed"], before["xdp_passed"], "{to}");
    }
    Ok(())
}

/// `XDP_PASS`: r0 = 2; exit.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
/// `BPF_PROG_TYPE_XDP` and `BPF_XDP`.
const XDP_TYPE: u32 = 6;
const XDP_ATTACH: u32 = 37;

#[test]
fn another_program_is_never_replaced() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, source) = lab("xdpother")?;
    let node = lab.node("worker-1");
    let device = ifindex_of(node, "eth0")?;
    let other = program::load(XDP_TYPE, XDP_ATTACH, &PASS).expect("loads");
    let attach = || Ok(link::attach_xdp(&other, device, XdpFlags::Driver));
    let held = node.netns().run(attach)?.expect("is free");
    let before = on(node, "eth0")?;
    let agent = spawn(&lab, &source, "native")?;
    assert_eq!(
        on(node, "eth0")?,
        before,
        "the other program is still there"
    );
    assert!(
        log(&agent).contains("another XDP program"),
        "{}",
        log(&agent)
    );
    ask(&lab, THERE)?;
    assert_eq!(xdp_sent(node), 0);

    // When it is gone, a restart finds the place free.
    drop(held);
    agent.terminate()?;
    let agent = spawn(&lab, &source, "native")?;
    assert!(log(&agent).contains("native XDP"), "{}", log(&agent));
    ask(&lab, THERE)?;
    assert!(xdp_sent(node) > 0);
    Ok(())
}

#[test]
fn a_veth_is_left_to_tc_unless_it_is_forced() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, source) = lab("xdpauto")?;
    let node = lab.node("worker-1");
    let agent = spawn(&lab, &source, "auto")?;
    assert!(
        log(&agent).contains("tc alone: it is a veth"),
        "{}",
        log(&agent)
    );
    assert_eq!(on(node, "eth0")?, None);
    ask(&lab, THERE)?;
    Ok(())
}

#[test]
fn modes_are_switched_by_a_restart_and_nothing_is_lost() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, source) = lab("xdpmode")?;
    let node = lab.node("worker-1");
    let mut agent = Some(spawn(&lab, &source, "native")?);
    let mut last = on(node, "eth0")?;
    assert!(last.is_some());
    let held = lab.workstation().hold(
        TcpRequest::to(node.at(Family::V6, node_port(THERE)))
            .times(5)
            .timeout(TIMEOUT),
    )?;
    let probe = |to, protocol| {
        lab.workstation().probe(ProbeRequest {
            protocol,
            to,
            interval: Duration::from_millis(10),
            timeout: TIMEOUT,
        })
    };
    let probes = [
        probe(node.at(Family::V4, node_port(BOTH)), Protocol::Tcp)?,
        probe(node.at(Family::V6, node_port(THERE)), Protocol::Tcp)?,
        probe(node.at(Family::V4, node_port(THERE)), Protocol::Udp)?,
    ];
    for mode in ["native", "generic", "off", "native"] {
        agent.take().expect("one runs").kill9()?;
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(on(node, "eth0")?, last, "it stays without its agent");
        agent = Some(spawn(&lab, &source, mode)?);
        let now = on(node, "eth0")?;
        assert_eq!(now.is_some(), mode != "off", "{mode}");
        assert!(
            now.is_none() || now != last,
            "{mode}: the program is a new one"
        );
        last = now;
        for exchange in held.check(TIMEOUT)? {
            assert!(exchange.outcome.is_ok(), "{mode}: {exchange:?}");
        }
    }
    for probe in probes {
        let report = probe.stop()?;
        assert_eq!(report.failed(), 0, "{:?}", report.failures);
        assert!(report.ok > 100, "{report:?}");
        eprintln!(
            "xdpmode: {} attempts, slowest {:?}",
            report.attempts, report.slowest
        );
    }

    // A device that leaves its class, and cleanup, take it off.
    node.exec(["ip", "link", "set", "eth0", "down"])?;
    eventually("a device that is down has none", SOON, || {
        Ok(on(node, "eth0")?.is_none())
    })?;
    node.exec(["ip", "link", "set", "eth0", "up"])?;
    eventually("it comes back", SOON, || Ok(on(node, "eth0")?.is_some()))?;
    agent.take().expect("one runs").terminate()?;
    let bpffs = node.bpffs().to_str().expect("a plain path");
    agent_command(node, ["cleanup", "--bpffs", bpffs])?;
    assert_eq!(on(node, "eth0")?, None);
    Ok(())
}
