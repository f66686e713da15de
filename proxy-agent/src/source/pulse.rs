//! When the source was last heard, and what happened to its lists and watches: for metrics and health. The source writes
//! it and the servers read it, each whenever they like.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// What a source has not said for so long may be out of date. A watch of an API server that is silent for 90 seconds is
/// begun again as a brief one, and the server ends that after 75 seconds at most: it is heard of before this is over.
pub const STALE: Duration = Duration::from_mins(3);

/// Why a list or a watch ended and another one was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// The server or the network ended it too soon.
    Closed,
    /// The server ended the watch when its time was over. Nothing is wrong.
    Ended,
    /// The credentials do not allow it.
    Forbidden,
    /// It can't be read.
    Garbage,
    /// The server has forgotten the version: there must be a new list.
    Gone,
    /// The server is not reached, or does not take the request.
    Refused,
    /// There was no answer in time, or nothing was heard any more.
    Timeout,
    /// It is larger than it may be.
    TooLarge,
    /// The server has other things to do, or is broken.
    Unavailable,
}

impl Restart {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Closed,
        Self::Ended,
        Self::Forbidden,
        Self::Garbage,
        Self::Gone,
        Self::Refused,
        Self::Timeout,
        Self::TooLarge,
        Self::Unavailable,
    ];

    /// Label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Ended => "ended",
            Self::Forbidden => "forbidden",
            Self::Garbage => "garbage",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
        }
    }
}

/// All kinds of objects of a source.
#[derive(Debug)]
pub struct Pulse {
    began: Instant,
    kinds: Vec<Kind>,
}

#[derive(Debug)]
struct Kind {
    name: &'static str,
    /// In milliseconds after `began`, and one more; 0: never.
    heard: AtomicU64,
    listed: AtomicBool,
    restarts: [AtomicU64; Restart::ALL.len()],
}

impl Pulse {
    /// Of a source that has said nothing yet.
    pub fn new(kinds: &[&'static str]) -> Self {
        let kind = |name: &&'static str| Kind {
            name,
            heard: AtomicU64::new(0),
            listed: AtomicBool::new(false),
            restarts: Default::default(),
        };
        Self {
            began: Instant::now(),
            kinds: kinds.iter().map(kind).collect(),
        }
    }

    /// The source said something about a kind, be it that nothing has changed.
    pub fn heard(&self, kind: &str, now: Instant) {
        let after = now.saturating_duration_since(self.began).as_millis();
        for kind in self.find(kind) {
            let after = u64::try_from(after).unwrap_or(u64::MAX - 1);
            kind.heard.store(after + 1, Relaxed);
        }
    }

    /// All objects of a kind are known.
    pub fn listed(&self, kind: &str) {
        for kind in self.find(kind) {
            kind.listed.store(true, Relaxed);
        }
    }

    /// A list or watch of a kind ended and is begun again.
    pub fn restarted(&self, kind: &str, why: Restart) {
        for kind in self.find(kind) {
            kind.restarts[why as usize].fetch_add(1, Relaxed);
        }
    }

    /// Each kind, and how long ago it was last heard of; `None`: never.
    pub fn ages(&self, now: Instant) -> impl Iterator<Item = (&'static str, Option<Duration>)> {
        self.kinds.iter().map(move |kind| {
            let heard = kind.heard.load(Relaxed).checked_sub(1);
            let age = heard.map(|after| {
                let at = self.began + Duration::from_millis(after);
                now.saturating_duration_since(at)
            });
            (kind.name, age)
        })
    }

    /// How long there is this source.
    pub fn running(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// How long ago the kind was heard of that was not heard of for longest; `None`: there is one that never was.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let ages: Option<Vec<_>> = self.ages(now).map(|(_, age)| age).collect();
        ages?.into_iter().max()
    }

    /// Whether all objects are known, and as they are now: all kinds were listed, and heard of in the last [`STALE`].
    pub fn is_current(&self, now: Instant) -> bool {
        let listed = self.kinds.iter().all(|kind| kind.listed.load(Relaxed));
        listed && self.age(now).is_some_and(|age| age < STALE)
    }

    /// How often lists and watches were begun again, by kind and reason.
    pub fn restarts(&self) -> impl Iterator<Item = (&'static str, Restart, u64)> {
        self.kinds.iter().flat_map(|kind| {
            Restart::ALL
                .into_iter()
                .map(|why| (kind.name, why, kind.restarts[why as usize].load(Relaxed)))
        })
    }

    fn find(&self, kind: &str) -> impl Iterator<Item = &Kind> {
        self.kinds.iter().filter(move |known| known.name == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_current_while_all_kinds_are_listed_and_heard_of() {
        let pulse = Pulse::new(&["a", "b"]);
        let now = Instant::now();
        assert_eq!(pulse.age(now), None);
        pulse.heard("a", now);
        pulse.listed("a");
        assert_eq!(pulse.age(now), None);
        assert!(!pulse.is_current(now), "b was never listed");
        pulse.heard("b", now);
        assert!(!pulse.is_current(now), "b was heard of, but not listed");
        pulse.listed("b");
        assert!(pulse.is_current(now));

        let later = now + Duration::from_secs(100);
        pulse.heard("a", later);
        assert!(pulse.age(later).unwrap() >= Duration::from_secs(100));
        assert!(pulse.is_current(later));
        let much_later = now + STALE + Duration::from_secs(1);
        pulse.heard("a", much_later);
        assert!(!pulse.is_current(much_later), "b is silent");
        pulse.heard("b", much_later);
        assert!(pulse.is_current(much_later));
    }

    #[test]
    fn restarts_are_counted_by_kind_and_reason() {
        let pulse = Pulse::new(&["a", "b"]);
        pulse.restarted("b", Restart::Gone);
        pulse.restarted("b", Restart::Gone);
        let counted: Vec<_> = pulse
            .restarts()
            .filter(|(_, _, count)| *count > 0)
            .collect();
        assert_eq!(counted, [("b", Restart::Gone, 2)]);
        for (index, why) in Restart::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, index);
        }
    }
}
