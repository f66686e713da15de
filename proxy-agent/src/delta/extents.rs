//! Ranges of the flat array `SLOTS`.

use std::collections::{BTreeMap, BTreeSet};

/// A range of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Extent {
    /// First slot.
    pub offset: u32,
    /// Number of slots, at least 1.
    pub len: u32,
}

/// Free ranges, never adjacent. The smallest that is big enough is taken, of equals the lowest: in O(log n), where
/// first fit would walk over the holes that thousands of small lists leave.
#[derive(Clone, Debug)]
pub(super) struct Extents {
    by_offset: BTreeMap<u32, u32>,
    by_len: BTreeSet<(u32, u32)>,
    used: u32,
}

impl Extents {
    /// All of an array of `limit` slots.
    pub fn new(limit: u32) -> Self {
        let mut extents = Self {
            by_offset: BTreeMap::new(),
            by_len: BTreeSet::new(),
            used: 0,
        };
        if limit > 0 {
            extents.insert(Extent {
                offset: 0,
                len: limit,
            });
        }
        extents
    }

    fn insert(&mut self, extent: Extent) {
        self.by_offset.insert(extent.offset, extent.len);
        self.by_len.insert((extent.len, extent.offset));
    }

    fn remove(&mut self, extent: Extent) {
        self.by_offset.remove(&extent.offset);
        self.by_len.remove(&(extent.len, extent.offset));
    }

    /// Takes `len` slots in a row; `None` if no free range is that long.
    pub fn take(&mut self, len: u32) -> Option<Extent> {
        let &(free, offset) = self.by_len.range((len, 0)..).next()?;
        self.remove(Extent { offset, len: free });
        if free > len {
            self.insert(Extent {
                offset: offset + len,
                len: free - len,
            });
        }
        self.used += len;
        Some(Extent { offset, len })
    }

    /// Takes a range that is known to be in use; `false` if part of it is not free.
    pub fn claim(&mut self, wanted: Extent) -> bool {
        let Some((&offset, &len)) = self.by_offset.range(..=wanted.offset).next_back() else {
            return false;
        };
        let (end, wanted_end) = (offset + len, wanted.offset.saturating_add(wanted.len));
        if wanted.len == 0 || wanted_end > end {
            return false;
        }
        self.remove(Extent { offset, len });
        if offset < wanted.offset {
            self.insert(Extent {
                offset,
                len: wanted.offset - offset,
            });
        }
        if wanted_end < end {
            self.insert(Extent {
                offset: wanted_end,
                len: end - wanted_end,
            });
        }
        self.used += wanted.len;
        true
    }

    /// Gives a range back, and joins it with free neighbours.
    pub fn give(&mut self, extent: Extent) {
        let mut joined = extent;
        if let Some((&offset, &len)) = self.by_offset.range(..extent.offset).next_back() {
            debug_assert!(
                offset + len <= extent.offset,
                "{extent:?} was given back twice"
            );
            if offset + len == extent.offset {
                self.remove(Extent { offset, len });
                joined = Extent {
                    offset,
                    len: len + joined.len,
                };
            }
        }
        if let Some((&offset, &len)) = self.by_offset.range(extent.offset..).next() {
            debug_assert!(
                offset >= extent.offset + extent.len,
                "{extent:?} was given back twice"
            );
            if offset == extent.offset + extent.len {
                self.remove(Extent { offset, len });
                joined.len += len;
            }
        }
        self.insert(joined);
        self.used -= extent.len;
    }

    /// Slots in use.
    pub fn used(&self) -> usize {
        self.used as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_claimed_range_is_taken_out_of_the_middle() {
        let mut extents = Extents::new(10);
        assert!(extents.claim(Extent { offset: 4, len: 2 }));
        assert!(!extents.claim(Extent { offset: 5, len: 1 }));
        assert!(!extents.claim(Extent { offset: 9, len: 2 }));
        assert_eq!(extents.used(), 2);
        assert_eq!(extents.take(5), None);
        assert_eq!(extents.take(4), Some(Extent { offset: 0, len: 4 }));
    }

    proptest! {
        /// Whatever is taken and given back: nothing overlaps, nothing leaks, and in the end all is one range again.
        #[test]
        fn ranges_never_overlap_and_never_leak(steps in prop::collection::vec((any::<bool>(), 1u32..9, any::<prop::sample::Index>()), 1..200)) {
            const LIMIT: u32 = 64;
            let mut extents = Extents::new(LIMIT);
            let mut taken: Vec<Extent> = Vec::new();
            let mut owner = [false; LIMIT as usize];
            for (take, len, which) in steps {
                if take || taken.is_empty() {
                    if let Some(extent) = extents.take(len) {
                        for slot in extent.offset..extent.offset + extent.len {
                            prop_assert!(!std::mem::replace(&mut owner[slot as usize], true));
                        }
                        taken.push(extent);
                    } else {
                        let longest = owner.split(|used| *used).map(<[bool]>::len).max().unwrap_or(0);
                        prop_assert!(longest < len as usize, "refused though {longest} slots in a row are free");
                    }
                } else {
                    let extent = taken.swap_remove(which.index(taken.len()));
                    for slot in extent.offset..extent.offset + extent.len {
                        owner[slot as usize] = false;
                    }
                    extents.give(extent);
                }
                prop_assert_eq!(extents.used(), owner.iter().filter(|used| **used).count());
            }
            for extent in taken {
                extents.give(extent);
            }
            prop_assert_eq!(extents.take(LIMIT), Some(Extent { offset: 0, len: LIMIT }));
        }
    }
}
