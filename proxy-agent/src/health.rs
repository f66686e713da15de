//! Whether the proxy does its work (semantics H1, H2), as kube-proxy judges it: what changed must reach the maps in
//! time. The agent's loop writes, the servers read; nobody waits for anybody.

pub mod checks;
mod report;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

pub use self::report::Report;

/// How long something may be late: kube-proxy's, which is twice its period of full syncs (30 s).
pub const TIMEOUT: Duration = Duration::from_mins(1);

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `/healthz`: does the proxy work, and will this node stay?
    Health,
    /// `/livez`: does the proxy work?
    Life,
}

/// What is known of the agent's work.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// When the maps were as planned last; the start, before.
    updated: Timestamp,
    /// Since when something planned is not in the maps.
    behind: Option<Instant>,
    /// When the loop came round last.
    alive: Instant,
    /// Whether the Node object said last that the node is about to go.
    leaving: bool,
}

impl State {
    fn is_healthy(&self, now: Instant) -> bool {
        let since = |then| now.saturating_duration_since(then);
        since(self.alive) < TIMEOUT && self.behind.is_none_or(|then| since(then) < TIMEOUT)
    }
}

impl Health {
    /// A proxy that has just started is healthy.
    pub fn new(now: Instant, time: Timestamp) -> Self {
        Self {
            state: Mutex::new(State {
                updated: time,
                behind: None,
                alive: now,
                leaving: false,
            }),
        }
    }

    /// The loop came round: it does not hang.
    pub fn alive(&self, now: Instant) {
        self.state().alive = now;
    }

    /// Something waits to be written, or could not be.
    pub fn behind(&self, now: Instant) {
        self.state().behind.get_or_insert(now);
    }

    /// Something has waited since then, and all that began to wait earlier is done.
    pub fn behind_since(&self, then: Instant) {
        self.state().behind = Some(then);
    }

    /// The maps are as planned.
    pub fn caught_up(&self, time: Timestamp) {
        let mut state = self.state();
        state.behind = None;
        state.updated = time;
    }

    /// What the Node object says. Of a node that was never seen nothing is known against it.
    pub fn set_leaving(&self, leaving: bool) {
        self.state().leaving = leaving;
    }

    /// Whether the proxy does its work.
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.state().is_healthy(now)
    }

    /// The answer to a question.
    pub fn report(&self, question: Question, now: Instant, time: Timestamp) -> Report {
        let state = *self.state();
        Report::new(
            state.is_healthy(now),
            (question == Question::Health).then_some(!state.leaving),
            state.updated,
            time,
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn ok(health: &Health, question: Question, now: Instant) -> bool {
        health.report(question, now, time(0)).is_ok()
    }

    #[test]
    fn h2_a_change_that_waits_for_a_minute_makes_it_unhealthy_until_it_is_programmed() {
        let start = Instant::now();
        let health = Health::new(start, time(0));
        health.behind(start);
        health.behind(start + TIMEOUT / 2);
        let late = start + TIMEOUT;
        health.alive(late);
        assert!(health.is_healthy(start + TIMEOUT / 4 * 3));
        assert!(
            !health.is_healthy(late),
            "what waited first counts, not what came last"
        );
        assert!(!ok(&health, Question::Health, late));
        assert!(!ok(&health, Question::Life, late));
        health.caught_up(time(60));
        assert!(health.is_healthy(late));
        assert!(ok(&health, Question::Health, late));
    }

    #[test]
    fn h2_a_loop_that_hangs_makes_it_unhealthy_though_nothing_is_known_to_wait() {
        let start = Instant::now();
        let health = Health::new(start, time(0));
        assert!(health.is_healthy(start));
        assert!(!health.is_healthy(start + TIMEOUT));
        health.alive(start + TIMEOUT);
        assert!(health.is_healthy(start + TIMEOUT));
    }

    #[test]
    fn h2_a_node_that_is_being_deleted_fails_healthz_and_not_livez() {
        let now = Instant::now();
        let health = Health::new(now, time(0));
        assert!(ok(&health, Question::Health, now), "an unknown node stays");
        health.set_leaving(true);
        assert!(!ok(&health, Question::Health, now));
        assert!(ok(&health, Question::Life, now));
        assert!(health.is_healthy(now), "H1 does not ask for the node");
        health.set_leaving(false);
        assert!(ok(&health, Question::Health, now));
    }
}
