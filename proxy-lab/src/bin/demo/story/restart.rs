//! 08: an agent restarts, and dies, under load.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use proxy_lab::protocol::ProbeReport;
use proxy_lab::{Exchange, Family, Hold, Host, Probe, ProbeRequest, Protocol, Result, TcpRequest};

use super::evidence::{address, all_answered, backends, failures, services, until_programmed};
use super::{ANSWERS, GRAFANA, HELD, MLFLOW, NAME, NODE_PORT};
use crate::terminal::{Terminal, say, seconds};
use crate::world::Stage;

/// Whose agent it is: clients are on it, and outside traffic comes in by it.
const NODE: &str = "worker-1";
/// Time between the starts of two new connections of a client.
const PACE: Duration = Duration::from_millis(10);
/// How long the node is without its agent.
const AWAY: Duration = Duration::from_secs(1);

/// A way into the cluster, with connections that are held and new ones all the time.
struct Load<'a> {
    kind: &'static str,
    to: SocketAddr,
    hold: Hold<'a>,
    probe: Probe<'a>,
}

pub fn tell(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    terminal.part(&format!(
        "08  The agent of {NODE} restarts, and dies, under load"
    ));
    let lab = stage.lab();
    let ways: [(&str, &Host, SocketAddr); 4] = [
        ("ClusterIP", lab.pod("notebook"), address(MLFLOW.0)),
        (
            "ClusterIP, packet by packet",
            lab.pod("sandbox"),
            address(MLFLOW.0),
        ),
        (
            "NodePort",
            lab.workstation(),
            lab.node(NODE).at(Family::V4, NODE_PORT),
        ),
        ("LoadBalancer", lab.workstation(), address(GRAFANA.0)),
    ];
    let loads = ways.map(|(kind, client, to)| load(kind, client, to));
    let loads: Vec<Load<'_>> = loads.into_iter().collect::<Result<_>>()?;
    say(&format!(
        "{HELD} connections are held and a hundred are opened each second by each of {} ways",
        loads.len()
    ));
    restart(stage, terminal)?;
    check(terminal, &loads, "after it")?;
    death(stage, terminal, &loads)?;
    for load in loads {
        let ProbeReport {
            attempts,
            ok,
            failures,
            ..
        } = load.probe.stop()?;
        let why = failures.first().map(|(_, failure)| format!(" ({failure})"));
        let text = format!(
            "{} {}: {ok} of {attempts} connections that were opened all the while were answered{}",
            load.kind,
            load.to,
            why.unwrap_or_default()
        );
        terminal.observe(ok == attempts && attempts > 100, &text);
        load.hold.close()?;
    }
    Ok(())
}

fn load<'a>(kind: &'static str, client: &'a Host, to: SocketAddr) -> Result<Load<'a>> {
    Ok(Load {
        kind,
        to,
        hold: client.hold(TcpRequest::to(to).times(HELD))?,
        probe: client.probe(ProbeRequest {
            protocol: Protocol::Tcp,
            to,
            interval: PACE,
            timeout: ANSWERS,
        })?,
    })
}

/// As an update of the `DaemonSet` does it.
fn restart(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    let start = Instant::now();
    let status = stage.take_agent(NODE)?.terminate()?;
    stage.start_agent(NODE)?;
    let text = format!(
        "it is told to end ({status}), and another is in charge {} later",
        seconds(start.elapsed())
    );
    terminal.observe(status.success(), &text);
    Ok(())
}

/// Kills the agent like the kernel's out-of-memory killer, and changes objects while it is gone.
fn death(stage: &Stage, terminal: &mut Terminal, loads: &[Load<'_>]) -> Result<()> {
    let to = address(MLFLOW.0);
    let pods = stage.world.pods(&[(NAME, "mlflow")])?;
    let Some(pod) = pods.last() else {
        return Ok(());
    };
    let agent = stage.take_agent(NODE)?;
    say(&format!("now it is killed (pid {}):", agent.pid()));
    agent.kill9()?;
    stage.world.set_ready(pod, false)?;
    thread::sleep(AWAY);
    check(terminal, loads, "without an agent")?;
    let report = services(stage, NODE)?;
    let frontends = report["frontends"].as_array().map_or(0, Vec::len);
    terminal.observe(
        frontends > 0 && backends(&report, to).len() == 3,
        &format!("`proxy-agent services` reads the maps without it: {frontends} frontends, as it left them"),
    );
    let start = Instant::now();
    stage.start_agent(NODE)?;
    let took = start.elapsed();
    until_programmed(stage, "what changed meanwhile is in the maps", |report| {
        backends(report, to).len() == 2
    })?;
    let text = format!(
        "a new one is in charge after {}, and knows that {pod} became unready meanwhile",
        seconds(took)
    );
    terminal.observe(true, &text);
    stage.world.set_ready(pod, true)?;
    until_programmed(stage, "the pod is back in the maps", |report| {
        backends(report, to).len() == 3
    })?;
    check(terminal, loads, "in the end")
}

/// Asks over all connections that are held.
fn check(terminal: &mut Terminal, loads: &[Load<'_>], when: &str) -> Result<()> {
    let opened = loads.iter().all(|load| all_answered(&load.hold.opened));
    let checked = loads.iter().map(|load| load.hold.check(ANSWERS));
    let held: Vec<Exchange> = checked.collect::<Result<Vec<_>>>()?.concat();
    let text = format!(
        "all {} held connections live {when}{}",
        held.len(),
        failures(&held)
    );
    let all = held.len() == HELD * loads.len();
    terminal.observe(opened && all && all_answered(&held), &text);
    Ok(())
}
