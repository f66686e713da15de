//! An agent ends in various ways under load, and much changes while it is gone (ADR 4, 5, 15; semantics L3,
//! B6): no connection is lost or refused, unchanged objects keep their ids, and the new agent writes only
//! the difference. After `cleanup` nothing is left.

mod cluster;
mod load;
mod tc;
mod update;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proxy_agent::dataplane::pin::PinFolder;
use proxy_agent::dataplane::sys::link::{self, AttachType};
use proxy_agent::maps::{Snapshot, lint::lint};
use proxy_lab::{
    Agent, Family, Result, TcpRequest, agent_command, control_plane, eventually, skipped,
};

use cluster::{Cluster, Source};
use load::Load;
use tc::{Attached, SIDES};

/// How long the agents are gone.
const GONE: Duration = Duration::from_secs(3);
/// Time from the agents' return until the changes are in use.
const PROGRAMMED: Duration = Duration::from_secs(5);

/// Ends the agents by `end`, changes endpoints, starts them again.
fn restart(label: &str, source: Source, end: impl Fn(Agent) -> Result<()>) -> Result<()> {
    if skipped() || (matches!(source, Source::Api) && control_plane::skipped()) {
        return Ok(());
    }
    let cluster = Cluster::up(label, source)?;
    let agents = cluster.spawn_agents()?;
    let first_writes = cluster.operations("worker-1");
    let load = Load::start(&cluster)?;
    std::thread::sleep(Duration::from_secs(1));
    let before = cluster.snapshot("worker-1");

    for agent in agents {
        end(agent)?;
    }
    let ended = Instant::now();
    let changed = cluster.change_endpoints(true)?;
    std::thread::sleep(GONE);
    load.check("while no agent runs");
    assert_eq!(
        cluster.snapshot("worker-1"),
        before,
        "nobody writes while no agent runs"
    );

    let agents = cluster.spawn_agents()?;
    let back = ended.elapsed();
    let elapsed = eventually("new endpoints are used", PROGRAMMED, || {
        cluster.endpoints_are_used(true)
    })?;
    std::thread::sleep(Duration::from_secs(1));
    load.check("after the restart");
    let summary = load.finish();

    let after = cluster.snapshot("worker-1");
    let same = compare(&before, &after);
    let writes = cluster.operations("worker-1");
    eprintln!(
        "{label}: {summary}; {changed} endpoints changed, gone for {back:?}, used {elapsed:?} after the return; {same}; \
         {writes} operations, {first_writes} at the first start"
    );
    // For each backend that changed the new one is written and the old one marked; and for each list its slots, and a flip.
    assert!(writes <= 3 * changed, "{writes} operations");
    for agent in agents {
        agent.terminate()?;
    }

    // And with nothing to change, nothing is written.
    let agents = cluster.spawn_agents()?;
    assert_eq!(
        cluster.operations("worker-1"),
        0,
        "operations where nothing changed"
    );
    assert_eq!(cluster.snapshot("worker-1"), after);
    drop(agents);
    Ok(())
}

/// What must be the same after a change of endpoints: all frontends with their targets, and all that belongs to Services that
/// did not change.
fn compare(before: &Snapshot, after: &Snapshot) -> String {
    assert_eq!(
        before.frontends, after.frontends,
        "frontends and the ids of their targets"
    );
    let (mut targets, mut backends) = (0, BTreeSet::new());
    for (id, meta) in &before.meta_targets {
        assert_eq!(
            Some(meta),
            after.meta_targets.get(id),
            "target {id} is another's"
        );
        let service = String::from_utf8_lossy(&meta.service);
        if !cluster::is_kept(service.trim_end_matches('\0')) {
            continue;
        }
        targets += 1;
        let (old, new) = (before.target(*id), after.target(*id));
        assert_eq!(old, new, "target {id}");
        let slots: Vec<_> = before.slots_of(old.word).collect();
        assert_eq!(
            slots,
            after.slots_of(new.word).collect::<Vec<_>>(),
            "slots of target {id}"
        );
        for slot in slots {
            assert_eq!(before.backend(slot.backend), after.backend(slot.backend));
            assert_eq!(
                before.meta_backends.get(&slot.backend),
                after.meta_backends.get(&slot.backend)
            );
            backends.insert(slot.backend);
        }
    }
    assert!(targets > 0 && !backends.is_empty(), "nothing was compared");
    format!(
        "the same: {} frontends, and of Services without changes {targets} targets and {} backends",
        before.frontends.len(),
        backends.len()
    )
}

#[test]
fn a_killed_agent_is_not_missed_and_finds_its_way_back() -> Result<()> {
    restart("rskill", Source::Folder, Agent::kill9)
}

#[test]
fn an_agent_of_an_api_server_is_not_missed_either() -> Result<()> {
    restart("rsapi", Source::Api, Agent::kill9)
}

