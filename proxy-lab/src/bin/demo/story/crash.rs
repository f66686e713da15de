//! 06: a pod crashes, and another appears.

use std::time::Instant;

use proxy_lab::{Result, TcpRequest};

use super::evidence::{address, all_answered, backends, failures, servers, until_programmed};
use super::{ANSWERS, HELD, MANY, MLFLOW, NAME};
use crate::terminal::{Terminal, say, seconds};
use crate::world::Stage;

pub fn tell(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    terminal.part("06  A pod crashes, and another appears");
    let to = address(MLFLOW.0);
    let pods = stage.world.pods(&[(NAME, "mlflow")])?;
    let Some(victim) = pods.get(1) else {
        terminal.observe(false, "mlflow has a second replica");
        return Ok(());
    };
    let place = stage.world.place(victim);
    let notebook = stage.lab().pod("notebook");
    let hold = notebook.hold(TcpRequest::to(to).times(HELD))?;
    let of_victim: Vec<bool> = hold
        .opened
        .iter()
        .map(|exchange| exchange.server() == Some(victim))
        .collect();
    let lost = of_victim.iter().filter(|&&is| is).count();
    say(&format!(
        "pod notebook holds {HELD} connections to {to}, {lost} of them served by {victim}, whose process is killed:"
    ));
    let start = Instant::now();
    stage.world.crash(victim)?;
    until_programmed(stage, "the crashed pod leaves the maps", |report| {
        place
            .as_ref()
            .is_some_and(|place| !backends(report, to).contains(&place.address))
    })?;
    let took = start.elapsed();
    let checked = hold.check(ANSWERS)?;
    let as_expected = checked.len() == HELD
        && checked
            .iter()
            .zip(&of_victim)
            .all(|(exchange, of_victim)| exchange.outcome.is_err() == *of_victim);
    let text = format!(
        "the {} connections of the other replicas live, and no more than those {lost} are lost{}",
        HELD - lost,
        failures(&checked)
    );
    terminal.observe(all_answered(&hold.opened) && as_expected, &text);
    hold.close()?;
    let exchanges = notebook.tcp_all(TcpRequest::to(to).times(MANY))?;
    let counts = servers(&exchanges);
    let text = format!(
        "{} after the crash it is out of the maps of all nodes; the others answer all of {MANY} new connections{}",
        seconds(took),
        failures(&exchanges)
    );
    terminal.observe(
        all_answered(&exchanges) && counts.len() >= 2 && !counts.contains_key(victim),
        &text,
    );
    another(stage, terminal, &pods)
}

fn another(stage: &Stage, terminal: &mut Terminal, before: &[String]) -> Result<()> {
    let to = address(MLFLOW.0);
    let new = stage.world.replacement(&[(NAME, "mlflow")], before)?;
    let place = stage.world.place(&new);
    until_programmed(stage, "another pod is in the maps", |report| {
        let backends = backends(report, to);
        backends.len() == 3
            && place
                .as_ref()
                .is_some_and(|place| backends.contains(&place.address))
    })?;
    let notebook = stage.lab().pod("notebook");
    let exchanges = notebook.tcp_all(TcpRequest::to(to).times(MANY))?;
    let counts = servers(&exchanges);
    let place = place.map_or_else(String::new, |place| place.to_string());
    let text = format!(
        "{new} appears ({place}) and has its share: {} of {MANY}{}",
        counts.get(&new).copied().unwrap_or_default(),
        failures(&exchanges)
    );
    terminal.observe(
        all_answered(&exchanges) && counts.len() == 3 && counts.contains_key(&new),
        &text,
    );
    Ok(())
}
