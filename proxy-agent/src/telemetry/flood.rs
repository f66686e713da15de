//! Limits the rate of log lines of one kind, and counts the lines that were left out.

use std::time::{Duration, Instant};

/// The number of lines that may be logged at once.
const BURST: usize = 100;
/// The time after which one more line may be logged.
const EACH: Duration = Duration::from_millis(500);
/// Interval of summaries of the lines that were left out.
const SUMMARY: Duration = Duration::from_secs(10);

/// Counts lines of one kind.
#[derive(Debug)]
pub struct Flood {
    /// When a whole burst may be logged again.
    full: Instant,
    left_out: usize,
    summed_up: Option<Instant>,
}

/// The part of a batch to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    /// The number of lines.
    lines: usize,
    /// The number of lines left out of this and earlier batches, if a summary is due.
    left_out: Option<usize>,
}

impl Flood {
    /// The state before the first line.
    pub const fn new(now: Instant) -> Self {
        Self {
            full: now,
            left_out: 0,
            summed_up: None,
        }
    }

    /// Logs a batch: as many lines as the limit allows, and the number of lines left out so far if a summary is due.
    pub fn tell<T>(&mut self, batch: &[T], one: impl FnMut(&T), left_out: impl FnOnce(usize)) {
        let share = self.share(batch.len(), Instant::now());
        batch[..share.lines].iter().for_each(one);
        if let Some(count) = share.left_out {
            left_out(count);
        }
    }

    fn share(&mut self, batch: usize, now: Instant) -> Share {
        let owed = self.full.saturating_duration_since(now);
        let used = owed.as_millis().div_ceil(EACH.as_millis());
        let room = BURST.saturating_sub(usize::try_from(used).unwrap_or(BURST));
        let lines = batch.min(room);
        // At most a burst.
        self.full = self.full.max(now) + EACH * lines as u32;
        self.left_out += batch - lines;
        let due = |at| now.duration_since(at) >= SUMMARY;
        let left_out =
            (self.left_out > 0 && self.summed_up.is_none_or(due)).then_some(self.left_out);
        if left_out.is_some() {
            self.left_out = 0;
            self.summed_up = Some(now);
        }
        Share { lines, left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_at_once_are_a_burst_and_a_sum() {
        let now = Instant::now();
        let mut flood = Flood::new(now);
        let share = |lines, left_out| Share { lines, left_out };
        assert_eq!(flood.share(3, now), share(3, None));
        assert_eq!(flood.share(40_000, now), share(97, Some(39_903)));
        assert_eq!(flood.share(0, now), share(0, None));
    }

    #[test]
    fn a_stream_that_never_ends_is_a_few_lines_a_second() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        let (mut lines, mut sums, mut counted) = (0, 0, 0);
        for step in 0..60_000 {
            let share = flood.share(1, start + Duration::from_millis(step));
            lines += share.lines;
            sums += usize::from(share.left_out.is_some());
            counted += share.lines + share.left_out.unwrap_or(0);
        }
        assert!((200..=230).contains(&lines), "{lines}");
        assert!((5..=7).contains(&sums), "{sums}");
        // All lines except those of the last ten seconds.
        assert!(counted > 49_000, "{counted}");
    }
}
