//! Programs of others stay and work, in their places, while ours come, are restarted, replaced and removed (semantics P4).

use std::net::SocketAddr;

use proxy_agent::dataplane::sys::link::AttachType;
use proxy_lab::{
    Cni, Family, Lab, Result, TcpRequest, address, agent_binary, agent_command, skipped,
};

use crate::watch::{Watch, mac};
use crate::{PORT, TARGET_PORT, agent_options, lab, start_agent};

/// A conversation between pods, by the Service or without it, that every watched place sees.
fn talk(lab: &Lab, places: &[(&str, Watch<'_>)], when: &str, by_service: bool) -> Result<()> {
    let (a, server) = (lab.pod("a"), lab.pod("server"));
    let before: Vec<_> = places.iter().map(|(_, watch)| watch.settled()).collect();
    for family in Family::ALL {
        let to = if by_service {
            SocketAddr::new(address::cluster_ip(1).of(family), PORT)
        } else {
            server.at(family, TARGET_PORT)
        };
        for exchange in a.tcp_all(TcpRequest::to(to).times(3))? {
            assert_eq!(exchange.server(), Some("server"), "{when}: {exchange:?}");
        }
    }
    for ((what, watch), before) in places.iter().zip(before) {
        let after = watch.settled();
        for (place, (after, before)) in after.iter().zip(before).enumerate() {
            let seen = (*after - before).frames;
            assert!(seen >= 6, "{when}: {what}: place {place} saw {seen} frames");
        }
    }
    Ok(())
}

#[test]
fn p4_programs_of_others_stay_through_restarts_updates_and_cleanup() -> Result<()> {
    stay("chainstay", "auto", 1)
}

#[test]
fn p4_programs_of_others_stay_beside_filters_too() -> Result<()> {
    stay("chainstayf", "clsact", 0)
}

/// `links`: how many of ours are in a tcx chain.
fn stay(label: &str, tc: &str, links: usize) -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab(label, Cni::Ptp)?;
    let node = lab.node("worker-1");
    let (a, server) = (lab.pod("a"), lab.pod("server"));
    let (to_a, to_server) = (node.device_of("a"), node.device_of("server"));
    let places = [
        ("a sends", &to_a, AttachType::TcxIngress, mac(a, "eth0")),
        (
            "to the server",
            &to_server,
            AttachType::TcxEgress,
            mac(node, &to_server),
        ),
        (
            "the server sends",
            &to_server,
            AttachType::TcxIngress,
            mac(server, "eth0"),
        ),
        ("to a", &to_a, AttachType::TcxEgress, mac(node, &to_a)),
    ]
    .map(|(what, device, side, sender)| (what, Watch::on(node, device, side, sender)));
    let ours = |when: &str, links: usize| {
        for (what, watch) in &places {
            watch.assert_others(&format!("{when}: {what}"), links);
        }
    };
    ours("without us", 0);
    talk(&lab, &places, "without us", false)?;

    let agent = start_agent(&lab, tc)?;
    ours("attached", links);
    talk(&lab, &places, "attached", true)?;

    agent.kill9()?;
    ours("killed", links);
    talk(&lab, &places, "killed", true)?;

    let agent = start_agent(&lab, tc)?;
    ours("restarted", links);
    talk(&lab, &places, "restarted", true)?;

    // Another build of it, which replaces the programs in their links.
    agent.terminate()?;
    let other = lab.temp().join("another-agent");
    std::fs::copy(agent_binary()?, &other).expect("a copy");
    let agent = node.spawn_agent(&agent_options(&lab, tc)?.binary(&other))?;
    ours("updated", links);
    talk(&lab, &places, "updated", true)?;

    agent.terminate()?;
    let bpffs = node.bpffs().display().to_string();
    agent_command(node, ["cleanup", "--bpffs", &bpffs])?;
    ours("cleaned up", 0);
    talk(&lab, &places, "cleaned up", false)
}
