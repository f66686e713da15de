//! Times of the same thing, done many times.

use std::{fmt, time::Duration};

/// Durations.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100) - 1];
        let (p50, p99, most) = (at(50), at(99), at(100));
        write!(
            f,
            "p50 {p50:.1?}, p99 {p99:.1?}, most {most:.1?} of {}",
            sorted.len()
        )
    }
}
