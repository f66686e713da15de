//! The demo: Services at work in a lab. `cargo xtask demo` builds what it needs and runs it.

mod story;
mod terminal;
mod world;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use proxy_lab::sweep::{kept, take_down};
use proxy_lab::{LabError, Result};
use terminal::{Terminal, say, seconds};
use world::Stage;
use world::cluster::Cluster;
use world::files::Files;

const USAGE: &str = "\
Shows Services at work in a cluster of network namespaces (needs root).

usage: demo [--cluster] [--keep]           with --cluster, on a real control plane in place of files
       demo --enter HOST [COMMAND ARGS…]   a shell, or a command, in a pod or node of the cluster that was kept
       demo --down                         takes kept clusters down
";

enum Task {
    Show {
        cluster: bool,
        keep: bool,
    },
    Enter {
        host: String,
        command: Vec<OsString>,
    },
    Down,
    Help,
}

fn main() -> ExitCode {
    let Some(task) = task() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let result = match task {
        Task::Show { cluster, keep } => show(cluster, keep),
        Task::Enter { host, command } => enter(&host, &command),
        Task::Down => down(),
        Task::Help => {
            print!("{USAGE}");
            Ok(true)
        }
    };
    match result {
        _ if proxy_lab::interrupted() => {
            eprintln!("\ninterrupted; the cluster is gone");
            ExitCode::from(130)
        }
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nthe demo cannot go on: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

fn task() -> Option<Task> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let first = words.first().map_or(Some(""), |word| word.to_str())?;
    match first {
        "--enter" => {
            return Some(Task::Enter {
                host: words.get(1)?.to_str()?.to_owned(),
                command: words[2..].to_vec(),
            });
        }
        "--down" if words.len() == 1 => return Some(Task::Down),
        "--help" | "-h" => return Some(Task::Help),
        _ => {}
    }
    let (mut cluster, mut keep) = (false, false);
    for word in &words {
        match word.to_str()? {
            "--cluster" => cluster = true,
            "--keep" => keep = true,
            _ => return None,
        }
    }
    Some(Task::Show { cluster, keep })
}

/// Whether all outcomes were observed.
fn show(cluster: bool, keep: bool) -> Result<bool> {
    proxy_lab::take_down_on_signals()?;
    let mut terminal = Terminal::new();
    terminal.title(
        "Kubernetes Services in eBPF, without kube-proxy",
        "a control plane, two workers and a workstation outside, as network namespaces of this machine",
    );
    let start = Instant::now();
    let stage = if cluster {
        Stage::new(Cluster::build()?)?
    } else {
        Stage::new(Files::build()?)?
    };
    say(&format!(
        "{} are up in {}",
        stage.world.describe(),
        seconds(start.elapsed())
    ));
    let told = story::tell(&stage, &mut terminal);
    if told.is_err() && !proxy_lab::interrupted() {
        stage.lab().print_agent_logs();
    }
    told?;
    let all = terminal.end();
    if !all {
        stage.lab().print_agent_logs();
    }
    if keep {
        explain_entering(&stage);
        stage.world.keep()?;
    }
    Ok(all)
}

fn explain_entering(stage: &Stage) {
    let program = std::env::args().next().unwrap_or_else(|| "demo".to_owned());
    println!("\nThe cluster stays up:");
    println!(
        "  {program} --enter notebook                              a shell in a pod (or sandbox, mlflow-0, …)"
    );
    println!("  {program} --enter notebook curl http://mlflow:5000      a Service from there");
    println!("  {program} --enter workstation curl http://203.0.113.10");
    println!("  {program} --enter worker-1 tc filter show dev eth0      a node");
    println!("  {}", stage.world.hint(&program));
    println!("  {program} --down                                        takes it down");
}

fn enter(host: &str, command: &[OsString]) -> Result<bool> {
    let prefix = kept()
        .pop()
        .ok_or_else(|| LabError::Topology("no cluster is up; start one with --keep".to_owned()))?;
    Err(proxy_lab::enter(&prefix, host, command))
}

fn down() -> Result<bool> {
    let kept = kept();
    if kept.is_empty() {
        println!("no cluster is up");
    }
    for prefix in kept {
        take_down(&prefix)?;
        println!("{prefix} is gone");
    }
    Ok(true)
}