#[test]
fn a_stopped_agent_is_not_missed_and_finds_its_way_back() -> Result<()> {
    restart("rsterm", Source::Folder, |agent| {
        let status = agent.terminate()?;
        assert!(status.success(), "it ended with {status}");
        Ok(())
    })
}

#[test]
fn an_agent_that_is_killed_at_any_moment_leaves_nothing_half_done() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let cluster = Cluster::up("rsoften", Source::Folder)?;
    for agent in cluster.spawn_agents()? {
        agent.terminate()?;
    }
    let load = Load::start(&cluster)?;
    // From before it has read its arguments to long after it has programmed everything.
    let moments = [
        20, 100, 300, 600, 900, 1200, 1400, 1600, 1800, 2000, 2500, 3000,
    ];
    for (round, moment) in moments.into_iter().enumerate() {
        cluster.change_endpoints(round % 2 == 0)?;
        cluster.agent_for(Duration::from_millis(moment))?;
        let mut wrong = lint(&cluster.snapshot("worker-1"));
        // What an update that was cut short has in hand, the next start sweeps up.
        wrong.retain(|violation| !violation.is_transient());
        assert!(wrong.is_empty(), "killed after {moment} ms: {wrong:?}");
    }
    cluster.change_endpoints(true)?;
    let agents = cluster.spawn_agents()?;
    eventually("new endpoints are used", PROGRAMMED, || {
        cluster.endpoints_are_used(true)
    })?;
    load.check("after the last start");
    let left = lint(&cluster.snapshot("worker-1"));
    assert!(left.is_empty(), "after the last start: {left:?}");
    eprintln!("rsoften: {}", load.finish());
    drop(agents);
    Ok(())
}

#[test]
fn cleanup_leaves_nothing() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let cluster = Cluster::up("rsclean", Source::Folder)?;
    let agents = cluster.spawn_agents()?;
    let node = cluster.lab.node("worker-1");
    let bpffs = node.bpffs().to_str().expect("a plain path");
    let reached = |client: &str| -> Result<bool> {
        let mut all = true;
        for family in Family::ALL {
            let to = cluster::cluster_ip(1, family);
            let request = TcpRequest::to(to).timeout(Duration::from_millis(500));
            all &= cluster.client(client).tcp_all(request)?[0].outcome.is_ok();
        }
        Ok(all)
    };
    for client in ["worker-1", "sockets", "packets"] {
        assert!(reached(client)?, "{client}");
    }
    let refused = agent_command(node, ["cleanup", "--bpffs", bpffs]);
    assert!(
        refused.is_err(),
        "cleanup under a running agent: {refused:?}"
    );
    for agent in agents {
        agent.terminate()?;
    }
    for client in ["worker-1", "sockets", "packets"] {
        assert!(reached(client)?, "{client}, without an agent");
    }
    let said = agent_command(node, ["cleanup", "--bpffs", bpffs])?;
    eprintln!("cleanup said: {}", said.trim());
    assert!(!PinFolder::new(bpffs).root().exists(), "pins are left");
    let left: Vec<_> = std::fs::read_dir(node.bpffs())
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    assert!(left.is_empty(), "{left:?}");
    for device in [
        "eth0",
        &node.device_of("packets"),
        &node.device_of("sockets"),
    ] {
        for side in [AttachType::TcxIngress, AttachType::TcxEgress] {
            let ifindex = cluster.ifindex("worker-1", device)?;
            let chain = node.netns().run(|| Ok(link::tcx_chain(ifindex, side)))?;
            assert_eq!(chain.expect("can be asked for"), [], "{device} {side:?}");
        }
    }
    for client in ["worker-1", "sockets", "packets"] {
        assert!(!reached(client)?, "{client} still reaches the ClusterIP");
    }
    // Twice does no harm, and an agent starts from nothing.
    agent_command(node, ["cleanup", "--bpffs", bpffs])?;
    let agents = cluster.spawn_agents()?;
    for client in ["worker-1", "sockets", "packets"] {
        assert!(reached(client)?, "{client}, after a new start");
    }
    drop(agents);
    Ok(())
}

/// Maps of another version can't be taken over. It serves until this one does, and then goes.
#[test]
fn p4_a_version_with_other_maps_is_replaced_and_leaves_nothing() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let cluster = Cluster::up("rsold", Source::Folder)?;
    let node = cluster.lab.node("worker-1");
    for agent in cluster.spawn_agents()? {
        agent.terminate()?;
    }
    // What an agent of another version would have left: the same, under another name.
    let root = PinFolder::new(node.bpffs()).root();
    let other = node.bpffs().join("v0");
    std::fs::rename(&root, &other).expect("pins can be renamed");
    let agents = cluster.spawn_agents()?;
    assert!(!other.exists(), "pins of the other version are left");
    for device in ["eth0", &node.device_of("packets")] {
        for side in [AttachType::TcxIngress, AttachType::TcxEgress] {
            let ifindex = cluster.ifindex("worker-1", device)?;
            let chain = node.netns().run(|| Ok(link::tcx_chain(ifindex, side)))?;
            let programs = chain.expect("can be asked for");
            assert_eq!(programs.len(), 1, "{device} {side:?}: {programs:?}");
        }
    }
    for client in ["worker-1", "sockets", "packets"] {
        for family in Family::ALL {
            let request = TcpRequest::to(cluster::cluster_ip(1, family));
            let exchange = &cluster.client(client).tcp_all(request)?[0];
            assert!(exchange.outcome.is_ok(), "{client}: {exchange:?}");
        }
    }
    drop(agents);
    Ok(())
}

