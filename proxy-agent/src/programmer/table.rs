//! A map whose entries stand each for itself: this node's addresses, its devices.

use std::collections::{BTreeMap, BTreeSet};

use crate::maps::{ApplyError, Op};

/// What is to stand in a map, and what does.
#[derive(Clone, Debug)]
pub(super) struct Table<K, V> {
    /// `None`: nobody has said yet; nothing is changed.
    desired: Option<BTreeMap<K, V>>,
    /// An entry that may or may not have been written is `None`.
    actual: BTreeMap<K, Option<V>>,
    /// Entries that the map has no room for. They are tried again when others were deleted.
    unplaced: BTreeSet<K>,
    /// Those of `unplaced` that were reported.
    reported: BTreeSet<K>,
}

/// What came of writing a table.
#[derive(Debug)]
pub(super) struct Flushed<K> {
    /// Entries that could not be written, and are tried again.
    pub failed: Vec<ApplyError>,
    /// Entries that the map has no room for, and that were not reported before.
    pub unplaced: Vec<K>,
}

type Entry<K, V> = (K, Option<V>);

impl<K: Copy + Ord, V: Copy + PartialEq> Table<K, V> {
    /// A map as it was found.
    pub fn new(found: BTreeMap<K, V>) -> Self {
        let mut table = Self {
            desired: None,
            actual: BTreeMap::new(),
            unplaced: BTreeSet::new(),
            reported: BTreeSet::new(),
        };
        table.found(found);
        table
    }

    /// The map was read back.
    pub fn found(&mut self, found: BTreeMap<K, V>) {
        let found = found.into_iter();
        self.actual = found.map(|(key, value)| (key, Some(value))).collect();
        self.unplaced.clear();
    }

    /// What is to stand in it; says whether that is news. If not, what the map has no room for is not tried again.
    pub fn set(&mut self, desired: BTreeMap<K, V>) -> bool {
        let desired = Some(desired);
        if self.desired == desired {
            return false;
        }
        self.desired = desired;
        self.unplaced.clear();
        true
    }

    /// Entries that are new or changed. Changed ones come first, since they take no room.
    fn puts(&self) -> Vec<Entry<K, V>> {
        let desired = self.desired.iter().flatten();
        let differs = |(key, value): &(&K, &V)| self.actual.get(key) != Some(&Some(**value));
        let (changed, new): (Vec<_>, Vec<_>) = desired
            .filter(differs)
            .filter(|(key, _)| !self.unplaced.contains(key))
            .map(|(key, value)| (*key, Some(*value)))
            .partition(|(key, _)| self.actual.contains_key(key));
        changed.into_iter().chain(new).collect()
    }

    /// Entries that are not wanted any more.
    fn deletes(&self) -> Vec<Entry<K, V>> {
        let Some(desired) = &self.desired else {
            return Vec::new();
        };
        let unwanted = self.actual.keys().filter(|key| !desired.contains_key(key));
        unwanted.map(|key| (*key, None)).collect()
    }

    /// Whether nothing is to be written but what the map has no room for.
    pub fn is_settled(&self) -> bool {
        self.puts().is_empty() && self.deletes().is_empty()
    }

    /// How many entries the map has no room for.
    pub fn unplaced(&self) -> usize {
        self.unplaced.len()
    }

    /// Writes the difference. Entries are put before others are deleted, so that an address that stays is never missing. Where
    /// the map is full, they are put again after that. An entry that fails keeps no other from being written.
    pub fn flush(
        &mut self,
        op: impl Fn(K, Option<V>) -> Op,
        mut write: impl FnMut(&[Op]) -> Vec<ApplyError>,
    ) -> Flushed<K> {
        let mut step = |entries: &[Entry<K, V>]| {
            let ops: Vec<Op> = entries
                .iter()
                .map(|(key, value)| op(*key, *value))
                .collect();
            write(&ops)
        };
        let puts = self.puts();
        let mut failed = self.note(&puts, step(&puts));
        let (deletes, before) = (self.deletes(), self.actual.len());
        failed.extend(self.note(&deletes, step(&deletes)));
        if self.actual.len() < before && !self.unplaced.is_empty() {
            let unplaced = std::mem::take(&mut self.unplaced);
            let mut again = self.puts();
            again.retain(|(key, _)| unplaced.contains(key));
            failed.extend(self.note(&again, step(&again)));
        }
        let news = self.unplaced.difference(&self.reported).copied().collect();
        self.reported.clone_from(&self.unplaced);
        Flushed {
            failed,
            unplaced: news,
        }
    }

