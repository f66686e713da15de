//! When the next step of collecting is due: the tables are walked in rounds, sooner when they fill up, and never so
//! that the agent has no time for anything else.

use std::time::{Duration, Instant};

use proxy_common::flow_timeout::CROWDED;

/// A round begins this long after the one before.
const ROUND: Duration = Duration::from_secs(10);

/// The same where a table is nearly full; nothing more could be collected any sooner.
const CROWDED_ROUND: Duration = Duration::from_secs(CROWDED as u64);

/// Longest pause within a round.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How often it is asked whether tables fill up.
const LOOK: Duration = Duration::from_secs(1);

/// How many times as long as a step the pause after it is; once, where a table is nearly full.
const RESPITE: u32 = 3;

/// How full a table is, as the last walk found it and as counters say that it has grown since: at most so full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    capacity: u64,
    /// Elements that the last walk left, and the counter when it began.
    last: (u64, u64),
    /// The same, of the walk that is going on.
    walk: Option<(u64, u64)>,
}

impl Census {
    /// Of a table that was not walked yet.
    pub const fn new(capacity: u32, counter: u64) -> Self {
        Self {
            capacity: capacity as u64,
            last: (0, counter),
            walk: None,
        }
    }

    /// A walk begins. `counter` counts what may have been added to the table ever.
    pub const fn begin(&mut self, counter: u64) {
        self.walk = Some((0, counter));
    }

    /// The walk has left elements where they are.
    pub fn keep(&mut self, elements: usize) {
        if let Some((kept, _)) = &mut self.walk {
            *kept += elements as u64;
        }
    }

    /// The walk is through.
    pub fn end(&mut self) {
        self.last = self.walk.take().unwrap_or(self.last);
    }

    /// Elements that the last walk left, or more where this one has seen more already.
    pub fn elements(&self) -> u64 {
        self.last.0.max(self.walk.map_or(0, |(kept, _)| kept))
    }

    /// Whether the table may be more than three quarters full.
    pub fn is_crowded(&self, counter: u64) -> bool {
        let grown = self.last.0 + counter.wrapping_sub(self.last.1);
        grown.max(self.elements()) * 4 > self.capacity * 3
    }
}

/// The clock of rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    began: Option<Instant>,
    walking: bool,
    last_step: Duration,
}

impl Pace {
    /// Whether a round should begin.
    pub fn is_due(&self, now: Instant, crowded: bool) -> bool {
        self.began
            .is_none_or(|began| now.saturating_duration_since(began) >= round(crowded))
    }

    /// A round begins.
    pub const fn begin(&mut self, now: Instant) {
        self.began = Some(now);
        self.walking = true;
    }

    /// A step is done; `walking`: the round goes on.
    pub const fn step(&mut self, took: Duration, walking: bool) {
        self.last_step = took;
        self.walking = walking;
    }

    /// How long to wait for the next step, where a round takes about `steps` of them.
    pub fn pause(&self, now: Instant, steps: u64, crowded: bool) -> Duration {
        if self.walking {
            let respite = self.last_step * if crowded { 1 } else { RESPITE };
            let share = round(crowded) / u32::try_from(steps.max(1)).unwrap_or(u32::MAX);
            return share.min(LONGEST_PAUSE).max(respite);
        }
        let waited = self
            .began
            .map_or(Duration::MAX, |began| now.saturating_duration_since(began));
        round(crowded).saturating_sub(waited).min(LOOK)
    }
}

const fn round(crowded: bool) -> Duration {
    if crowded { CROWDED_ROUND } else { ROUND }
}

/// About how many steps of `reach` elements a round over these tables takes.
pub fn steps(tables: [&Census; 2], reach: usize) -> u64 {
    let elements: u64 = tables.iter().map(|census| census.elements()).sum();
    elements / reach.max(1) as u64 + tables.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_crowded_by_what_was_found_or_by_what_came_since() {
        let mut census = Census::new(100, 1000);
        assert!(!census.is_crowded(1075));
        assert!(census.is_crowded(1076));
        census.begin(1076);
        census.keep(40);
        assert!(
            census.is_crowded(1080),
            "not known to be less before the end"
        );
        census.end();
        assert!(!census.is_crowded(1080));
        assert!(!census.is_crowded(1111));
        assert!(census.is_crowded(1112));
        census.begin(1112);
        census.keep(76);
        assert!(census.is_crowded(1112));
    }

    #[test]
    fn a_round_begins_every_ten_seconds_and_every_three_without_room() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert!(pace.is_due(start, false));
        assert_eq!(pace.pause(start, 1, false), Duration::ZERO);
        pace.begin(start);
        pace.step(Duration::from_millis(1), false);
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(!pace.is_due(after(9), false));
        assert!(pace.is_due(after(10), false));
        assert!(!pace.is_due(after(2), true));
        assert!(pace.is_due(after(3), true));
        assert_eq!(pace.pause(after(4), 1, false), LOOK);
        assert_eq!(pace.pause(after(10), 1, false), Duration::ZERO);
    }

    #[test]
    fn a_long_walk_leaves_time_for_others() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.begin(start);
        pace.step(Duration::from_millis(4), true);
        assert_eq!(pace.pause(start, 1, false), LONGEST_PAUSE);
        assert_eq!(pace.pause(start, 500, false), Duration::from_millis(20));
        assert_eq!(pace.pause(start, 5_000, false), Duration::from_millis(12));
        assert_eq!(pace.pause(start, 5_000, true), Duration::from_millis(4));
    }
}
