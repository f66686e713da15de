//! What somebody detaches, deletes or unpins under a running agent is in place again within seconds, without any event that
//! tells of it, and is counted (ADR 35).

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use proxy_agent::dataplane::pin::PinFolder;
use proxy_agent::dataplane::sys::{link, object};
use proxy_lab::objects::Service;
use proxy_lab::{
    Agent, AgentOptions, Family, Folder, Host, Lab, Result, address, eventually, skipped,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const METRICS: u16 = 10_249;
/// The agent looks every four seconds; this machine may be busy.
const MENDED: Duration = Duration::from_secs(10);

/// worker-1 has the agent and a pod, which is a Service's backend.
fn lab(label: &str, tc: &str) -> Result<(Lab, Folder, Agent)> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .pods("worker-1", ["server"])
        .up()?;
    lab.pod("server").serve(TARGET_PORT)?;
    let source = lab.source()?;
    let service = Service::new("web")
        .cluster_ip(address::cluster_ip(1).v4)
        .both(PORT)
        .load_balancer(address::load_balancer(1).v4);
    source.put(service.slice_of(Family::V4, TARGET_PORT, [lab.pod("server")]))?;
    source.put(service)?;
    let options = AgentOptions::files(source.path()).arg("--tc").arg(tc);
    let agent = lab.node("worker-1").spawn_agent(&options)?;
    Ok((lab, source, agent))
}

fn repaired(node: &Host, kind: &str) -> Result<f64> {
    let metrics: SocketAddr = (Ipv4Addr::LOCALHOST, METRICS).into();
    let metrics = node.http(metrics, "/metrics")?.expect("metrics");
    let sample = format!("proxy_attachments_repaired_total{{kind=\"{kind}\"}}");
    Ok(metrics.sample(&sample).expect("it is shown from the start"))
}

/// Waits until something of a kind was repaired, and asks the Service by its sockets and per packet.
fn assert_mended(lab: &Lab, what: &str, kind: &str, before: f64) -> Result<()> {
    let node = lab.node("worker-1");
    eventually(what, MENDED, || Ok(repaired(node, kind)? > before))?;
    for (client, to) in [
        (node as &Host, address::cluster_ip(1).v4),
        (lab.workstation(), address::load_balancer(1).v4),
    ] {
        let answer = client.tcp(SocketAddr::from((to, PORT)))?;
        assert_eq!(answer.server(), Some("server"), "{what}: {to}: {answer:?}");
    }
    Ok(())
}

#[test]
fn what_is_detached_or_unpinned_under_the_agent_is_put_back() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _source, agent) = lab("repairlinks", "auto")?;
    let node = lab.node("worker-1");
    let pins = PinFolder::new(node.bpffs());
    let names = pins.link_names().expect("pinned");
    let detach = |name: &str| {
        let link = object::open(&pins.link(name)).expect("pinned");
        link::detach(link).expect("attached");
    };
    assert_mended(&lab, "all is well", "cgroup", -1.0)?;
    assert!(repaired(node, "cgroup")? < 1.0);

    detach("cgroup-connect4");
    assert_mended(&lab, "a socket hook", "cgroup", 0.0)?;

    let of_devices = names.iter().filter(|name| name.starts_with("dev-"));
    of_devices.clone().for_each(|name| detach(name));
    assert_mended(&lab, "programs on devices", "tcx", 0.0)?;

    std::fs::remove_file(pins.link("cgroup-connect4")).expect("pinned");
    assert_mended(&lab, "the pin of a link", "link_pin", 0.0)?;
    std::fs::remove_file(pins.map("FRONTENDS")).expect("pinned");
    assert_mended(&lab, "the pin of a map", "map_pin", 0.0)?;
    assert_eq!(pins.link_names().expect("pinned"), names);

    let log = std::fs::read_to_string(agent.log()).expect("a log");
    for what in [
        "what=\"connect4\"",
        "what=\"ingress of eth0\"",
        "what=\"FRONTENDS\"",
    ] {
        let told = log.lines().filter(|line| line.contains(what)).count();
        assert_eq!(told, 1, "{what}\n{log}");
    }
    Ok(())
}

#[test]
fn a_qdisc_that_is_deleted_under_the_agent_is_put_back() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _source, _agent) = lab("repairclsact", "clsact")?;
    let node = lab.node("worker-1");
    node.exec(["tc", "qdisc", "del", "dev", "eth0", "clsact"])?;
    assert_mended(&lab, "the qdisc", "clsact", 0.0)?;
    let before = repaired(node, "clsact")?;
    node.exec(["tc", "filter", "del", "dev", "eth0", "ingress"])?;
    assert_mended(&lab, "a filter", "clsact", before)
}
