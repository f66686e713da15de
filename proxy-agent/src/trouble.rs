//! A lasting failure: reported when it begins and when it ends, and once a minute in between.

use std::time::{Duration, Instant};

/// Interval of reports while a failure lasts.
const AGAIN: Duration = Duration::from_mins(1);

/// State of an operation: whether it fails, and since when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble(Option<Lasting>);

#[derive(Clone, Copy, Debug)]
struct Lasting {
    since: Instant,
    told: Instant,
    failures: u64,
}

/// A report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The failure begins.
    Begins,
    /// The failure lasts.
    GoesOn(Span),
}

/// Extent of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Time since the first failure.
    pub lasted: Duration,
    /// Number of failures.
    pub failures: u64,
}

impl Trouble {
    /// Records a failure. Returns the report that is due, if any.
    pub fn fails(&mut self, now: Instant) -> Option<News> {
        let Some(lasting) = &mut self.0 else {
            self.0 = Some(Lasting {
                since: now,
                told: now,
                failures: 1,
            });
            return Some(News::Begins);
        };
        lasting.failures += 1;
        if now.saturating_duration_since(lasting.told) < AGAIN {
            return None;
        }
        lasting.told = now;
        Some(News::GoesOn(lasting.span(now)))
    }

    /// Records a success. If the operation failed before, returns the extent of the failure.
    pub fn works(&mut self, now: Instant) -> Option<Span> {
        self.0.take().map(|lasting| lasting.span(now))
    }

    /// Whether the operation fails.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

impl Lasting {
    fn span(&self, now: Instant) -> Span {
        Span {
            lasted: now.saturating_duration_since(self.since),
            failures: self.failures,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_failing_is_told_when_it_begins_each_minute_and_when_it_is_over() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut trouble = Trouble::default();
        assert_eq!(trouble.works(at(0)), None);
        let told: Vec<_> = (0..200_u64)
            .filter_map(|second| Some((second, trouble.fails(at(second))?)))
            .collect();
        let span = |seconds, failures| Span {
            lasted: Duration::from_secs(seconds),
            failures,
        };
        let expected = [
            (0, News::Begins),
            (60, News::GoesOn(span(60, 61))),
            (120, News::GoesOn(span(120, 121))),
            (180, News::GoesOn(span(180, 181))),
        ];
        assert_eq!(told, expected);
        assert_eq!(trouble.works(at(200)), Some(span(200, 200)));
        assert_eq!(trouble.works(at(201)), None);
        assert_eq!(trouble.fails(at(202)), Some(News::Begins));
    }
}
