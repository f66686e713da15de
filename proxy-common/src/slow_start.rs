//! Slow start: a new backend gets only a part of the connections that its algorithm would give it. The part
//! grows with the backend's age, from a tenth to the whole (semantics L1).
//!
//! At each choice, a random number decides whether a new backend takes part. No map changes as a backend ages,
//! and no connection is refused: if the chosen backend takes no part, another is chosen, and the last choice
//! stands.

use crate::{
    abi::target::{Algorithm, Slot},
    balance::{self, Draw, Found},
    hash, load,
    tables::Tables,
};

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// Ages are compared in units of 2^20 ns (about 1 ms), so that the longest window fits in 32 bits.
const UNIT: u32 = 20;
/// The newest backends take part in one of this many choices.
const LEAST: u32 = 10;
/// Maximum number of backends considered for one choice.
const PICKS: u32 = 8;
/// Derives further random numbers from a first one.
const ANOTHER: u32 = 0x51a9_0000;

/// Returns `chosen`, or another backend's slot if `chosen` is new and takes no part.
///
/// For Maglev, the decision depends only on the client's hash and the backend's address, compared with an age
/// that only grows. So each client moves to a new backend once. For least connections, the other one of the two
/// drawn backends is considered next: in a fresh draw, a new backend would win again and again, because it has
/// no connections.
#[inline(always)]
pub fn reconsider<T: Tables>(t: &mut T, found: &Found, first: Draw, chosen: Slot) -> Slot {
    let word = found.word;
    let window = Window {
        now: t.monotonic(),
        length: u64::from(found.slow_start) * SECOND,
    };
    let first = match word.algorithm() {
        Algorithm::Maglev => first.shared,
        _ => first.random,
    };
    if window.admits(t, chosen, first) {
        return chosen;
    }
    let count = u32::from(word.count());
    let mut slot = chosen;
    if matches!(word.algorithm(), Algorithm::LeastConnections)
        && let Some((_, heavier)) = load::by_weight(t, word, first)
        && let Some(other) = t.slot(word.offset().wrapping_add(heavier))
    {
        slot = other;
    }
    let mut draw = first;
    let mut picks = 1;
    while picks < PICKS && !window.admits(t, slot, first) {
        draw = hash::finish(draw ^ ANOTHER ^ picks);
        let index = match word.algorithm() {
            Algorithm::RoundRobin => t.turn(found.target).checked_rem(count),
            _ => Some(hash::below(draw, count)),
        };
        slot = match index.and_then(|index| t.slot(word.offset().wrapping_add(index))) {
            Some(slot) => slot,
            None => return chosen,
        };
        picks += 1;
    }
    slot
}

/// Current time and duration of slow start, in nanoseconds.
#[derive(Clone, Copy)]
struct Window {
    now: u64,
    length: u64,
}

impl Window {
    /// Whether a backend serves and takes part in the choice with the random number `chance`.
    #[inline(always)]
    fn admits<T: Tables>(&self, t: &mut T, slot: Slot, chance: u32) -> bool {
        let Some(backend) = balance::serving(t, slot) else {
            return false;
        };
        if !self.is_new(backend.since) {
            return true;
        }
        let [a, b, c, d] = backend.addr.words();
        let place = a ^ b ^ c ^ d ^ u32::from(backend.port.get()) << 16;
        self.admits_since(backend.since, hash::finish(hash::mix(chance, place)))
    }

    #[inline(always)]
    const fn is_new(&self, since: u64) -> bool {
        since != 0 && self.now.wrapping_sub(since) < self.length
    }

    /// Whether a new backend takes part.
    #[inline(always)]
    const fn admits_since(&self, since: u64, chance: u32) -> bool {
        let age = self.now.wrapping_sub(since);
        let (age, length) = ((age >> UNIT) as u32, (self.length >> UNIT) as u32);
        let least = length / LEAST;
        hash::below(chance, length) < if age > least { age } else { least }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In how many of 100,000 choices a backend of this age takes part. Age and window in nanoseconds.
    fn admitted(age: u64, length: u64) -> u32 {
        // Includes times beyond 2^32 and 2^63, and a wrap of the 64-bit clock.
        [1, 1 << 40, u64::MAX - SECOND]
            .map(|since: u64| {
                let window = Window {
                    now: since.wrapping_add(age),
                    length,
                };
                (0..100_000)
                    .filter(|n| {
                        !window.is_new(since) || window.admits_since(since, hash::finish(*n))
                    })
                    .fold(0, |count, _| count + 1)
            })
            .into_iter()
            .reduce(|a, b| {
                assert_eq!(a, b, "age {age} of {length}");
                a
            })
            .unwrap()
    }

    #[test]
    fn l1_the_part_grows_from_a_tenth_to_the_whole_in_the_shortest_and_the_longest_window() {
        for length in [SECOND, 30 * SECOND, u64::from(u16::MAX) * SECOND] {
            // For 100,000 draws of any probability, five standard deviations are at most 800; a larger
            // deviation occurs about once in two million runs.
            for (percent, part) in [(0, 0.1), (5, 0.1), (25, 0.25), (50, 0.5), (99, 0.99)] {
                let hits = f64::from(admitted(length / 100 * percent, length));
                assert!((hits - part * 1e5).abs() < 800.0, "{percent} %: {hits}");
            }
            assert_eq!(admitted(length, length), 100_000);
        }
    }

    #[test]
    fn l1_who_is_old_is_never_young_again() {
        let window = |now| Window {
            now,
            length: 30 * SECOND,
        };
        for age in [30, 1 << 22, 1 << 32, 1 << 33].map(|seconds: u64| seconds * SECOND) {
            assert!(!window(7 + age).is_new(7), "{age}");
        }
        assert!(window(7 + 30 * SECOND - 1).is_new(7));
        // `since` 0 means not new, at any time.
        assert!(!window(SECOND).is_new(0));
    }
}
