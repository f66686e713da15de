//! Hashes for choosing backends: cheap in BPF, and well distributed.

/// The finalizer of MurmurHash3 (32 bit).
#[inline(always)]
pub const fn finish(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// One round of MurmurHash3 (32 bit).
#[inline(always)]
pub const fn mix(h: u32, word: u32) -> u32 {
    let k = word
        .wrapping_mul(0xcc9e_2d51)
        .rotate_left(15)
        .wrapping_mul(0x1b87_3593);
    (h ^ k)
        .rotate_left(13)
        .wrapping_mul(5)
        .wrapping_add(0xe654_6b64)
}

/// Unkeyed hash of five words.
#[inline(always)]
pub const fn mix5(a: u32, b: u32, c: u32, d: u32, e: u32) -> u32 {
    finish(mix(mix(mix(mix(mix(0, a), b), c), d), e))
}

/// Maps a hash to a number below `n`, with negligible bias (Lemire's reduction).
#[inline(always)]
pub const fn below(hash: u32, n: u32) -> u32 {
    ((hash as u64 * n as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_is_even_over_hashes() {
        let mut hits = [0u32; 3];
        for i in 0..30_000 {
            hits[below(mix5(i, 1, 2, 3, 4), 3) as usize] += 1;
        }
        assert!(hits.iter().all(|h| (9_600..10_400).contains(h)), "{hits:?}");
    }
}
