//! A rolling update to another build of the agent, node by node, under load, as a DaemonSet's controller does it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use aya::programs::loaded_programs;
use proxy_agent::dataplane::sys::link::{self, AttachType};
use proxy_agent::dataplane::xdp::program_on;
use proxy_lab::{Lab, Result, agent_binary, control_plane, eventually, skipped};

use crate::cluster::{Cluster, NODES, Source};
use crate::load::Load;
use crate::{GONE, PROGRAMMED};

/// Names the agent of another build. Without it a copy of this one stands in, whose programs are the same.
const OTHER: &str = "PROXY_LAB_OTHER_AGENT";

/// Hashes of the instructions of what is attached to a node's uplink: by XDP, and for either direction by tc.
fn tags(cluster: &Cluster, node: &str) -> Result<Vec<u64>> {
    let ifindex = cluster.ifindex(node, "eth0")?;
    let attached = cluster.lab.node(node).netns().run(|| {
        let mut programs = vec![program_on(ifindex)];
        for side in [AttachType::TcxIngress, AttachType::TcxEgress] {
            let chain = link::tcx_chain(ifindex, side).expect("can be asked for");
            programs.extend(chain.iter().map(|one| Ok(Some(one.program))));
        }
        Ok(programs)
    })?;
    let loaded: HashMap<_, _> = loaded_programs()
        .filter_map(|info| info.ok().map(|info| (info.id(), info.tag())))
        .collect();
    let tag = |id: std::io::Result<Option<u32>>| {
        let id = id.expect("can be asked for").expect("is attached");
        loaded[&id]
    };
    Ok(attached.into_iter().map(tag).collect())
}

#[test]
fn a_rolling_update_to_another_build_is_not_noticed() -> Result<()> {
    if skipped() || control_plane::skipped() {
        return Ok(());
    }
    let cluster = Cluster::up_on(Lab::builder("rsupdate").fit_for_xdp(), Source::Api)?;
    let named = std::env::var_os(OTHER).map(PathBuf::from);
    let differs = named.is_some();
    let other = named.unwrap_or_else(|| {
        let copy = cluster.lab.temp().join("another-agent");
        std::fs::copy(agent_binary().expect("is built"), &copy).expect("a copy");
        copy
    });
    let options = cluster.agent_options().xdp("native");
    let mut agents = cluster.spawn_agents_with(["--xdp=native"])?;
    let before = NODES.map(|node| tags(&cluster, node).expect("are attached"));
    let load = Load::start(&cluster)?;
    std::thread::sleep(Duration::from_secs(1));

    // There and back again: what takes over from the older must take over from the newer, too.
    for (second, binary) in [(true, other), (false, agent_binary()?)] {
        let old = std::mem::take(&mut agents);
        for ((agent, node), before) in old.into_iter().zip(NODES).zip(&before) {
            // The old pod ends before the new one starts, while endpoints change.
            agent.terminate()?;
            cluster.change_endpoints(second)?;
            std::thread::sleep(GONE);
            let options = options.clone().binary(&binary);
            agents.push(cluster.lab.node(node).spawn_agent(&options)?);
            let now = tags(&cluster, node)?;
            assert_eq!(now.len(), 3, "{node}: {now:?}");
            assert_eq!(
                differs && second,
                now != *before,
                "programs on {node} after {binary:?}: {now:?}, {before:?} at first"
            );
            load.check(&format!("{node} runs {binary:?}"));
        }
        eventually("what changed is used", PROGRAMMED, || {
            cluster.endpoints_are_used(second)
        })?;
    }
    eprintln!("rsupdate, another build: {differs}; {}", load.finish());
    Ok(())
}
