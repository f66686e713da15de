//! Maglev tables: slots in which a hash finds a backend, the same on every node, and nearly the same after one backend
//! has come or gone (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4).

use std::net::IpAddr;

use crate::plan::BackendPlan;

/// Sizes of tables, primes, and up to how many backends they are for. A table's size decides about all of it, so it must
/// not follow each change of the number of backends.
///
/// One backend that leaves moves some of the others' entries too: of a hundred backends less than 1 % of all entries with
/// 32,749 of them (and 1.4 % with 16,381); of eight backends 2 %, for which their tables take 8 KiB and not 128.
const SIZES: [(usize, usize); 4] = [(8, 1_021), (32, 8_191), (128, 32_749), (65_521, 65_521)];

/// A backend, as all nodes know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// What it has earned of its next entry, of what the heaviest backend earns in a round.
    credit: u64,
    weight: u64,
}

impl Preference {
    fn new(place: &Place, size: usize, heaviest: u64) -> Self {
        let hash = hash(place);
        let below = |hash: u64, n: usize| (hash % n as u64) as usize;
        let weight = u64::from(place.weight);
        Self {
            next: below(hash, size),
            skip: 1 + below(scramble(hash), size - 1),
            // Everyone has an entry in the first round.
            credit: heaviest - weight,
            weight,
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
    if places.len() < 2 {
        return Some((0..places.len()).map(|_| 0).collect());
    }
    let size = size(places.len())?;
    let heaviest = places.iter().map(|p| u64::from(p.weight)).max()?;
    let mut order: Vec<u16> = (0..u16::try_from(places.len()).ok()?).collect();
    order.sort_by_key(|&i| (places[usize::from(i)].address, places[usize::from(i)].port));
    let mut preferences: Vec<(u16, Preference)> = order
        .into_iter()
        .map(|i| (i, Preference::new(&places[usize::from(i)], size, heaviest)))
        .collect();
    let mut entries = vec![None; size];
    let mut free = size;
    loop {
        for (i, preference) in &mut preferences {
            preference.credit += preference.weight;
            if preference.credit < heaviest {
                continue;
            }
            preference.credit -= heaviest;
            let mut entry = preference.take_next(size);
            while entries[entry].is_some() {
                entry = preference.take_next(size);
            }
            entries[entry] = Some(*i);
            free -= 1;
            if free == 0 {
                return entries.into_iter().collect();
            }
        }
    }
}

fn size(backends: usize) -> Option<usize> {
    let fits = SIZES.into_iter().find(|(most, _)| backends <= *most)?;
    Some(fits.1)
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
