//! 01: a Service inside the cluster, and a replica that is not ready for a while.

use std::time::Instant;

use proxy_lab::{Family, Result, TcpRequest};

use super::evidence::{
    address, all_answered, backends, clients, failures, servers, until_programmed,
};
use super::{MANY, MLFLOW, NAME};
use crate::terminal::{Terminal, say, seconds};
use crate::world::Stage;

pub fn tell(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    terminal.part("01  ClusterIP: MLflow, port 5000, three replicas on two workers");
    spread(stage, terminal)?;
    everybody(stage, terminal)?;
    readiness(stage, terminal)
}

fn spread(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    let (v4, v6) = (address(MLFLOW.0), address(MLFLOW.1));
    let notebook = stage.lab().pod("notebook");
    say(&format!(
        "pod notebook ({}, worker-1) connects to {v4}, {MANY} times:",
        notebook.addresses().v4
    ));
    let exchanges = notebook.tcp_all(TcpRequest::to(v4).times(MANY))?;
    let counts = servers(&exchanges);
    terminal.chart(&counts, |name| {
        let place = stage.world.place(name);
        place.map_or_else(String::new, |place| place.to_string())
    });
    let replicas = stage.world.pods(&[(NAME, "mlflow")])?;
    let spread = replicas.len() == 3
        && counts.keys().eq(replicas.iter())
        && counts.values().all(|&count| count >= MANY / 10);
    terminal.observe(
        all_answered(&exchanges),
        &format!(
            "all {MANY} connections were answered{}",
            failures(&exchanges)
        ),
    );
    terminal.observe(spread, "each of the three replicas has a share");
    let own = notebook.ip(Family::V4);
    terminal.observe(
        clients(&exchanges) == [own].into(),
        &format!("the replicas see the pod itself as the client, {own}"),
    );
    let kept = exchanges.iter().all(|exchange| exchange.peer == Some(v4));
    terminal.observe(
        kept,
        &format!("the pod's sockets say that they are connected to {v4}"),
    );
    let exchanges = notebook.tcp_all(TcpRequest::to(v6).times(10))?;
    terminal.observe(
        all_answered(&exchanges),
        &format!("the same over IPv6, {v6}{}", failures(&exchanges)),
    );
    Ok(())
}

fn everybody(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    let v4 = address(MLFLOW.0);
    let sandbox = stage.lab().pod("sandbox");
    let exchanges = sandbox.tcp_all(TcpRequest::to(v4).times(10))?;
    let own = sandbox.ip(Family::V4);
    let text = format!(
        "a sandboxed pod (as of Kata or gVisor: the node has no hold of its sockets) is served packet by packet{}",
        failures(&exchanges)
    );
    terminal.observe(
        all_answered(&exchanges) && clients(&exchanges) == [own].into(),
        &text,
    );
    let exchanges = stage
        .lab()
        .node("worker-2")
        .tcp_all(TcpRequest::to(v4).times(10))?;
    terminal.observe(
        all_answered(&exchanges),
        &format!(
            "processes of a node itself reach it too{}",
            failures(&exchanges)
        ),
    );
    Ok(())
}

fn readiness(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    let to = address(MLFLOW.0);
    let pods = stage.world.pods(&[(NAME, "mlflow")])?;
    let Some(pod) = pods.last() else {
        return Ok(());
    };
    let start = Instant::now();
    stage.world.set_ready(pod, false)?;
    until_programmed(stage, "it leaves the maps", |report| {
        backends(report, to).len() == 2
    })?;
    let took = start.elapsed();
    let exchanges = stage
        .lab()
        .pod("notebook")
        .tcp_all(TcpRequest::to(to).times(MANY))?;
    let counts = servers(&exchanges);
    let text = format!(
        "{pod} is not ready any more: {} later it is out of the maps of all nodes, and the other two answer all of {MANY} connections{}",
        seconds(took),
        failures(&exchanges)
    );
    terminal.observe(
        all_answered(&exchanges) && counts.len() == 2 && !counts.contains_key(pod),
        &text,
    );
    stage.world.set_ready(pod, true)?;
    until_programmed(stage, "it is back in the maps", |report| {
        backends(report, to).len() == 3
    })?;
    terminal.observe(true, "it is ready again, and back");
    Ok(())
}
