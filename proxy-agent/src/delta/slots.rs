//! The slots of a list of backends, for choosing in it at random or in turn.

/// Most slots of a target: its word has 16 bits for them.
pub(super) const MAX_SLOTS: usize = u16::MAX as usize;

/// Slots for weighted lists: this many at least are allowed, so that two backends may differ 1 : 255 …
const MIN_WEIGHTED: u64 = 256;
/// … and this many for each backend.
const WEIGHTED_EACH: u64 = 8;

/// Indices of backends, slot by slot. Where weights differ, backends are repeated in their proportion: exactly, where
/// that needs no more than 256 slots or 8 for each backend, else as near as that allows. A backend that is listed has
/// a slot whatever its weight: leaving it out is the policy's decision.
///
/// Repetitions are spread: the first slots name each backend once. `None` if there are more backends than slots.
pub(super) fn layout(weights: &[u32]) -> Option<Vec<u16>> {
    let n = u16::try_from(weights.len()).ok()?;
    if weights.windows(2).all(|pair| pair[0] == pair[1]) {
        return Some((0..n).collect());
    }
    let mut left: Vec<(u16, u64)> = (0..n).zip(counts(weights)).collect();
    let mut slots = Vec::new();
    // Each round costs what it adds: those that have all their slots are not looked at again.
    while !left.is_empty() {
        slots.extend(left.iter().map(|(i, _)| *i));
        left.retain_mut(|(_, count)| {
            *count -= 1;
            *count > 0
        });
    }
    Some(slots)
}

fn counts(weights: &[u32]) -> Vec<u64> {
    let divisor = u64::from(weights.iter().copied().fold(0, gcd).max(1));
    let n = weights.len() as u64;
    let sum = weights.iter().map(|&w| u64::from(w)).sum::<u64>().max(1);
    let limit = MIN_WEIGHTED
        .max(WEIGHTED_EACH * n)
        .min((MAX_SLOTS as u64).saturating_sub(n));
    let scaled = |w: u64| {
        if sum / divisor <= limit {
            w / divisor
        } else {
            (w * limit + sum / 2) / sum
        }
    };
    weights
        .iter()
        .map(|&w| scaled(u64::from(w)).max(1))
        .collect()
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[u32]) -> Vec<usize> {
        let slots = layout(weights).unwrap();
        (0..weights.len())
            .map(|i| slots.iter().filter(|s| usize::from(**s) == i).count())
            .collect()
    }

    #[test]
    fn equal_weights_take_one_slot_each() {
        assert_eq!(layout(&[100; 4]), Some(vec![0, 1, 2, 3]));
        assert_eq!(layout(&[]), Some(vec![]));
        assert_eq!(layout(&[0, 0]), Some(vec![0, 1]));
    }

    #[test]
    fn weights_repeat_slots_in_proportion() {
        assert_eq!(layout(&[200, 100, 100]), Some(vec![0, 1, 2, 0]));
        assert_eq!(shares(&[1, 100]), [1, 100]);
        assert_eq!(shares(&[0, 3]), [1, 1], "listed is listed");
    }

    #[test]
    fn extreme_weights_make_no_more_work() {
        let mut even = vec![1; 30_000];
        let mut heavy = even.clone();
        even[..15_000].fill(2);
        heavy[9] = 65_535;
        let slots = layout(&heavy).unwrap();
        assert!(slots.len() <= MAX_SLOTS);
        assert!(slots[..30_000].iter().copied().eq(0..30_000));
        assert!(slots[30_000..].iter().all(|slot| *slot == 9));
        let took = |weights: &[u32]| {
            let times = (0..3).map(|_| {
                let began = std::time::Instant::now();
                assert!(layout(weights).is_some());
                began.elapsed()
            });
            times.min().unwrap_or_default()
        };
        let (even, heavy) = (took(&even), took(&heavy));
        println!("even {even:?}, one heavy {heavy:?}");
        assert!(heavy < even * 20, "even {even:?}, one heavy {heavy:?}");
    }

    #[test]
    fn extreme_weights_stay_within_bounds() {
        assert_eq!(shares(&[1, u32::MAX]), [1, 256]);
        let mut many = vec![1; MAX_SLOTS];
        many[7] = u32::MAX;
        assert_eq!(layout(&many).unwrap().len(), MAX_SLOTS);
        many.push(1);
        assert_eq!(layout(&many), None);
    }
}
