//! The answer of `/healthz`, `/livez` and `/readyz`: kube-proxy's fields, and some of ours.

use std::{collections::BTreeMap, time::Instant};

use jiff::Timestamp;
use serde::Serialize;

use super::{Question, Served, State};
use crate::metrics::FAMILIES;

/// What Go writes for a time that was never set, and kube-proxy before its first sync.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The JSON body. Times are RFC 3339, in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// When the maps were last as planned; now, if they are (as kube-proxy says it, for old readers).
    last_updated: String,
    current_time: String,
    /// Whether the node will stay; in `/healthz` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    /// By family of addresses. One loop programs both, so they say the same.
    status: BTreeMap<&'static str, FamilyReport>,
    /// What the rest comes to, in a word.
    state: Word,
    /// Services that are not in the maps as planned because they were refused: the log and their Events say why.
    services_refused: usize,
    /// When the source of objects was last heard, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_contact: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyReport {
    last_updated: String,
    healthy: bool,
}

/// What the agent is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    /// Its loop has ended; the process is about to exit.
    Ended,
    /// Its loop has not come round for [`super::TIMEOUT`].
    Hangs,
    /// Something planned has not been in the maps for [`super::TIMEOUT`].
    Late,
    /// It waits for the first full list of objects; nothing is served.
    Waiting,
    /// It waits for the first full list of objects; what an earlier run programmed is served.
    Earlier,
    /// Some Services are refused; all others are served.
    Refusing,
    /// Every Service is served as planned.
    Serving,
}

impl Word {
    fn of(state: &State, now: Instant) -> Self {
        match state.served {
            _ if state.ended => Self::Ended,
            _ if !state.turns(now) => Self::Hangs,
            _ if state.is_late(now) => Self::Late,
            Served::Nothing => Self::Waiting,
            Served::Earlier => Self::Earlier,
            Served::Planned if state.refused > 0 => Self::Refusing,
            Served::Planned => Self::Serving,
        }
    }
}

impl Report {
    pub(super) fn new(
        state: &State,
        question: Question,
        contact: Option<Timestamp>,
        now: Instant,
        time: Timestamp,
    ) -> Self {
        let healthy = state.answers(question, now);
        let node_eligible = (question == Question::Health).then_some(!state.leaving);
        let word = Word::of(state, now);
        let updated = state
            .updated
            .map_or_else(|| NEVER.to_owned(), |updated| updated.to_string());
        let is_current = healthy
            && node_eligible != Some(false)
            && word == Word::Serving
            && state.behind.is_none();
        let family = FamilyReport {
            last_updated: updated.clone(),
            healthy,
        };
        Self {
            last_updated: if is_current {
                time.to_string()
            } else {
                updated
            },
            current_time: time.to_string(),
            node_eligible,
            healthy,
            status: FAMILIES.map(|label| (label, family.clone())).into(),
            state: word,
            services_refused: state.refused,
            last_contact: contact.map(|contact| contact.to_string()),
        }
    }

    /// Whether the status is 200; else it is 503.
    pub fn is_ok(&self) -> bool {
        self.healthy && self.node_eligible != Some(false)
    }
}
