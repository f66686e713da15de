//! The story, part by part. Every sentence with a mark is an outcome that was looked at, not foretold.

mod cluster_ip;
mod crash;
mod discovery;
mod evidence;
mod kinds;
mod load_balancer;
mod maps;
mod names;
mod node_port;
mod restart;
mod rollout;

use std::time::{Duration, Instant};

use proxy_lab::{Result, TcpRequest};

use crate::terminal::{Terminal, seconds};
use crate::world::{NODES, Stage};
use evidence::{address, failures};

/// Frontends of the examples, IPv4 and IPv6.
const MLFLOW: (&str, &str) = ("10.96.50.10:5000", "[fd00:10:96::5010]:5000");
const GRAFANA: (&str, &str) = ("203.0.113.10:80", "[2001:db8:113::10]:80");
const RANKER: &str = "10.96.50.40:7000";
const NODE_PORT: u16 = 30001;

/// The label that identifies an application.
const NAME: &str = "app.kubernetes.io/name";

/// Connections of a chart.
const MANY: usize = 60;
/// Connections that are held while something ends.
const HELD: usize = 30;
/// How long a change may take to arrive.
const ARRIVES: Duration = Duration::from_secs(20);
/// How long held connections may take to answer.
const ANSWERS: Duration = Duration::from_secs(3);

/// Tells it all.
pub fn tell(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    before(stage, terminal)?;
    agents(stage, terminal)?;
    cluster_ip::tell(stage, terminal)?;
    node_port::tell(stage, terminal)?;
    load_balancer::tell(stage, terminal)?;
    discovery::tell(stage, terminal)?;
    kinds::tell(stage, terminal)?;
    crash::tell(stage, terminal)?;
    rollout::tell(stage, terminal)?;
    restart::tell(stage, terminal)?;
    maps::tell(stage, terminal)
}

fn before(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    terminal.part("00  Without a proxy");
    let to = address(MLFLOW.0);
    let request = TcpRequest::to(to).timeout(Duration::from_millis(500));
    let attempts = stage.lab().pod("notebook").tcp_all(request)?;
    let text = format!(
        "pod notebook cannot reach mlflow at {to}{}",
        failures(&attempts)
    );
    terminal.observe(
        attempts.iter().all(|attempt| attempt.outcome.is_err()),
        &text,
    );
    Ok(())
}

fn agents(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    let start = Instant::now();
    let agents = stage.start_agents()?;
    let text = format!(
        "an agent on each of {} nodes has programmed the kernel, {} after their start",
        NODES.len(),
        seconds(start.elapsed())
    );
    terminal.observe(agents == NODES.len(), &text);
    Ok(())
}

/// Shows the command that corresponds to the last action.
fn shown(terminal: &Terminal, command: &str) {
    terminal.quote(&folded(&format!("$ {command}")));
}

/// Folds a long line after commas.
fn folded(line: &str) -> String {
    const WIDTH: usize = 100;
    let mut lines = vec![String::new()];
    for piece in line.split_inclusive(',') {
        let last = lines.last().map_or(0, String::len);
        if last > 0 && last + piece.len() > WIDTH {
            lines.push("    ".to_owned());
        }
        if let Some(last) = lines.last_mut() {
            last.push_str(piece);
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_commands_are_folded_and_short_ones_not() {
        let words = vec!["word"; 40].join(",");
        let lines = folded(&words);
        assert!(lines.lines().count() > 1 && lines.lines().all(|line| line.len() <= 100));
        assert_eq!(lines.replace("\n    ", ""), words);
        assert_eq!(folded("a,b"), "a,b");
    }
}