    /// Notes what was written; gives the failures but those for want of room.
    fn note(&mut self, entries: &[Entry<K, V>], errors: Vec<ApplyError>) -> Vec<ApplyError> {
        let failed: BTreeSet<usize> = errors.iter().map(|error| error.index).collect();
        for (index, (key, value)) in entries.iter().enumerate() {
            match value {
                _ if failed.contains(&index) => {}
                Some(value) => drop(self.actual.insert(*key, Some(*value))),
                None => drop(self.actual.remove(key)),
            }
        }
        let (full, failed): (Vec<_>, Vec<_>) = errors.into_iter().partition(ApplyError::is_full);
        self.unplaced
            .extend(full.iter().map(|error| entries[error.index].0));
        for error in &failed {
            self.actual.insert(entries[error.index].0, None);
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::addr::Addr;

    use super::*;
    use crate::maps::OpKind;

    /// A map with limited room, of which some keys can't be written.
    #[derive(Default)]
    struct Room {
        capacity: usize,
        broken: BTreeSet<u32>,
        entries: BTreeMap<u32, u32>,
        /// Entries that were missing at some time though they were there before and after.
        watched: Option<BTreeSet<u32>>,
    }

    impl Room {
        fn apply(&mut self, ops: &[Op]) -> Vec<ApplyError> {
            let mut errors = Vec::new();
            for (index, op) in ops.iter().enumerate() {
                let error = match *op {
                    Op::PutNodeAddr { addr, flags } => self.put(number(addr), flags),
                    Op::DeleteNodeAddr { addr } => {
                        let key = number(addr);
                        let stays = self.watched.iter().flatten().any(|stays| *stays == key);
                        assert!(!stays, "{key} was deleted");
                        self.entries.remove(&key);
                        None
                    }
                    _ => unreachable!(),
                };
                errors.extend(error.map(|code| ApplyError {
                    index,
                    kind: OpKind::PutNodeAddr,
                    source: std::io::Error::from_raw_os_error(code),
                }));
            }
            errors
        }

        fn put(&mut self, key: u32, value: u32) -> Option<i32> {
            if self.broken.contains(&key) {
                return Some(libc::EPERM);
            }
            if !self.entries.contains_key(&key) && self.entries.len() >= self.capacity {
                return Some(libc::E2BIG);
            }
            self.entries.insert(key, value);
            None
        }
    }

    fn addr(n: u32) -> Addr {
        Addr::v4(n.to_be_bytes())
    }

    fn number(addr: Addr) -> u32 {
        match addr.to_ip() {
            std::net::IpAddr::V4(ip) => ip.into(),
            std::net::IpAddr::V6(_) => unreachable!(),
        }
    }

    fn flush(table: &mut Table<Addr, u32>, room: &mut Room) -> (usize, Vec<u32>) {
        let flushed = table.flush(
            |addr, flags| match flags {
                Some(flags) => Op::PutNodeAddr { addr, flags },
                None => Op::DeleteNodeAddr { addr },
            },
            |ops| room.apply(ops),
        );
        let unplaced = flushed.unplaced.into_iter().map(number).collect();
        (flushed.failed.len(), unplaced)
    }

    fn wanted(range: impl Iterator<Item = u32>, value: u32) -> BTreeMap<Addr, u32> {
        range.map(|n| (addr(n), value)).collect()
    }

    #[test]
    fn a_full_map_takes_what_is_new_when_what_is_old_is_gone() {
        let mut room = Room {
            capacity: 4,
            ..Room::default()
        };
        let mut table = Table::new(BTreeMap::new());
        table.set(wanted(0..4, 1));
        assert_eq!(flush(&mut table, &mut room), (0, vec![]));
        // Two go, two come, two stay: the map was full all the time.
        room.watched = Some(BTreeSet::from([2, 3]));
        table.set(wanted(2..6, 2));
        assert_eq!(flush(&mut table, &mut room), (0, vec![]));
        assert!(table.is_settled());
        assert_eq!(room.entries, (2..6).map(|n| (n, 2)).collect());
    }

    #[test]
    fn what_has_no_room_is_said_once_and_keeps_nothing_else_from_the_map() {
        let mut room = Room {
            capacity: 3,
            ..Room::default()
        };
        let mut table = Table::new(BTreeMap::new());
        table.set(wanted(0..5, 1));
        assert_eq!(flush(&mut table, &mut room), (0, vec![3, 4]));
        assert_eq!((table.unplaced(), table.is_settled()), (2, true));
        // Changes of those that stand are written; those without room were reported.
        table.set(wanted(0..5, 2));
        assert_eq!(flush(&mut table, &mut room), (0, vec![]));
        assert_eq!(room.entries, (0..3).map(|n| (n, 2)).collect());
        table.set(wanted(1..6, 2));
        assert_eq!(flush(&mut table, &mut room), (0, vec![5]));
        assert_eq!(room.entries, (1..4).map(|n| (n, 2)).collect());
        table.set(wanted(3..6, 2));
        assert_eq!(flush(&mut table, &mut room), (0, vec![]));
        assert_eq!((table.unplaced(), table.is_settled()), (0, true));
        assert_eq!(room.entries, (3..6).map(|n| (n, 2)).collect());
    }

    #[test]
    fn entries_that_fail_keep_no_other_from_the_map_and_are_tried_again() {
        let mut room = Room {
            capacity: 100,
            broken: (0..20).collect(),
            ..Room::default()
        };
        let mut table = Table::new(BTreeMap::new());
        table.set(wanted(0..30, 1));
        assert_eq!(flush(&mut table, &mut room), (20, vec![]));
        assert_eq!(room.entries, (20..30).map(|n| (n, 1)).collect());
        assert!(!table.is_settled());
        room.broken.clear();
        assert_eq!(flush(&mut table, &mut room), (0, vec![]));
        assert_eq!(room.entries, (0..30).map(|n| (n, 1)).collect());
        assert!(table.is_settled());
    }
}
