//! Logs findings at growing intervals, because a conflict with another component lasts for as long as both run.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Findings, Kind};
use crate::telemetry::chain;

/// Interval after the first line about an attachment or pin. Each further line doubles it.
const PAUSE: Duration = Duration::from_mins(1);
/// The longest interval.
const LONGEST: Duration = Duration::from_hours(1);

/// Logs findings.
#[derive(Debug, Default)]
pub struct Teller {
    repaired: Pace<(Kind, String)>,
    failed: Pace<(Kind, String)>,
    displaced: Pace<String>,
}

impl Teller {
    /// Logs findings that are new, and findings that persist after the interval.
    pub fn tell(&mut self, findings: &Findings, now: Instant) {
        for repair in &findings.repairs {
            let key = (repair.kind, repair.what.clone());
            let (kind, what, found) = (repair.kind.label(), &repair.what, repair.found);
            match self.repaired.turn(key, now) {
                Some(0) => tracing::warn!(
                    kind,
                    what,
                    found,
                    "repaired after another process changed it"
                ),
                Some(times) => tracing::warn!(
                    kind,
                    what,
                    found,
                    times,
                    "repaired repeatedly: another process keeps changing it"
                ),
                None => {}
            }
        }
        for failure in &findings.failures {
            let key = (failure.kind, failure.what.clone());
            let (kind, what) = (failure.kind.label(), &failure.what);
            let error = chain(&*failure.error);
            match self.failed.turn(key, now) {
                Some(0) => tracing::error!(kind, what, error, "not in place; trying again"),
                Some(times) => {
                    tracing::error!(kind, what, error, times, "still not in place; trying again");
                }
                None => {}
            }
        }
        for place in &findings.displaced {
            if self.displaced.turn(place.clone(), now) == Some(0) {
                tracing::warn!(
                    place,
                    "a program of another component runs before ours at ingress or after ours at egress: it sees translated packets"
                );
            }
        }
        self.repaired.forget(now);
        self.failed.forget(now);
        self.displaced.forget(now);
    }
}

/// When findings were last logged.
#[derive(Debug)]
struct Pace<K>(BTreeMap<K, Said>);

#[derive(Debug)]
struct Said {
    at: Instant,
    /// Interval until the next line.
    pause: Duration,
    /// When it happened last.
    last: Instant,
    /// How often it has happened since the last line.
    unsaid: usize,
}

impl<K> Default for Pace<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Pace<K> {
    /// Records a finding. If it is to be logged, returns how often it has happened since the last line; 0 if it is new.
    fn turn(&mut self, key: K, now: Instant) -> Option<usize> {
        let Some(said) = self.0.get_mut(&key) else {
            let said = Said {
                at: now,
                pause: PAUSE,
                last: now,
                unsaid: 0,
            };
            self.0.insert(key, said);
            return Some(0);
        };
        said.last = now;
        said.unsaid += 1;
        if now.duration_since(said.at) < said.pause {
            return None;
        }
        said.at = now;
        said.pause = (said.pause * 2).min(LONGEST);
        Some(std::mem::take(&mut said.unsaid))
    }

    /// Forgets findings that have not happened for their interval. They are new if they happen again.
    fn forget(&mut self, now: Instant) {
        self.0
            .retain(|_, said| now.duration_since(said.last) < said.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A finding that recurs every four seconds for `hours`: the seconds at which it is logged, with the numbers.
    fn said(hours: u64) -> Vec<(u64, usize)> {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut lines = Vec::new();
        for second in (0..hours * 3600).step_by(4) {
            let now = start + Duration::from_secs(second);
            if let Some(times) = pace.turn("x", now) {
                lines.push((second, times));
            }
            pace.forget(now);
        }
        lines
    }

    #[test]
    fn a_fight_is_told_less_and_less_often() {
        assert_eq!(
            said(1),
            [
                (0, 0),
                (60, 15),
                (180, 30),
                (420, 60),
                (900, 120),
                (1860, 240)
            ]
        );
        // In the end, once per hour.
        assert!(said(24).len() < 32, "{:?}", said(24));
    }

    #[test]
    fn what_is_over_is_new_when_it_comes_back_and_things_are_told_apart() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.turn("x", start), Some(0));
        assert_eq!(pace.turn("y", start), Some(0));
        assert_eq!(pace.turn("x", start), None);
        pace.forget(start + PAUSE);
        assert!(pace.0.is_empty());
        assert_eq!(pace.turn("x", start + PAUSE), Some(0));
    }
}
