//! An agent is killed under load, misses changes, and is started again: no held connection is lost, no new one fails,
//! what did not change keeps its id, and only the difference is written (semantics L3, B6; ADR 4, 5, 6).

#![cfg(test)]

use std::{collections::BTreeMap, fs, path::Path, thread, time::Duration};

use proxy_agent::{
    dataplane::{maps::KernelMaps, pin::PinFolder},
    maps::{Maps as _, Snapshot},
};
use proxy_common::abi::{frontend::FrontendKey, target::Backend};
use proxy_lab::{
    AgentOptions, Family, Folder, Hold, Lab, Node, PodSpec, Probe, ProbeRequest, Protocol, Result,
    TcpRequest, address, objects::Service, skipped,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const NODE_PORT: u16 = 30_700;
/// Services whose one endpoint changes while the agent is dead.
const CHANGED: u16 = 50;
/// Connections held through each way.
const HELD: usize = 40;
const TIMEOUT: Duration = Duration::from_secs(3);
/// What one endpoint that is replaced by another costs: backend, slots, flip, and the old backend's flip.
const OPERATIONS: u64 = 4;

fn kept() -> Service {
    Service::new("kept")
        .cluster_ip(address::cluster_ip(1).v4)
        .port("", Protocol::Tcp, PORT)
        .node_port(NODE_PORT)
        .load_balancer(address::load_balancer(1).v4)
}

fn changed(number: u16) -> Service {
    Service::new(&format!("changed-{number}"))
        .cluster_ip(address::cluster_ip(1_000 + number).v4)
        .port("", Protocol::Tcp, PORT)
}

fn lab() -> Result<(Lab, Folder)> {
    let lab = Lab::builder("restart")
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["sockets", "here", "before"])
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .pods("worker-2", ["there", "after"])
        .up()?;
    for name in ["here", "there", "before", "after"] {
        lab.pod(name).serve(TARGET_PORT)?;
    }
    let source = lab.source()?;
    source.put(kept())?;
    source.put(kept().slice_of(Family::V4, TARGET_PORT, [lab.pod("here"), lab.pod("there")]))?;
    for number in 0..CHANGED {
        source.put(changed(number))?;
    }
    point_to(&lab, &source, "before")?;
    Ok((lab, source))
}

/// Makes one pod the endpoint of all Services that change.
fn point_to(lab: &Lab, source: &Folder, pod: &str) -> Result<()> {
    (0..CHANGED).try_for_each(|number| {
        source.put(changed(number).slice_of(Family::V4, TARGET_PORT, [lab.pod(pod)]))
    })
}

/// Connections through each kind of frontend, by each kind of client.
fn hold(lab: &Lab) -> Result<Vec<(&'static str, Hold<'_>)>> {
    let cluster_ip = (address::cluster_ip(1).v4, PORT).into();
    let gone = (address::cluster_ip(1_000).v4, PORT).into();
    let load_balancer = (address::load_balancer(1).v4, PORT).into();
    let node_port = lab.node("worker-1").at(Family::V4, NODE_PORT);
    let ways = [
        (
            "a node process to the ClusterIP",
            lab.node("worker-1") as &proxy_lab::Host,
            cluster_ip,
        ),
        (
            "a pod by sockets to the ClusterIP",
            lab.pod("sockets"),
            cluster_ip,
        ),
        (
            "a pod by tc to the ClusterIP",
            lab.pod("packets"),
            cluster_ip,
        ),
        ("outside to the node port", lab.workstation(), node_port),
        (
            "outside to the load balancer",
            lab.workstation(),
            load_balancer,
        ),
        (
            "a pod by tc to a backend that leaves",
            lab.pod("packets"),
            gone,
        ),
    ];
    ways.into_iter()
        .map(|(way, client, to)| {
            let hold = client.hold(TcpRequest::to(to).times(HELD).timeout(TIMEOUT))?;
            assert!(
                hold.opened.iter().all(|exchange| exchange.outcome.is_ok()),
                "{way}"
            );
            Ok((way, hold))
        })
        .collect()
}

/// A new connection each 10 ms.
fn probe(lab: &Lab) -> Result<Vec<(&'static str, Probe<'_>)>> {
    let request = |to| ProbeRequest {
        protocol: Protocol::Tcp,
        to,
        interval: Duration::from_millis(10),
        timeout: TIMEOUT,
    };
    let cluster_ip = (address::cluster_ip(1).v4, PORT).into();
    let moved = (address::cluster_ip(1_001).v4, PORT).into();
    let load_balancer = (address::load_balancer(1).v4, PORT).into();
    let node_port = lab.node("worker-1").at(Family::V4, NODE_PORT);
    Ok(vec![
        (
            "a pod by sockets",
            lab.pod("sockets").probe(request(cluster_ip))?,
        ),
        (
            "a pod by tc",
            lab.pod("packets").probe(request(cluster_ip))?,
        ),
        (
            "a pod by sockets, endpoint replaced",
            lab.pod("sockets").probe(request(moved))?,
        ),
        (
            "outside, node port",
            lab.workstation().probe(request(node_port))?,
        ),
        (
            "outside, load balancer",
            lab.workstation().probe(request(load_balancer))?,
        ),
    ])
}

