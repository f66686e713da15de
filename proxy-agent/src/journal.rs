//! The loop's log of its work: a summary per minute, not a line for each change. Problems are logged when they begin and
//! when they end.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    error::Error,
    time::{Duration, Instant},
};

use crate::{
    model::{ObjectRef, Problem},
    plan::ServiceName,
    programmer::Outcome,
    telemetry::chain,
    trouble::{News, Span, Trouble},
};

/// The time that one line summarizes.
const SUMMARY: Duration = Duration::from_mins(1);

/// Remembers what was logged, and what is still to be logged.
#[derive(Debug, Default)]
pub struct Journal {
    summary: Option<Summary>,
    /// Operations that were logged.
    operations: u64,
    /// Operations that fail repeatedly.
    troubles: BTreeMap<&'static str, Trouble>,
    /// Services that are refused, with the reason that was logged.
    refused: BTreeMap<ServiceName, &'static str>,
    /// Warnings that apply now.
    warnings: BTreeMap<&'static str, String>,
}

/// Work since the last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Summary {
    due: Instant,
    passes: usize,
    services: usize,
    failures: usize,
    longest: Duration,
}

impl Journal {
    /// Services were programmed.
    pub fn passed(&mut self, services: usize, elapsed: Duration, now: Instant) {
        let summary = self.summary(now);
        summary.passes += 1;
        summary.services += services;
        summary.longest = summary.longest.max(elapsed);
    }

    /// When the next summary is due, if there is anything to summarize.
    pub fn deadline(&self) -> Option<Instant> {
        self.summary.map(|summary| summary.due)
    }

    /// Logs the summary. `operations` is the number of all operations written so far.
    pub fn tell(&mut self, operations: u64) {
        let written = operations - std::mem::replace(&mut self.operations, operations);
        let Some(summary) = self.summary.take() else {
            return;
        };
        let Summary {
            passes,
            services,
            failures,
            longest,
            due: _,
        } = summary;
        tracing::info!(
            passes,
            services,
            operations = written,
            failures,
            ?longest,
            "programmed in the last minute"
        );
    }

    /// The first full list is programmed. The caller logs this itself.
    pub fn told(&mut self, operations: u64) {
        self.operations = operations;
        self.summary = None;
    }

    /// Logs failed writes. `behind`: something that could be in the maps is not.
    pub fn wrote(&mut self, outcome: &Outcome, behind: bool, now: Instant) {
        const WHAT: &str = "writing to the maps";
        if let Some(failed) = outcome.failed.last() {
            self.fails(WHAT, failed, now);
            self.summary(now).failures += outcome.failed.len();
        } else if !behind {
            self.works(WHAT, now);
        }
    }

    /// Records a failure of an operation that is retried.
    pub fn fails(&mut self, what: &'static str, error: &dyn Error, now: Instant) {
        let error = chain(error);
        match self.troubles.entry(what).or_default().fails(now) {
            Some(News::Begins) => tracing::error!(error, "{what} fails, and is tried again"),
            Some(News::GoesOn(Span { lasted, failures })) => {
                tracing::error!(error, ?lasted, failures, "{what} still fails");
            }
            None => tracing::debug!(error, "{what} fails"),
        }
    }

    /// Records a success of an operation.
    pub fn works(&mut self, what: &'static str, now: Instant) {
        let trouble = self.troubles.get_mut(what);
        if let Some(Span { lasted, failures }) = trouble.and_then(|trouble| trouble.works(now)) {
            tracing::info!(?lasted, failures, "{what} works again");
        }
    }

    /// Returns the problems of refused Services, except those already reported. Logs Services that are no longer refused.
    pub fn refused(&mut self, outcome: &Outcome) -> Vec<Problem> {
        for service in &outcome.programmed {
            if self.refused.remove(service).is_some() {
                tracing::info!(object = %ObjectRef::service(service), "it is no longer refused");
            }
        }
        let mut problems = Vec::new();
        for refused in &outcome.refused {
            let reason = refused.reason.label();
            match self.refused.entry(refused.service.clone()) {
                Entry::Occupied(told) if *told.get() == reason => continue,
                Entry::Occupied(mut told) => {
                    told.insert(reason);
                }
                Entry::Vacant(place) => {
                    place.insert(reason);
                }
            }
            problems.push(Problem {
                object: ObjectRef::service(&refused.service),
                message: format!(
                    "it is not programmed, and stays as it was before: {}",
                    refused.reason
                ),
            });
        }
        problems
    }

    /// Sets or clears the warning about `what`, and logs a change.
    pub fn holds(&mut self, what: &'static str, warning: Option<String>) {
        if self.warnings.get(what) == warning.as_ref() {
            return;
        }
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
            self.warnings.insert(what, warning);
        } else {
            self.warnings.remove(what);
            tracing::info!("{what} is correct now");
        }
    }

    fn summary(&mut self, now: Instant) -> &mut Summary {
        self.summary.get_or_insert(Summary {
            due: now + SUMMARY,
            passes: 0,
            services: 0,
            failures: 0,
            longest: Duration::ZERO,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::refusal::{Reason, Refused, Resource};

    fn name(name: &str) -> ServiceName {
        ServiceName {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_refused_service_is_a_problem_once_for_each_reason() {
        let mut journal = Journal::default();
        let refused = |service: &str, reason: Reason| Outcome {
            refused: vec![Refused {
                service: name(service),
                reason,
            }],
            ..Outcome::default()
        };
        let full = Reason::Full(Resource::Slots);
        let long = |count| Reason::ListTooLong {
            port_name: "http".to_owned(),
            count,
        };
        let problems = journal.refused(&refused("a", full.clone()));
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].object.to_string(), "Service default/a");
        assert!(problems[0].message.contains("the map SLOTS is full"));
        assert_eq!(journal.refused(&refused("a", full.clone())), []);
        assert_eq!(journal.refused(&refused("b", full.clone())).len(), 1);
        assert_eq!(journal.refused(&refused("a", long(70_000))).len(), 1);
        // A further endpoint is not a new problem.
        assert_eq!(journal.refused(&refused("a", long(70_001))), []);
        let programmed = Outcome {
            programmed: [name("a")].into(),
            ..Outcome::default()
        };
        assert_eq!(journal.refused(&programmed), []);
        assert_eq!(journal.refused(&refused("a", full.clone())).len(), 1);
        assert_eq!(journal.refused(&refused("b", full)), []);
    }

    #[test]
    fn a_summary_holds_all_that_was_done_since_the_last_one() {
        let mut journal = Journal::default();
        let now = Instant::now();
        assert_eq!(journal.deadline(), None);
        journal.passed(3, Duration::from_millis(7), now);
        journal.passed(2, Duration::from_millis(5), now + Duration::from_secs(9));
        let expected = Summary {
            due: now + SUMMARY,
            passes: 2,
            services: 5,
            failures: 0,
            longest: Duration::from_millis(7),
        };
        assert_eq!(journal.summary, Some(expected));
        journal.tell(40);
        assert_eq!((journal.deadline(), journal.operations), (None, 40));
    }

    #[test]
    fn a_warning_is_told_when_it_begins_to_hold() {
        let mut journal = Journal::default();
        journal.holds("x", None);
        assert!(journal.warnings.is_empty());
        journal.holds("x", Some("wrong".to_owned()));
        assert_eq!(journal.warnings["x"], "wrong");
        journal.holds("x", None);
        assert!(journal.warnings.is_empty());
    }
}
