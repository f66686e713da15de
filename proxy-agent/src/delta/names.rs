//! Names of nodes and zones, shared by the backends of all Services.
//!
//! The datapath never reads them, so they are written apart from the Services that use them: a name that could not be
//! written holds nobody up and is written the next time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proxy_common::abi::meta::Name;

use super::{
    ids::Ids,
    refusal::{Reason, Resource},
};
use crate::maps::{Op, codec};

#[derive(Clone, Debug)]
struct Entry {
    text: String,
    users: u32,
}

/// All names in use.
#[derive(Clone, Debug)]
pub(super) struct Names {
    entries: BTreeMap<u32, Entry>,
    by_text: HashMap<String, u32>,
    unwritten: BTreeSet<u32>,
    ids: Ids,
}

impl Names {
    /// No names; ids below `limit`.
    pub fn new(limit: u32) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_text: HashMap::new(),
            unwritten: BTreeSet::new(),
            ids: Ids::new(limit),
        }
    }

    /// The names that stand in the map, without users yet. Those that nobody is going to use, or that are no names,
    /// are left out: their ids, returned, are in use until they are given back.
    pub fn restore(
        limit: u32,
        written: &BTreeMap<&u32, &Name>,
        wanted: &BTreeSet<u32>,
    ) -> (Self, Vec<u32>) {
        let mut names = Self::new(limit);
        names.ids = Ids::with_used(limit, &written.keys().map(|id| **id).collect());
        let mut unwanted = Vec::new();
        for (&&id, name) in written {
            let text =
                codec::name_text(name).filter(|text| !text.is_empty() && wanted.contains(&id));
            match text {
                Some(text) if !names.by_text.contains_key(text) => {
                    names.by_text.insert(text.to_owned(), id);
                    let text = text.to_owned();
                    names.entries.insert(id, Entry { text, users: 0 });
                }
                _ => unwanted.push(id),
            }
        }
        (names, unwanted)
    }

    /// Id of a name for one more user; 0 for none.
    pub fn acquire(&mut self, text: Option<&str>) -> Result<u32, Reason> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(0);
        };
        if let Some(&id) = self.by_text.get(text) {
            self.add_user(id);
            return Ok(id);
        }
        if codec::name(text).is_none() {
            return Err(Reason::NameTooLong {
                name: text.to_owned(),
            });
        }
        let id = self.ids.take().ok_or(Reason::Full(Resource::Names))?;
        self.entries.insert(
            id,
            Entry {
                text: text.to_owned(),
                users: 1,
            },
        );
        self.by_text.insert(text.to_owned(), id);
        self.unwritten.insert(id);
        Ok(id)
    }

    /// One more user of an id; `false` if it names nothing.
    pub fn add_user(&mut self, id: u32) -> bool {
        let entry = self.entries.get_mut(&id);
        entry.map(|entry| entry.users += 1).is_some()
    }

    /// One user less.
    pub fn release(&mut self, id: u32) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.users -= 1;
        }
    }

    /// The text of an id.
    pub fn text(&self, id: u32) -> Option<&str> {
        self.entries.get(&id).map(|entry| entry.text.as_str())
    }

    /// Writes of all names that are not known to be written.
    pub fn writes(&self) -> Vec<Op> {
        let op = |&id: &u32| {
            let name = codec::name(&self.entries.get(&id)?.text)?;
            Some(Op::PutName {
                id,
                name: Box::new(name),
            })
        };
        self.unwritten.iter().filter_map(op).collect()
    }

    /// A name is written.
    pub fn written(&mut self, id: u32) {
        self.unwritten.remove(&id);
    }

    /// Ids in use.
    pub fn used(&self) -> usize {
        self.ids.used()
    }

    /// Forgets those of `ids` that have no user; they may be deleted from the map, and then [given back](Self::give).
    pub fn bury(&mut self, ids: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let mut buried = Vec::new();
        for id in ids {
            if self.entries.get(&id).is_some_and(|entry| entry.users == 0)
                && let Some(entry) = self.entries.remove(&id)
            {
                self.by_text.remove(&entry.text);
                self.unwritten.remove(&id);
                buried.push(id);
            }
        }
        buried
    }

    /// The ids are free.
    pub fn give(&mut self, ids: impl IntoIterator<Item = u32>) {
        ids.into_iter().for_each(|id| self.ids.give(id));
    }
}
