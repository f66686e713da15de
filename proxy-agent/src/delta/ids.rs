//! Ids of targets, backends, Service ports, sets of ranges and names.

use std::collections::BTreeSet;

/// Hands out the lowest free id, from 1 up to below a limit.
#[derive(Clone, Debug)]
pub(super) struct Ids {
    /// Free ids below `next`.
    free: BTreeSet<u32>,
    next: u32,
    limit: u32,
}

impl Ids {
    /// Ids from 1 to `limit - 1`: those of an array of `limit` elements, of which the first is not used.
    pub fn new(limit: u32) -> Self {
        Self {
            free: BTreeSet::new(),
            next: 1,
            limit,
        }
    }

    /// The same with some ids in use.
    pub fn with_used(limit: u32, used: &BTreeSet<u32>) -> Self {
        let next = used.last().map_or(1, |last| last + 1);
        Self {
            free: (1..next).filter(|id| !used.contains(id)).collect(),
            next,
            limit,
        }
    }

    /// Takes an id; `None` if all are in use.
    pub fn take(&mut self) -> Option<u32> {
        if let Some(id) = self.free.pop_first() {
            return Some(id);
        }
        if self.next >= self.limit {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// Gives an id back.
    pub fn give(&mut self, id: u32) {
        debug_assert!(id > 0 && id < self.next, "id {id} was never taken");
        let fresh = self.free.insert(id);
        debug_assert!(fresh, "id {id} was given back twice");
    }

    /// How many are in use.
    pub fn used(&self) -> usize {
        self.next as usize - 1 - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_id_is_taken_first_and_the_limit_holds() {
        let mut ids = Ids::new(4);
        assert_eq!(
            [ids.take(), ids.take(), ids.take(), ids.take()],
            [Some(1), Some(2), Some(3), None]
        );
        ids.give(3);
        ids.give(1);
        assert_eq!(ids.used(), 1);
        assert_eq!(
            [ids.take(), ids.take(), ids.take()],
            [Some(1), Some(3), None]
        );
    }

    #[test]
    fn ids_in_use_are_not_taken() {
        let mut ids = Ids::with_used(6, &BTreeSet::from([2, 4]));
        assert_eq!(ids.used(), 2);
        assert_eq!(
            [ids.take(), ids.take(), ids.take(), ids.take()],
            [Some(1), Some(3), Some(5), None]
        );
    }
}
