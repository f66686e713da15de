//! What a watch has told so far, by name and version alone: lists and lines in, changes out. Pure.
//!
//! A list replaces what is known: what is not in it is gone, what has the version that is known is passed over. It counts
//! when it is complete, not before.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher as _},
    marker::PhantomData,
};

use super::decode::{Item, Manifest};
use crate::{
    model::{ObjectRef, Problem},
    source::{
        Update,
        object::{Found, Key},
    },
};

/// The objects of one kind that the store has.
#[derive(Debug)]
pub(super) struct Known<T> {
    versions: Versions,
    listing: Listing,
    /// What was last found wrong with an object, so that it is told once.
    complaints: HashMap<Box<str>, u64>,
    kind: PhantomData<T>,
}

/// Fingerprints of versions, by name.
type Versions = HashMap<Box<str>, u64>;

/// A list that is not complete yet.
#[derive(Debug, Default)]
struct Listing {
    versions: Versions,
    update: Update,
    /// Objects, those that can't be read too.
    count: usize,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self {
            versions: Versions::new(),
            listing: Listing::default(),
            complaints: HashMap::new(),
            kind: PhantomData,
        }
    }
}

impl<T: Manifest> Known<T> {
    /// Begins a list. Of one that was not completed, only what was wrong with its objects is still to be told.
    pub(super) fn begin(&mut self) {
        let Listing { update, .. } = std::mem::take(&mut self.listing);
        self.listing.update.problems = update.problems;
    }

    /// An object of the list.
    pub(super) fn listed(&mut self, item: Item) {
        self.listing.count += 1;
        let version = fingerprint(&item.version);
        let known = self.versions.get(&item.name).copied();
        match item.content {
            Ok(_) if known == Some(version) => {}
            Ok(found) => {
                let problems = self.news(&item.name, &found);
                take(found, problems, &mut self.listing.update);
            }
            Err(reason) => {
                let problem = self.unreadable(&item.name, &reason);
                self.listing.update.problems.extend(problem);
                // What it said before stays; what never said anything is not there.
                if let Some(known) = known {
                    self.listing.versions.insert(item.name, known);
                }
                return;
            }
        }
        self.listing.versions.insert(item.name, version);
    }

    /// An object of the list is gone before the list is complete.
    pub(super) fn unlisted(&mut self, name: &str) {
        if self.listing.versions.remove(name).is_some() {
            self.listing.update.events.push(key::<T>(name).delete());
        }
    }

    /// The list is complete.
    pub(super) fn complete(&mut self) -> Update {
        let Listing {
            versions,
            mut update,
            count: _,
        } = std::mem::take(&mut self.listing);
        for name in std::mem::replace(&mut self.versions, versions).into_keys() {
            if !self.versions.contains_key(&name) {
                self.complaints.remove(&name);
                update.events.push(key::<T>(&name).delete());
            }
        }
        self.versions.shrink_to_fit();
        update
    }

    /// An object is there, or is another.
    pub(super) fn changed(&mut self, item: Item, update: &mut Update) {
        match item.content {
            Ok(found) => {
                let problems = self.news(&item.name, &found);
                take(found, problems, update);
                self.versions.insert(item.name, fingerprint(&item.version));
            }
            Err(reason) => update.problems.extend(self.unreadable(&item.name, &reason)),
        }
    }

    /// It is gone.
    pub(super) fn removed(&mut self, name: &str, update: &mut Update) {
        self.complaints.remove(name);
        if self.versions.remove(name).is_some() {
            update.events.push(key::<T>(name).delete());
        }
    }

    /// How many objects the list has so far.
    pub(super) fn listed_count(&self) -> usize {
        self.listing.count
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.versions.len()
    }

    /// What is wrong with an object, where that was not told yet.
    fn news(&mut self, name: &str, found: &Found) -> Vec<Problem> {
        if found.problems.is_empty() {
            self.complaints.remove(name);
            return Vec::new();
        }
        if self.is_news(name, fingerprint(&found.problems)) {
            found.problems.clone()
        } else {
            Vec::new()
        }
    }

    fn unreadable(&mut self, name: &str, reason: &str) -> Option<Problem> {
        let known = self.versions.contains_key(name);
        self.is_news(name, fingerprint(reason)).then(|| Problem {
            object: key::<T>(name).object_ref(),
            message: format!(
                "can't be read ({reason}); {}",
                if known {
                    "what it said before stays"
                } else {
                    "it is passed over"
                }
            ),
        })
    }

    fn is_news(&mut self, name: &str, complaint: u64) -> bool {
        self.complaints.insert(name.into(), complaint) != Some(complaint)
    }
}

/// An object that can't be told from others.
pub(super) fn nameless<T: Manifest>(reason: &str) -> Problem {
    Problem {
        object: ObjectRef::plain(T::KIND, "without a name"),
        message: format!("can't be read ({reason}); it is passed over"),
    }
}

fn take(found: Found, problems: Vec<Problem>, update: &mut Update) {
    update.events.push(match found.value {
        Some(object) => object.upsert(),
        None => found.key.delete(),
    });
    update.problems.extend(problems);
}

fn key<T: Manifest>(full_name: &str) -> Key {
    let (namespace, name) = full_name.split_once('/').unwrap_or(("", full_name));
    T::key(namespace, name)
}

/// Versions are opaque: only whether they are the same counts.
fn fingerprint(version: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    version.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
