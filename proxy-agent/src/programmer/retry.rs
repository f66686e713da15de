//! What failed midway, and when it is tried again.

use std::time::{Duration, Instant};

use crate::delta::Group;

const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(30);

/// When to try again: a moment after the first failure, then after twice as long each time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    next: Option<Instant>,
}

impl Backoff {
    /// Notes a failure.
    pub fn failed(&mut self, now: Instant) {
        let delay = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST);
        self.failures += 1;
        self.next = Some(now + delay);
    }

    /// Whether it is time; if so, another failure or [`Self::succeeded`] follows.
    pub fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now)
    }

    /// Notes that nothing failed.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// When it is time, after a failure.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }
}

/// A group of which operations are left to apply.
#[derive(Debug)]
pub(super) struct Stuck {
    pub group: Group,
    pub backoff: Backoff,
}
