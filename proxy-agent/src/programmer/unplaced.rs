//! Entries that a map has no room for, to be told.

use std::fmt;

/// How many are named; the others are counted.
const NAMED: usize = 8;

/// Entries that are not in a map because it is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// Map.
    pub map: &'static str,
    /// Entries.
    pub entries: Vec<String>,
}

impl Unplaced {
    pub(super) fn of<K>(
        map: &'static str,
        keys: Vec<K>,
        name: impl Fn(K) -> String,
    ) -> Option<Self> {
        let entries: Vec<_> = keys.into_iter().map(name).collect();
        (!entries.is_empty()).then_some(Self { map, entries })
    }
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = &self.entries[..self.entries.len().min(NAMED)];
        write!(
            f,
            "the map {} is full, without {}",
            self.map,
            named.join(", ")
        )?;
        match self.entries.len() - named.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
