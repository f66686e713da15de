//! The thread that keeps the rules right.

use std::{collections::BTreeSet, io, thread, time::Duration};

use tokio::{runtime, sync::oneshot, time};

use super::{
    Rules,
    events::Events,
    review::{Review, RuleError},
    tools::Installed,
};
use crate::telemetry::chain;

/// How long after a change it is looked again, so that a burst of changes is one.
const BURST: Duration = Duration::from_secs(1);
/// How often it is looked without an event.
const REVIEW: Duration = Duration::from_mins(1);
/// The same, where the kernel tells nothing: chains of iptables-legacy.
const REVIEW_LEGACY: Duration = Duration::from_secs(5);

/// Why the rules are not looked after.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The thread.
    #[error("could not start the thread that looks after rules of netfilter")]
    Thread(#[source] io::Error),
}

/// Looks after the rules of the network namespace that it was started in, until it is dropped. The rules stay.
#[derive(Debug)]
pub struct Keeper {
    _stop: oneshot::Sender<()>,
}

impl Keeper {
    /// Starts the thread. Programs are run there, so nobody waits for them. Of kinds that are not wanted, what an earlier run
    /// left is removed.
    pub fn start(rules: impl IntoIterator<Item = Rules>) -> Result<Self, KeeperError> {
        let (stop, stopped) = oneshot::channel();
        let kept: Vec<Kept> = rules.into_iter().map(Kept::new).collect();
        thread::Builder::new()
            .name("netfilter".to_owned())
            .spawn(move || keep(kept, stopped))
            .map_err(KeeperError::Thread)?;
        Ok(Self { _stop: stop })
    }
}

fn keep(mut kept: Vec<Kept>, mut stopped: oneshot::Receiver<()>) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "rules of netfilter are not looked after");
            return;
        }
    };
    runtime.block_on(async {
        // Without nftables in the kernel there is nothing to hear of.
        let events = Events::open().ok();
        loop {
            let mut most = REVIEW;
            for one in &mut kept {
                if one.look() {
                    most = REVIEW_LEGACY;
                }
            }
            // What is not wanted was removed, and does not come back by itself.
            kept.retain(|one| one.rules.are_wanted());
            if kept.is_empty() {
                return;
            }
            tokio::select! {
                // Dropped, by the agent's end.
                _ = &mut stopped => return,
                () = until_it_may_differ(events.as_ref(), most) => {}
            }
        }
    });
}

async fn until_it_may_differ(events: Option<&Events>, most: Duration) {
    match events {
        Some(events) => {
            events.wait(most).await;
            time::sleep(BURST).await;
            events.forget();
        }
        None => time::sleep(most).await,
    }
}

/// Rules, and what was said of them: everything is said once.
struct Kept {
    rules: Rules,
    told: BTreeSet<RuleError>,
}

impl Kept {
    const fn new(rules: Rules) -> Self {
        Self {
            rules,
            told: BTreeSet::new(),
        }
    }

    /// One look; says whether the kernel does not tell when something changes.
    fn look(&mut self) -> bool {
        let Review {
            changed,
            errors,
            legacy,
        } = self.rules.review(&Installed);
        for changed in changed {
            tracing::info!("{changed}");
        }
        if !self.rules.are_wanted() {
            for error in errors {
                tracing::debug!(
                    error = chain(&error),
                    "rules of an earlier run can't be looked for"
                );
            }
            return false;
        }
        let errors: BTreeSet<_> = errors.into_iter().collect();
        for error in errors.difference(&self.told) {
            tracing::warn!(error = chain(error), "{}", self.rules.advice());
        }
        self.told = errors;
        legacy
    }
}
