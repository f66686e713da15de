//! The last chapter: what the kernel's maps contain.

use proxy_lab::{Result, agent_command};

use super::evidence::{address, backends, folded_ipv4, services};
use super::{GRAFANA, MLFLOW, RANKER};
use crate::terminal::{Terminal, say};
use crate::world::Stage;

pub fn tell(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    terminal.part("What is in the maps of worker-1");
    let node = stage.lab().node("worker-1");
    let table = agent_command(
        node,
        [
            "services",
            "--bpffs",
            &node.bpffs().display().to_string(),
            "-o",
            "table",
        ],
    )?;
    let (shown, others) = folded_ipv4(&table);
    say("proxy-agent services, read from the kernel alone:");
    terminal.quote(&shown);
    say(&format!("… and {others} more for IPv6"));
    let report = services(stage, "worker-1")?;
    let expected = [
        (MLFLOW.0, 3),
        (MLFLOW.1, 3),
        ("172.30.0.11:30001", 1),
        (GRAFANA.0, 1),
        (GRAFANA.1, 1),
        (RANKER, 2),
    ];
    let right = expected
        .iter()
        .all(|(frontend, count)| backends(&report, address(frontend)).len() == *count);
    terminal.observe(
        right,
        "the frontends that were used above are there, with their backends",
    );
    Ok(())
}
