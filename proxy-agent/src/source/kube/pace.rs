//! How long things may take, and how long to wait before they are tried again.

use std::time::Duration;

/// Times of the conversation with the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// From a request to the beginning of its answer; for a list the server writes it all first.
    pub answer: Duration,
    /// Between two parts of a list.
    pub listing: Duration,
    /// Silence on a watch after which it is begun again. It is longer than a brief watch, which the server ends before.
    pub silence: Duration,
    /// A watch that is open for so long goes on as it should; one that the server ends sooner does not.
    pub calm: Duration,
    /// How long the server keeps a watch open, at least; at most twice as long, so that not all nodes come back at once.
    pub watch: Duration,
    /// The same for a brief watch, whose end tells that a server without bookmarks lives; at most a quarter longer.
    pub brief_watch: Duration,
    /// The shortest and the longest wait before a next attempt.
    pub retry: (Duration, Duration),
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_mins(1),
            listing: Duration::from_secs(30),
            silence: Duration::from_secs(90),
            calm: Duration::from_secs(10),
            watch: Duration::from_mins(5),
            brief_watch: Duration::from_mins(1),
            retry: (Duration::from_millis(400), Duration::from_secs(15)),
        }
    }
}

impl Pace {
    /// How long to ask for a watch to be kept open.
    pub(super) fn watch_seconds(&self, brief: bool) -> u32 {
        let (shortest, more) = if brief {
            (self.brief_watch, 0.25)
        } else {
            (self.watch, 1.0)
        };
        let wanted = shortest.mul_f64(1.0 + more * fastrand::f64());
        let seconds = wanted.as_secs().max(1);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }
}

/// Waits that double, each somewhere between its half and its one and a half.
#[derive(Debug)]
pub(super) struct Backoff {
    limits: (Duration, Duration),
    next: Duration,
}

impl Backoff {
    pub(super) const fn new(limits: (Duration, Duration)) -> Self {
        Self {
            limits,
            next: limits.0,
        }
    }

    /// The next wait.
    pub(super) fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.limits.1);
        wait.mul_f64(0.5 + fastrand::f64())
    }

    /// Begins with the shortest again.
    pub(super) const fn reset(&mut self) {
        self.next = self.limits.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brief_watch_ends_before_silence_is_noticed() {
        let pace = Pace::default();
        let silence = pace.silence.as_secs();
        for _ in 0..1_000 {
            let brief = u64::from(pace.watch_seconds(true));
            assert!((60..=75).contains(&brief) && brief < silence, "{brief}");
            let long = pace.watch_seconds(false);
            assert!((300..=600).contains(&long), "{long}");
        }
    }

    #[test]
    fn waits_double_up_to_the_limit_and_differ() {
        let limits = (Duration::from_secs(1), Duration::from_secs(8));
        let mut backoff = Backoff::new(limits);
        for middle in [1.0, 2.0, 4.0, 8.0, 8.0, 8.0] {
            let wait = backoff.wait().as_secs_f64();
            assert!((middle * 0.5..middle * 1.5).contains(&wait), "{wait}");
        }
        backoff.reset();
        assert!(backoff.wait() < Duration::from_millis(1500));
        let waits: std::collections::BTreeSet<_> =
            (0..20).map(|_| Backoff::new(limits).wait()).collect();
        assert!(waits.len() > 10);
    }
}
