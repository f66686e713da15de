//! Whether the API server is reached: told once for each turn, not for each attempt.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout};

/// Reasons that are told of one outage.
const MOST_REASONS: usize = 16;

/// What is known of the conversation.
#[derive(Debug, Default)]
pub(super) struct Contact {
    state: RefCell<State>,
    /// Wakes those that wait for their next attempt, when another has come through.
    through: Notify,
}

#[derive(Debug, Default)]
struct State {
    failing: BTreeSet<&'static str>,
    since: Option<Instant>,
    told: BTreeSet<String>,
}

/// What is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing.
    None,
    /// It is not reached, for this reason.
    Lost,
    /// It is reached again, for all kinds.
    Back,
}

impl Contact {
    /// A list or watch of a kind has begun to answer.
    pub(super) fn works(&self, kind: &'static str) {
        let mut state = self.state.borrow_mut();
        if state.failing.contains(kind) {
            self.through.notify_waiters();
        }
        if state.works(kind) == News::Back {
            let after = state.since.take().map(|since| since.elapsed());
            tracing::info!(?after, "the API server answers again");
        }
    }

    /// Waits, until another kind's request has come through at most.
    pub(super) async fn wait(&self, at_most: Duration) {
        // That the time is over is the other way to end.
        let _ = timeout(at_most, self.through.notified()).await;
    }

    /// A request for a kind has failed.
    pub(super) fn fails(&self, kind: &'static str, server: &str, reason: &str) {
        let mut state = self.state.borrow_mut();
        if state.fails(kind, reason) == News::Lost {
            tracing::warn!(
                server,
                kind,
                reason,
                "the API server can't be followed; what is programmed stays, and it is tried again"
            );
        } else {
            tracing::debug!(server, kind, reason, "the API server can't be followed");
        }
    }
}

impl State {
    fn works(&mut self, kind: &'static str) -> News {
        if !self.failing.remove(kind) || !self.failing.is_empty() {
            return News::None;
        }
        self.told.clear();
        News::Back
    }

    fn fails(&mut self, kind: &'static str, reason: &str) -> News {
        self.failing.insert(kind);
        self.since.get_or_insert_with(Instant::now);
        if self.told.len() < MOST_REASONS && self.told.insert(reason.to_owned()) {
            News::Lost
        } else {
            News::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_and_so_is_its_end() {
        let mut state = State::default();
        assert_eq!(state.works("Service"), News::None);
        assert_eq!(state.fails("Service", "refused"), News::Lost);
        assert_eq!(state.fails("Node", "refused"), News::None);
        assert_eq!(state.fails("Service", "refused"), News::None);
        assert_eq!(state.fails("Service", "403"), News::Lost);
        assert_eq!(state.works("Service"), News::None);
        assert_eq!(state.works("Node"), News::Back);
        assert_eq!(state.works("Node"), News::None);
        assert_eq!(state.fails("Node", "refused"), News::Lost);
    }

    #[tokio::test]
    async fn who_comes_through_wakes_the_others() {
        let contact = Contact::default();
        let waits = async |at_most| {
            let began = Instant::now();
            tokio::join!(contact.wait(at_most), async { contact.works("Node") });
            began.elapsed()
        };
        let shortly = Duration::from_millis(50);
        assert!(waits(shortly).await >= shortly, "it was not away");
        contact.fails("Service", "", "refused");
        contact.fails("Node", "", "refused");
        let long = Duration::from_mins(1);
        assert!(waits(long).await < long);
    }
}
