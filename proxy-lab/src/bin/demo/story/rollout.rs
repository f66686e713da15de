//! 07: the Service update pattern: the selector moves from one version to the next.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use proxy_lab::{ProbeRequest, Protocol, Result, TcpRequest};
use serde_json::json;

use super::evidence::{address, all_answered, backends, failures, servers, until_programmed};
use super::{ANSWERS, MANY, NAME, RANKER, shown};
use crate::terminal::{Terminal, say, seconds};
use crate::world::Stage;

const VERSION: &str = "app.kubernetes.io/version";
/// Connections that are held to the old version.
const HELD: usize = 10;

pub fn tell(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    terminal.part("07  A Service moves to another version: ranker, v1 → v2");
    let to = address(RANKER);
    let notebook = stage.lab().pod("notebook");
    let (v1, v2) = (pods(stage, "v1")?, pods(stage, "v2")?);
    let exchanges = notebook.tcp_all(TcpRequest::to(to).times(MANY))?;
    terminal.observe(
        all_answered(&exchanges) && servers(&exchanges).keys().eq(v1.iter()),
        &format!(
            "{to} is answered by v1 alone, {}{}",
            v1.join(" and "),
            failures(&exchanges)
        ),
    );
    let hold = notebook.hold(TcpRequest::to(to).times(HELD))?;
    let probe = notebook.probe(ProbeRequest {
        protocol: Protocol::Tcp,
        to,
        interval: Duration::from_millis(10),
        timeout: ANSWERS,
    })?;
    say("while pod notebook goes on connecting, a hundred times a second, the selector changes:");
    let start = Instant::now();
    let patch = json!({"spec": {"selector": {VERSION: "v2"}}});
    stage
        .world
        .patch("service", "mlops", "ranker", patch.clone())?;
    shown(
        terminal,
        &format!("kubectl -n mlops patch service ranker --type merge -p '{patch}'"),
    );
    let places = v2.iter().filter_map(|pod| stage.world.place(pod));
    let wanted: BTreeSet<IpAddr> = places.map(|place| place.address).collect();
    until_programmed(stage, "v2 alone is in the maps", |report| {
        backends(report, to) == wanted
    })?;
    let took = start.elapsed();
    let exchanges = notebook.tcp_all(TcpRequest::to(to).times(MANY))?;
    terminal.observe(
        all_answered(&exchanges) && servers(&exchanges).keys().eq(v2.iter()),
        &format!(
            "{} later only v2 answers, {}: all of {MANY} connections{}",
            seconds(took),
            v2.join(" and "),
            failures(&exchanges)
        ),
    );
    let probed = probe.stop()?;
    let both = v1
        .iter()
        .chain(&v2)
        .any(|pod| probed.servers.contains_key(pod));
    let why = probed
        .failures
        .first()
        .map(|(_, failure)| format!(" ({failure})"));
    terminal.observe(
        probed.ok == probed.attempts && probed.attempts > 0 && both,
        &format!(
            "{} of {} connections were answered meanwhile{}",
            probed.ok,
            probed.attempts,
            why.unwrap_or_default()
        ),
    );
    let checked = hold.check(ANSWERS)?;
    let still_v1 = servers(&checked).keys().all(|server| v1.contains(server));
    terminal.observe(
        checked.len() == HELD && all_answered(&checked) && still_v1,
        &format!(
            "what was connected to v1 before goes on with it: {HELD} connections{}",
            failures(&checked)
        ),
    );
    hold.close()
}

fn pods(stage: &Stage, version: &str) -> Result<Vec<String>> {
    stage.world.pods(&[(NAME, "ranker"), (VERSION, version)])
}
