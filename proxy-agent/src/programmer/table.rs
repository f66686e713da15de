//! A map whose entries stand each for itself: this node's addresses, its devices.

use std::collections::BTreeMap;

use crate::maps::{ApplyError, Op};

/// What is to stand in a map, and what does.
#[derive(Clone, Debug)]
pub(super) struct Table<K, V> {
    /// `None`: nobody has said yet; nothing is changed.
    desired: Option<BTreeMap<K, V>>,
    /// An entry that may or may not have been written is `None`.
    actual: BTreeMap<K, Option<V>>,
}

impl<K: Copy + Ord, V: Copy + PartialEq> Table<K, V> {
    /// A map as it was found.
    pub fn new(found: BTreeMap<K, V>) -> Self {
        Self {
            desired: None,
            actual: found
                .into_iter()
                .map(|(key, value)| (key, Some(value)))
                .collect(),
        }
    }

    /// What is to stand in it.
    pub fn set(&mut self, desired: BTreeMap<K, V>) {
        self.desired = Some(desired);
    }

    /// The difference: what is new or otherwise, then what is too much.
    fn difference(&self) -> Vec<(K, Option<V>)> {
        let Some(desired) = &self.desired else {
            return Vec::new();
        };
        let puts = desired
            .iter()
            .filter(|(key, value)| self.actual.get(key) != Some(&Some(**value)));
        let deletes = self.actual.keys().filter(|key| !desired.contains_key(key));
        puts.map(|(key, value)| (*key, Some(*value)))
            .chain(deletes.map(|key| (*key, None)))
            .collect()
    }

    /// Whether there is a difference.
    pub fn is_settled(&self) -> bool {
        self.difference().is_empty()
    }

    /// Writes the difference.
    pub fn flush(
        &mut self,
        op: impl Fn(K, Option<V>) -> Op,
        write: impl FnOnce(&[Op]) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        let difference = self.difference();
        if difference.is_empty() {
            return Ok(());
        }
        let ops: Vec<Op> = difference
            .iter()
            .map(|&(key, value)| op(key, value))
            .collect();
        let result = write(&ops);
        let applied = result
            .as_ref()
            .map_or_else(|error| error.index, |()| ops.len());
        for (index, (key, value)) in difference.into_iter().enumerate() {
            match value {
                _ if index >= applied => self.actual.insert(key, None),
                Some(value) => self.actual.insert(key, Some(value)),
                None => self.actual.remove(&key),
            };
        }
        result
    }
}