/// Kernels before 6.6 have no tcx: filters of a clsact qdisc do its work, beside those of others. A restart replaces them in
/// place, and may go from the one to the other.
#[test]
fn p4_filters_are_replaced_in_place_and_give_way_to_tcx_and_back() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let cluster = Cluster::up("rstc", Source::Folder)?;
    let node = cluster.lab.node("worker-1");
    let (packets, sockets) = (node.device_of("packets"), node.device_of("sockets"));
    // Others before and behind on the uplink; the first place is taken by another kind on a pod's device.
    for (side, _) in SIDES {
        tc::add_other(&cluster, "eth0", side, 1, tc::PROGRAM)?;
        tc::add_other(&cluster, "eth0", side, 0xc000, tc::PROGRAM)?;
    }
    tc::add_other(&cluster, &packets, "ingress", 1, tc::OTHER_KIND)?;

    let places = [
        ("eth0", SIDES[0], "tc_uplink_ingress", 1, (0, 2)),
        ("eth0", SIDES[1], "tc_egress", 0xfff0, (2, 0)),
        (&*packets, SIDES[0], "tc_pod_ingress", 2, (0, 0)),
        (&*packets, SIDES[1], "tc_egress", 0xfff0, (0, 0)),
        (&*sockets, SIDES[0], "tc_pod_ingress", 1, (0, 0)),
        (&*sockets, SIDES[1], "tc_egress", 0xfff0, (0, 0)),
    ];
    // Returns the ids of the programs.
    let assert_filters = || -> Result<Vec<u64>> {
        let mut programs = Vec::new();
        for (device, side, name, priority, (before, behind)) in places {
            let attached = Attached::of(&cluster, device, side)?;
            let ours = attached.ours.first().cloned();
            let ours = ours.unwrap_or_else(|| panic!("{device} {side:?}: {attached:?}"));
            let expected = Attached {
                links: 0,
                ours: vec![tc::Ours {
                    priority,
                    name: name.to_owned(),
                    ..ours
                }],
                before,
                behind,
            };
            assert_eq!(attached, expected, "{device} {side:?}");
            programs.push(ours.program);
        }
        Ok(programs)
    };
    let assert_none = |links: usize| -> Result<()> {
        for (device, side, _, _, (before, behind)) in places {
            let expected = Attached {
                links,
                ours: Vec::new(),
                before: before + behind,
                behind: 0,
            };
            let attached = Attached::of(&cluster, device, side)?;
            assert_eq!(attached, expected, "{device} {side:?}");
        }
        // The qdisc goes where nothing else is on it.
        let left = ["eth0", &packets, &sockets].map(|d| Attached::has_qdisc(&cluster, d));
        assert_eq!(
            left.into_iter().collect::<Result<Vec<_>>>()?,
            [true, true, false]
        );
        Ok(())
    };

    let mut agents = cluster.spawn_agents_with(["--tc", "clsact"])?;
    let first = assert_filters()?;
    let load = Load::start(&cluster)?;
    let restart = |agents: &mut Vec<Agent>, mode| -> Result<()> {
        for agent in std::mem::take(agents) {
            agent.kill9()?;
        }
        *agents = cluster.spawn_agents_with(["--tc", mode])?;
        Ok(())
    };
    restart(&mut agents, "clsact")?;
    for program in assert_filters()? {
        assert!(
            !first.contains(&program),
            "a program of the agent before is left"
        );
    }
    cluster.change_endpoints(true)?;
    eventually("new endpoints are used", PROGRAMMED, || {
        cluster.endpoints_are_used(true)
    })?;
    std::thread::sleep(Duration::from_secs(1));
    load.check("after the restart");
    eprintln!("rstc: {}", load.finish());
    // In the moment in which both are there, a datagram may be lost (ADR 3).
    restart(&mut agents, "tcx")?;
    assert_none(1)?;
    assert!(cluster.endpoints_are_used(true)?, "by tcx");
    restart(&mut agents, "clsact")?;
    assert_filters()?;
    assert!(cluster.endpoints_are_used(true)?, "by filters again");
    for agent in agents {
        agent.terminate()?;
    }
    let bpffs = node.bpffs().to_str().expect("a plain path");
    agent_command(node, ["cleanup", "--bpffs", bpffs])?;
    assert_none(0)
}
