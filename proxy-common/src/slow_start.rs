//! Slow start: a backend that began to serve lately takes only a part of what its algorithm would give it. That part grows
//! with its age, from a tenth to the whole (semantics L1).
//!
//! In each choice chance says of each backend that is new whether it takes part. Nothing is rewritten meanwhile, and nobody
//! is refused: who takes no part is followed by another pick, and the last pick stands.

use crate::{
    abi::target::{Algorithm, Slot},
    balance::{self, Draw, Found},
    hash, load,
    tables::Tables,
};

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// Ages are compared in units of 2^20 ns, about a millisecond: so the longest window has 32 bits.
const UNIT: u32 = 20;
/// The youngest take part in one of so many choices.
const LEAST: u32 = 10;
/// Picks for one choice, at most.
const PICKS: u32 = 8;
/// Makes other draws of a draw.
const ANOTHER: u32 = 0x51a9_0000;

/// Chooses again where the backend that was chosen by a draw is new and takes no part; gives what is chosen in the end.
///
/// For Maglev the client's hash alone decides, for each backend by its address, against an age that only grows: so a client
/// comes to a new backend once. For least connections the heavier of two takes the place of a lighter one that takes no
/// part: else a new backend, which has no connections, would be drawn time and again.
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

/// How long backends are young, seen from now. Nanoseconds.
#[derive(Clone, Copy)]
struct Window {
    now: u64,
    length: u64,
}

impl Window {
    /// Whether a backend serves, and takes part in a choice that has this number.
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

    /// Whether one that is new takes part.
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

    /// In how many of 100,000 choices a backend of an age takes part. Age and window in nanoseconds.
    fn admitted(age: u64, length: u64) -> u32 {
        // The clock has passed 2^32 of anything, and 2^63 of nanoseconds.
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
            // 100,000 draws of probability p are 5 standard deviations, at most 800, from their mean once in two million.
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
        // Not marked, whatever the clock says.
        assert!(!window(SECOND).is_new(0));
    }
}
