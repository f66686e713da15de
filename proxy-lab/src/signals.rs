//! Signals that end a program: its labs go first.

use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{LabError, Result};
use crate::naming::{self, FAMILY};
use crate::sweep;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on, SIGINT, SIGTERM and SIGHUP take down this process's labs. Pending operations in them fail
/// at once, and the program then ends by itself.
pub fn take_down_on_signals() -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(LabError::kernel("catching signals"))?;
    std::thread::Builder::new()
        .name("lab signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                INTERRUPTED.store(true, Ordering::Relaxed);
                for prefix in own_labs() {
                    // The lab's `drop` reports what could not be removed.
                    let _ = sweep::take_down(&prefix);
                }
            }
        })
        .map(drop)
        .map_err(LabError::kernel("starting a thread"))
}

/// Whether one of these signals arrived.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

fn own_labs() -> impl Iterator<Item = String> {
    let own = format!("-{}-", std::process::id());
    let labs = sweep::labs().into_iter().map(|(prefix, _)| prefix);
    labs.filter(move |prefix| {
        prefix[FAMILY.len()..].contains(&own) && naming::owner(prefix) == naming::Owner::Alive
    })
}
