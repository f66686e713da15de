//! Whose turn it is to take an entry of a Maglev table.

/// Indices of `weights`, turn by turn, for a table of `size` entries. There are no more weights than entries.
///
/// All take one entry in the first round, in list order. After it, a backend earns `weight / heaviest` of an entry in each
/// round and takes one whenever it has earned a whole one: its `k`-th in round `k × heaviest / weight`, rounded up.
/// Each number of rounds follows from a division, so the work grows with `size` alone, however much the weights differ.
pub(super) fn turns(weights: &[u64], size: usize) -> Vec<u16> {
    let indices = 0..u16::try_from(weights.len()).unwrap_or(u16::MAX);
    let Some(heaviest) = weights.iter().copied().max() else {
        return Vec::new();
    };
    if weights.iter().all(|weight| *weight == heaviest) {
        return indices.cycle().take(size).collect();
    }
    let rounds = last_round(weights, heaviest, size);
    let earned = |weight: u64| {
        (1..=rounds * weight / heaviest).map(move |k| (k * heaviest).div_ceil(weight) as usize)
    };
    // Turns are sorted by round. Within a round, list order stands.
    let mut starts = vec![0; rounds as usize + 2];
    starts[1] = weights.len();
    for round in weights.iter().flat_map(|weight| earned(*weight)) {
        starts[round + 1] += 1;
    }
    for round in 1..starts.len() {
        starts[round] += starts[round - 1];
    }
    let mut turns = vec![0; starts[rounds as usize + 1]];
    for (index, &weight) in indices.zip(weights) {
        for round in std::iter::once(0).chain(earned(weight)) {
            turns[starts[round]] = index;
            starts[round] += 1;
        }
    }
    turns.truncate(size);
    turns
}

/// The round in which the last entry is taken, where all have one before the first. The heaviest takes one in each round.
fn last_round(weights: &[u64], heaviest: u64, size: usize) -> u64 {
    let taken = |rounds: u64| {
        let earned = weights.iter().map(|weight| rounds * weight / heaviest);
        weights.len() as u64 + earned.sum::<u64>()
    };
    let (mut enough, mut too_few) = (size as u64, 0);
    while enough - too_few > 1 {
        let middle = too_few.midpoint(enough);
        if taken(middle) < size as u64 {
            too_few = middle;
        } else {
            enough = middle;
        }
    }
    enough
}
