//! Maglev tables: slots in which a hash finds a backend, the same on every node, and nearly the same after one backend
//! has come or gone (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4).

use std::net::IpAddr;

use crate::plan::BackendPlan;

mod turns;

/// Sizes of tables, primes, and up to how many backends they are for. A table's size decides about all of it, so it must
/// not follow each change of the number of backends.
///
/// One backend that leaves moves some of the others' entries too: of a hundred backends less than 1 % of all entries with
/// 32,749 of them (and 1.4 % with 16,381); of eight backends 2 %, for which their tables take 8 KiB and not 128.
const SIZES: [(usize, usize); 4] = [(8, 1_021), (32, 8_191), (128, 32_749), (65_521, 65_521)];

/// How many entries are looked at to fill a table, for each that it has. By chance it takes about the logarithm of the
/// size, 12 at most, and hardly ever twice that. But whoever chooses addresses and ports can choose them so that all
/// backends prefer the same entries. Then the rest of the entries are given in order: shares stay what they are, only
/// more clients move when such a list changes.
const PROBES_PER_ENTRY: usize = 32;

/// An entry that is not taken yet. No index is as great.
const NOBODY: u16 = u16::MAX;

/// A backend, as all nodes know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    address: IpAddr,
    port: u16,
    weight: u32,
}

impl From<&BackendPlan> for Place {
    fn from(plan: &BackendPlan) -> Self {
        Self {
            address: plan.address,
            port: plan.port,
            weight: plan.weight.max(1),
        }
    }
}

/// The order in which a backend asks for entries: a permutation of all of them.
struct Preference {
    next: usize,
    skip: usize,
}

impl Preference {
    fn new(place: &Place, size: usize) -> Self {
        let hash = hash(place);
        let below = |hash: u64, n: usize| (hash % n as u64) as usize;
        Self {
            next: below(hash, size),
            skip: 1 + below(scramble(hash), size - 1),
        }
    }

    fn take_next(&mut self, size: usize) -> usize {
        let entry = self.next;
        self.next += self.skip;
        if self.next >= size {
            self.next -= size;
        }
        entry
    }
}

/// Indices of backends, entry by entry, in proportion to their weights. All nodes make the same table of the same
/// places, in whatever order. `None` if there are more backends than entries in the greatest table.
pub(super) fn table(places: &[Place]) -> Option<Vec<u16>> {
    let size = entries(places.len())?;
    fill(places, size, &mut (PROBES_PER_ENTRY * size))
}

/// The number of entries of the table for a number of backends; `None` if there are more than a table can hold.
pub(super) fn entries(backends: usize) -> Option<usize> {
    if backends < 2 {
        return Some(backends);
    }
    let fits = SIZES.into_iter().find(|(most, _)| backends <= *most)?;
    Some(fits.1)
}

/// Fills a table of `size` entries. Takes each entry that it looks at off `probes`.
fn fill(places: &[Place], size: usize, probes: &mut usize) -> Option<Vec<u16>> {
    if places.len() < 2 {
        return Some(vec![0; places.len()]);
    }
    let mut order: Vec<u16> = (0..u16::try_from(places.len()).ok()?).collect();
    order.sort_by_key(|&i| (places[usize::from(i)].address, places[usize::from(i)].port));
    let in_order = || order.iter().map(|&i| &places[usize::from(i)]);
    let weights: Vec<u64> = in_order().map(|place| u64::from(place.weight)).collect();
    let mut preferences: Vec<_> = in_order().map(|p| Preference::new(p, size)).collect();
    let mut entries = vec![NOBODY; size];
    let mut lowest_free = 0;
    for turn in turns::turns(&weights, size).into_iter().map(usize::from) {
        let wanted = std::iter::repeat_with(|| preferences[turn].take_next(size))
            .take(*probes)
            .inspect(|_| *probes -= 1)
            .find(|&entry| entries[entry] == NOBODY);
        let entry = if let Some(entry) = wanted {
            entry
        } else {
            lowest_free += entries[lowest_free..].iter().position(|e| *e == NOBODY)?;
            lowest_free
        };
        entries[entry] = order[turn];
    }
    Some(entries)
}

/// FNV-1a (64 bit) of address and port, scrambled.
fn hash(place: &Place) -> u64 {
    let address = match place.address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let bytes = address.into_iter().chain(place.port.to_be_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    scramble(hash)
}

/// The output function of `SplitMix64` (Steele, Lea, Flood 2014).
const fn scramble(hash: u64) -> u64 {
    let z = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
