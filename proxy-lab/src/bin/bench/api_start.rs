//! Start with many Services at the API server: time until all are programmed, and memory.

use proxy_lab::{ControlPlane, Lab, LabError, Memory, Result, agent_command};

use crate::cluster::{self, NODE, SERVERS};
use crate::figures::{cpu_time, megabytes};

/// Prints a table: no Services, then `count` of them, from nothing and as a restart.
pub fn run(count: usize) -> Result<()> {
    let lab = cluster::lab("start")?;
    let control_plane = cluster::control_plane(&lab)?;
    println!(
        "\n| Services × endpoints | in the maps before | ready s | CPU s | RSS MB | at most | of it its own | a Service KB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let base = start(&lab, control_plane, (0, "nothing"), None)?;
    let took = cluster::create(control_plane, &lab, "web", count, &SERVERS)?;
    eprintln!("{count} Services were written in {took:?}");
    start(&lab, control_plane, (count, "nothing"), Some(base))?;
    start(&lab, control_plane, (count, "all"), Some(base)).map(drop)
}

/// Starts an agent, prints what it took, and returns its own memory in MB.
fn start(
    lab: &Lab,
    control_plane: &ControlPlane,
    (services, before): (usize, &str),
    base: Option<f64>,
) -> Result<f64> {
    let (agent, ready) = cluster::agent(lab, control_plane)?;
    let cpu = cpu_time(agent.pid());
    let memory = Memory::of(agent.pid()).ok_or_else(|| {
        LabError::Topology("the agent has ended while it was measured".to_owned())
    })?;
    let [now, most, own] = [memory.resident, memory.peak, memory.anonymous].map(megabytes);
    let count = f64::from(u32::try_from(services).unwrap_or(u32::MAX));
    let each = base.map_or_else(String::new, |base| {
        format!("{:.1}", (own - base) * 1000.0 / count)
    });
    println!(
        "| {services} × {} | {before} | {:.2} | {:.2} | {now:.0} | {most:.0} | {own:.0} | {each} |",
        SERVERS.len(),
        ready.as_secs_f64(),
        cpu.as_secs_f64(),
    );
    verify(lab, services)?;
    agent.terminate()?;
    Ok(own)
}

/// Whether the maps have them all; the API server's own Service is one more.
fn verify(lab: &Lab, services: usize) -> Result<()> {
    let node = lab.node(NODE);
    let pins = node.bpffs().display().to_string();
    let text = agent_command(node, ["services", "--bpffs", &pins, "-o", "json"])?;
    let output: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let frontends = output["frontends"].as_array().into_iter().flatten();
    let whole = frontends
        .filter(|frontend| {
            frontend["service"]
                .as_str()
                .is_some_and(|name| name.starts_with("default/web-"))
        })
        .filter(|frontend| {
            frontend["backends"]
                .as_array()
                .is_some_and(|list| list.len() == SERVERS.len())
        });
    let found = whole.count();
    if found == services {
        Ok(())
    } else {
        Err(LabError::Topology(format!(
            "{found} of {services} Services are programmed when the agent says that it is ready"
        )))
    }
}