fn maps(node: &Node) -> Snapshot {
    KernelMaps::open(&PinFolder::new(node.bpffs()))
        .expect("the maps are pinned")
        .snapshot()
        .expect("the maps can be read")
}

/// Where each frontend leads: target id, and the ids and generations of its backends.
fn ids(maps: &Snapshot) -> BTreeMap<FrontendKey, (u32, Vec<(u32, Backend)>)> {
    maps.frontends
        .iter()
        .map(|(key, value)| {
            let word = maps.targets[value.target() as usize].word;
            let backends = (0..u32::from(word.count()))
                .map(|index| {
                    let slot = maps.slots[(word.offset() + index) as usize];
                    (slot.backend, maps.backends[slot.backend as usize])
                })
                .collect();
            (*key, (value.target(), backends))
        })
        .collect()
}

/// Operations that the agent says it wrote for its first list.
fn operations(log: &Path) -> u64 {
    let text = fs::read_to_string(log).expect("the log is there");
    let line = text
        .lines()
        .find(|line| line.contains("programmed") && line.contains("operations="))
        .expect("the agent says what it programmed");
    let number = line
        .split("operations=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    number
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

fn assert_all_live(holds: &[(&'static str, Hold<'_>)], when: &str) -> Result<()> {
    for (way, hold) in holds {
        let lost = hold
            .check(TIMEOUT)?
            .into_iter()
            .filter_map(|exchange| exchange.outcome.err())
            .collect::<Vec<_>>();
        assert!(
            lost.is_empty(),
            "{when}, {way}: {} of {HELD} lost: {:?}",
            lost.len(),
            lost.first()
        );
    }
    Ok(())
}

#[test]
fn a_killed_agent_misses_changes_and_nothing_is_lost() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, source) = lab()?;
    let options = AgentOptions::files(source.path()).binary(env!("CARGO_BIN_EXE_proxy-agent"));
    let node = lab.node("worker-1");
    let agent = node.spawn_agent(&options)?;
    let holds = hold(&lab)?;
    assert!(holds.len() * HELD >= 200);
    let before = maps(node);
    let probes = probe(&lab)?;
    thread::sleep(Duration::from_secs(1));

    agent.kill9()?;
    point_to(&lab, &source, "after")?;
    thread::sleep(Duration::from_secs(1));
    assert_all_live(&holds, "without an agent")?;
    assert_eq!(
        ids(&maps(node)),
        ids(&before),
        "nobody writes the maps of a dead agent"
    );

    let agent = node.spawn_agent(&options)?;
    thread::sleep(Duration::from_secs(1));
    assert_all_live(&holds, "with the new agent")?;
    for (way, probe) in probes {
        let report = probe.stop()?;
        assert!(report.attempts > 100, "{way}: {} attempts", report.attempts);
        assert_eq!(report.failed(), 0, "{way}: {:?}", report.failures.first());
        eprintln!(
            "{way}: {} new connections, slowest {:?}",
            report.ok, report.slowest
        );
    }

    let after = maps(node);
    let (old, new) = (ids(&before), ids(&after));
    assert_eq!(
        old.keys().collect::<Vec<_>>(),
        new.keys().collect::<Vec<_>>()
    );
    let moved = old.iter().filter(|(key, was)| {
        let is = &new[*key];
        assert_eq!(was.0, is.0, "{key:?} keeps its target");
        was.1 != is.1
    });
    assert_eq!(
        moved.count(),
        usize::from(CHANGED),
        "only what changed has other backends"
    );
    let written = operations(agent.log());
    eprintln!("{written} operations for {CHANGED} endpoints");
    assert_eq!(written, OPERATIONS * u64::from(CHANGED));

    let last = lab
        .pod("sockets")
        .tcp((address::cluster_ip(1_000).v4, PORT).into())?;
    assert_eq!(last.server(), Some("after"));
    Ok(())
}

#[test]
fn a_stopped_agent_leaves_everything_and_cleanup_leaves_nothing() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, source) = lab()?;
    let options = AgentOptions::files(source.path()).binary(env!("CARGO_BIN_EXE_proxy-agent"));
    let node = lab.node("worker-1");
    let cluster_ip = (address::cluster_ip(1).v4, PORT).into();
    let agent = node.spawn_agent(&options)?;
    assert!(agent.terminate()?.success());
    for client in [lab.pod("sockets"), lab.pod("packets")] {
        assert!(
            client.tcp(cluster_ip)?.outcome.is_ok(),
            "served without an agent"
        );
    }
    let words = ["cleanup", "--bpffs"].map(std::ffi::OsString::from);
    for said in ["detached", "nothing is pinned"] {
        let mut command = words.to_vec();
        command.push(node.bpffs().into());
        let output = node.exec(
            [std::ffi::OsString::from(env!("CARGO_BIN_EXE_proxy-agent"))]
                .into_iter()
                .chain(command),
        )?;
        assert!(output.contains(said), "{output}");
    }
    assert!(!node.bpffs().join("v1").exists());
    for client in [lab.pod("sockets"), lab.pod("packets")] {
        let request = TcpRequest::to(cluster_ip).timeout(Duration::from_millis(300));
        let exchanges = client.tcp_all(request)?;
        assert!(
            exchanges.iter().all(|exchange| exchange.outcome.is_err()),
            "nobody translates"
        );
    }
    Ok(())
}
