//! Maglev tables that are made once for all targets with the same list, and are not made again while the list stays.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::maglev::{self, Place};
use crate::plan::BackendPlan;

/// All that a Maglev table depends on: addresses, ports and weights, in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct List(Arc<[Place]>);

/// A list and its table.
#[derive(Debug)]
pub struct Table {
    list: List,
    /// Indices of backends, entry by entry.
    pub(super) entries: Vec<u16>,
}

impl List {
    pub(super) fn new(backends: &[&BackendPlan]) -> Self {
        Self(backends.iter().map(|backend| (*backend).into()).collect())
    }

    /// The number of entries of the table; `None` if the list is too long for any.
    pub fn entries(&self) -> Option<usize> {
        maglev::entries(self.0.len())
    }

    /// Makes the table; `None` if the list is too long. This takes milliseconds where there are many backends.
    pub fn table(self) -> Option<Table> {
        let entries = maglev::table(&self.0)?;
        Some(Table {
            list: self,
            entries,
        })
    }
}

impl Table {
    /// Whether it is the table of these backends.
    pub(super) fn is_of(&self, backends: &[&BackendPlan]) -> bool {
        let places = backends.iter().map(|backend| Place::from(*backend));
        self.list.0.len() == backends.len() && self.list.0.iter().copied().eq(places)
    }
}

/// Tables at hand in one pass.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    known: HashMap<List, Arc<Table>>,
    /// How many were made here since the start.
    pub made: u64,
}

impl Tables {
    /// Puts a table at hand.
    pub fn put(&mut self, table: Arc<Table>) {
        self.known.insert(table.list.clone(), table);
    }

    /// Whether the table of a list is at hand.
    pub fn has(&self, list: &List) -> bool {
        self.known.contains_key(list)
    }

    /// The table of a list, made if need be; `None` if the list is too long.
    pub fn get(&mut self, list: List) -> Option<Arc<Table>> {
        if let Some(table) = self.known.get(&list) {
            return Some(Arc::clone(table));
        }
        let table = Arc::new(list.table()?);
        self.made += 1;
        self.put(Arc::clone(&table));
        Some(table)
    }

    /// The pass is over.
    pub fn clear(&mut self) {
        self.known.clear();
    }
}

/// The backends of a list, each once: a backend is told from others by address, port and whether it is local.
pub(super) fn distinct(backends: &[BackendPlan]) -> Vec<&BackendPlan> {
    let key = |backend: &BackendPlan| (backend.address, backend.port, backend.local);
    let mut listed: Vec<&BackendPlan> = backends.iter().collect();
    // Plans are sorted, so this is rarely needed.
    if !backends.is_sorted_by(|a, b| key(a) < key(b)) {
        let mut seen = HashSet::new();
        listed.retain(|backend| seen.insert(key(backend)));
    }
    listed
}
