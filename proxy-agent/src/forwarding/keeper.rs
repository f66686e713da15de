//! The thread that keeps the chains right.

use std::{collections::BTreeSet, io, thread, time::Duration};

use tokio::{runtime, sync::oneshot, time};

use super::{
    ForwardError, ManageForward,
    events::Events,
    review::{Review, review},
    tools::Installed,
};
use crate::{dataplane::settings::ForwardMark, telemetry::chain};

/// How long after a change it is looked again, so that a burst of changes is one.
const BURST: Duration = Duration::from_secs(1);
/// How often it is looked without an event.
const REVIEW: Duration = Duration::from_mins(1);
/// The same, where the kernel tells nothing: chains of iptables-legacy.
const REVIEW_LEGACY: Duration = Duration::from_secs(5);

/// Why the chains are not looked after.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The thread.
    #[error("could not start the thread that looks after FORWARD chains")]
    Thread(#[source] io::Error),
}

/// Looks after the chains of the network namespace that it was started in, until it is dropped. The rules stay.
#[derive(Debug)]
pub struct Keeper {
    _stop: oneshot::Sender<()>,
}

impl Keeper {
    /// Starts the thread. Programs are run there, so nobody waits for them.
    pub fn start(manage: ManageForward, mark: ForwardMark) -> Result<Self, KeeperError> {
        let (stop, stopped) = oneshot::channel();
        thread::Builder::new()
            .name("forward".to_owned())
            .spawn(move || match manage {
                ManageForward::Auto => keep(mark, stopped),
                ManageForward::Off => {
                    let mut left = review(&Installed, None);
                    left.errors.retain(|error| !error.is_missing());
                    Reporter::new(mark).report(left);
                }
            })
            .map_err(KeeperError::Thread)?;
        Ok(Self { _stop: stop })
    }
}

fn keep(mark: ForwardMark, mut stopped: oneshot::Receiver<()>) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "FORWARD chains are not looked after");
            return;
        }
    };
    runtime.block_on(async {
        let mut reporter = Reporter::new(mark);
        // Without nftables in the kernel there is nothing to hear of.
        let events = Events::open().ok();
        loop {
            let found = review(&Installed, Some(mark.value()));
            let most = if found.legacy { REVIEW_LEGACY } else { REVIEW };
            reporter.report(found);
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

/// Says everything once.
struct Reporter {
    mark: ForwardMark,
    told: BTreeSet<ForwardError>,
}

impl Reporter {
    const fn new(mark: ForwardMark) -> Self {
        Self {
            mark,
            told: BTreeSet::new(),
        }
    }

    fn report(&mut self, review: Review) {
        for changed in review.changed {
            tracing::info!("FORWARD chain of {changed}");
        }
        let errors: BTreeSet<_> = review.errors.into_iter().collect();
        for error in errors.difference(&self.told) {
            tracing::warn!(
                error = chain(error),
                "where a FORWARD chain drops, accept packets with the bit {:#x} of the mark and RELATED,ESTABLISHED there \
                 yourself (and set --manage-forward=off)",
                self.mark.value()
            );
        }
        self.told = errors;
    }
}
