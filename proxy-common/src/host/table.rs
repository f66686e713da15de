//! A BPF hash map.

use std::{cell::RefCell, collections::BTreeMap};

use crate::tables::Insert;

/// A hash or LRU hash map. When full, a hash rejects insertions, and an LRU hash evicts the least recently used
/// element.
#[derive(Clone, Debug)]
pub struct Table<K, V> {
    elements: RefCell<Elements<K, V>>,
    capacity: usize,
    forgets: bool,
}

#[derive(Clone, Debug)]
struct Elements<K, V> {
    by_key: BTreeMap<K, Element<V>>,
    uses: u64,
}

#[derive(Clone, Debug)]
struct Element<V> {
    value: V,
    used: u64,
}

impl<K: Copy + Ord, V: Copy> Table<K, V> {
    /// An empty hash map.
    pub const fn hash(capacity: usize) -> Self {
        Self::new(capacity, false)
    }

    /// An empty LRU hash map.
    pub const fn lru(capacity: usize) -> Self {
        Self::new(capacity, true)
    }

    const fn new(capacity: usize, forgets: bool) -> Self {
        Self {
            elements: RefCell::new(Elements {
                by_key: BTreeMap::new(),
                uses: 0,
            }),
            capacity,
            forgets,
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<V> {
        let elements = &mut *self.elements.borrow_mut();
        let element = elements.by_key.get_mut(key)?;
        elements.uses += 1;
        element.used = elements.uses;
        Some(element.value)
    }

    /// Inserts or replaces. Returns false if the table is full.
    pub fn put(&self, key: K, value: V) -> bool {
        self.remove(&key);
        self.insert(key, value) == Insert::Done
    }

    /// Inserts, and never replaces.
    pub fn insert(&self, key: K, value: V) -> Insert {
        let elements = &mut *self.elements.borrow_mut();
        if elements.by_key.contains_key(&key) {
            return Insert::Exists;
        }
        if elements.by_key.len() >= self.capacity && !(self.forgets && elements.forget()) {
            return Insert::Full;
        }
        elements.uses += 1;
        let used = elements.uses;
        elements.by_key.insert(key, Element { value, used });
        Insert::Done
    }

    /// Changes a value in place. Returns false if the key does not exist.
    pub fn modify(&self, key: &K, change: impl FnOnce(&mut V)) -> bool {
        let found = &mut self.elements.borrow_mut().by_key;
        found
            .get_mut(key)
            .map(|element| change(&mut element.value))
            .is_some()
    }

    /// Removes a key. Returns false if it does not exist.
    pub fn remove(&self, key: &K) -> bool {
        self.elements.borrow_mut().by_key.remove(key).is_some()
    }

    /// Removes all elements.
    pub fn clear(&self) {
        self.elements.borrow_mut().by_key.clear();
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.elements.borrow().by_key.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All elements, sorted by key. Does not count as use.
    pub fn entries(&self) -> Vec<(K, V)> {
        let elements = self.elements.borrow();
        let all = elements.by_key.iter();
        all.map(|(key, element)| (*key, element.value)).collect()
    }
}

impl<K: Copy + Ord, V> Elements<K, V> {
    /// Evicts the least recently used element. Returns false if there is none.
    fn forget(&mut self) -> bool {
        let oldest = self
            .by_key
            .iter()
            .min_by_key(|(_, element)| element.used)
            .map(|(key, _)| *key);
        oldest.is_some_and(|key| self.by_key.remove(&key).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_hash_refuses_and_a_full_lru_forgets_what_was_used_least() {
        let hash = Table::hash(2);
        assert_eq!(hash.insert(1, 'a'), Insert::Done);
        assert_eq!(hash.insert(1, 'b'), Insert::Exists);
        assert_eq!(hash.insert(2, 'b'), Insert::Done);
        assert_eq!(hash.insert(3, 'c'), Insert::Full);

        let lru = Table::lru(2);
        assert!(lru.put(1, 'a') && lru.put(2, 'b'));
        assert_eq!(lru.get(&1), Some('a'));
        assert_eq!(lru.insert(3, 'c'), Insert::Done);
        assert_eq!(lru.entries(), [(1, 'a'), (3, 'c')]);
    }
}
