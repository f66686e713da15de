//! Whether the proxy does its work (semantics H1, H2; docs/adr/0034). The agent's loop writes, the servers read; nobody
//! waits for anybody.

pub mod checks;
mod report;

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

pub use self::report::Report;
use crate::source::pulse::Pulse;

/// How long something may be late: kube-proxy's, which is twice its period of full syncs (30 s).
pub const TIMEOUT: Duration = Duration::from_mins(1);

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `/healthz`: does this node serve, and will it stay? Load balancers ask this.
    Health,
    /// `/livez`: does the agent work? Waiting for the API server is work.
    Life,
    /// `/readyz`: are the maps what the API server told this agent? kube-proxy has no such path.
    Readiness,
}

/// What the maps serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Nothing: no list has been programmed.
    Nothing,
    /// What an earlier run of the agent left.
    Earlier,
    /// What this run planned.
    Planned,
}

/// What is known of the agent's work.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
    source: OnceLock<Arc<Pulse>>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    served: Served,
    /// When the maps were last as planned; `None`: this run does not know.
    updated: Option<Timestamp>,
    /// Since when something planned is not in the maps.
    behind: Option<Instant>,
    /// When the loop last came round.
    alive: Instant,
    /// Whether the loop has ended: the process is about to exit.
    ended: bool,
    /// Whether the Node object last said that the node is about to go.
    leaving: bool,
    /// Services that are not in the maps as planned because they were refused.
    refused: usize,
}

impl State {
    /// Whether the loop turns and writes in time what it plans.
    fn works(&self, now: Instant) -> bool {
        self.turns(now) && !self.is_late(now)
    }

    fn turns(&self, now: Instant) -> bool {
        !self.ended && now.saturating_duration_since(self.alive) < TIMEOUT
    }

    fn is_late(&self, now: Instant) -> bool {
        let since = |then| now.saturating_duration_since(then);
        self.behind.is_some_and(|then| since(then) >= TIMEOUT)
    }

    /// How long ago the source was heard plays no part: a node that serves goes on serving.
    fn is_healthy(&self, now: Instant) -> bool {
        self.works(now) && self.served != Served::Nothing
    }

    fn answers(&self, question: Question, now: Instant) -> bool {
        match question {
            Question::Health => self.is_healthy(now),
            Question::Life => self.works(now),
            Question::Readiness => self.works(now) && self.served == Served::Planned,
        }
    }
}

impl Health {
    /// An agent that has just started: it works, and nothing is known to serve.
    pub fn new(now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                served: Served::Nothing,
                updated: None,
                behind: None,
                alive: now,
                ended: false,
                leaving: false,
                refused: 0,
            }),
            source: OnceLock::new(),
        }
    }

    /// The loop came round: it does not hang.
    pub fn alive(&self, now: Instant) {
        self.state().alive = now;
    }

    /// The loop has ended.
    pub fn end(&self) {
        self.state().ended = true;
    }

    /// The programs are attached, and the maps of an earlier run serve.
    pub fn serves_earlier(&self) {
        let mut state = self.state();
        if state.served == Served::Nothing {
            state.served = Served::Earlier;
        }
    }

    /// Something waits to be written, or could not be.
    pub fn behind(&self, now: Instant) {
        self.state().behind.get_or_insert(now);
    }

    /// Nothing waits to be written any more. What is served stays as it was.
    pub fn keeps_up(&self) {
        self.state().behind = None;
    }

    /// Something has waited since `then`, and nothing has waited longer.
    pub fn behind_since(&self, then: Instant) {
        self.state().behind = Some(then);
    }

    /// Everything planned is in the maps, except this many Services that were refused.
    pub fn caught_up(&self, time: Timestamp, refused: usize) {
        let mut state = self.state();
        state.behind = None;
        state.served = Served::Planned;
        state.refused = refused;
        if refused == 0 {
            state.updated = Some(time);
        }
    }

    /// What the Node object says. Of a node that was never seen nothing is known against it.
    pub fn set_leaving(&self, leaving: bool) {
        self.state().leaving = leaving;
    }

    /// Reports when the source of objects was last heard.
    pub fn watch_source(&self, pulse: Arc<Pulse>) {
        // There is one source in a run of the agent.
        let _ = self.source.set(pulse);
    }

    /// Whether this node serves, and the agent works.
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.state().is_healthy(now)
    }

    /// The answer to a question.
    pub fn report(&self, question: Question, now: Instant, time: Timestamp) -> Report {
        let age = self.source.get().and_then(|source| source.age(now));
        let contact = age.and_then(|age| time.checked_sub(age).ok());
        Report::new(&self.state(), question, contact, now, time)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
