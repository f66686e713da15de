//! `file:DIR`: ordinary Service, `EndpointSlice` and Node manifests in a folder (not below it), several documents a
//! file, followed live.
//!
//! Files are `*.yaml`, `*.yml` and `*.json`; hidden ones are passed over. Objects of other kinds are too, so that
//! whole manifests can be put there. Of an object that is given twice the last counts: in a file, and by file name
//! among files, as with `kubectl apply -f DIR`. A document that can't be read leaves in force what its file gave
//! before, as far as the other documents don't say better; a folder or a file that can't be read leaves all in force.

mod document;
mod follow;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::document::{Parsed, Syntax};
pub use self::follow::follow;
use super::{
    Update,
    object::{Key, Object},
};
use crate::{
    files,
    model::{Event, ObjectRef, Problem},
};

/// The largest file that is read, in bytes: the manifests of tens of thousands of Services. What is larger is a mistake, and must
/// not take the memory of the node.
const LARGEST_FILE: u64 = 64 << 20;

/// The most files that a folder may have. More are a mistake too: they are looked at every few seconds.
const MOST_FILES: usize = 50_000;

/// Problems of a file that are told one by one.
const TOLD: usize = 100;
/// What a folder is called where kinds of objects are told apart: it is read or not as a whole.
pub const KIND: &str = "folder";

/// A folder of manifests, and what it said when it was last read.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<String, File>,
    /// Which files give an object.
    givers: BTreeMap<Key, BTreeSet<String>>,
    synced: bool,
    /// The reason why the folder could not be read, so that it is told once.
    failure: Option<String>,
    /// The same for its files.
    failures: BTreeMap<String, String>,
    most_files: usize,
    /// Whether it was told that there are more.
    crowded: bool,
}

#[derive(Debug, Default)]
struct File {
    fingerprint: Option<Fingerprint>,
    /// What was wrong with it when it was read: what is still wrong is not told again.
    problems: BTreeSet<Problem>,
    /// `None`: seen, but of no use here.
    objects: BTreeMap<Key, Option<Arc<Object>>>,
}

/// Tells that a file is not the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// At all files that are not what they were.
    Everywhere,
    /// At files of these names, whatever they look like.
    At(BTreeSet<String>),
}

impl Folder {
    /// A folder that has not been read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            files: BTreeMap::new(),
            givers: BTreeMap::new(),
            synced: false,
            failure: None,
            failures: BTreeMap::new(),
            most_files: MOST_FILES,
            crowded: false,
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why the last attempt to read it failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Reads what changed. After the first success the events end with [`Event::Synced`].
    pub fn read(&mut self, look: &Look) -> Update {
        let mut update = Update::default();
        match self.candidates(look, &mut update.problems) {
            Ok(names) => {
                if self.failure.take().is_some() && self.synced {
                    update.problems.push(self.problem("is readable again"));
                }
                self.read_files(names, look, &mut update);
                if !std::mem::replace(&mut self.synced, true) {
                    update.events.push(Event::Synced);
                }
            }
            Err(error) => {
                let failure = error.to_string();
                if self.failure.as_ref() != Some(&failure) {
                    update.problems.push(self.problem(&if self.synced {
                        format!("can't be read ({failure}); what it said last stays in force until it is back")
                    } else {
                        format!("can't be read ({failure}); waiting for it")
                    }));
                    self.failure = Some(failure);
                }
            }
        }
        update
    }

    /// The names of the files to look at: those that exist, and those that are gone.
    fn candidates(
        &mut self,
        look: &Look,
        problems: &mut Vec<Problem>,
    ) -> io::Result<BTreeSet<String>> {
        let mut names: BTreeSet<String> = self
            .files
            .keys()
            .chain(self.failures.keys())
            .cloned()
            .collect();
        let (known, found) = match look {
            Look::At(found) => {
                fs::metadata(&self.path)?;
                (std::mem::take(&mut names), found.clone())
            }
            Look::Everywhere => {
                let mut found = BTreeSet::new();
                for entry in fs::read_dir(&self.path)? {
                    found.extend(entry?.file_name().into_string());
                }
                (names.clone(), found)
            }
        };
        let mut room = self.most_files.saturating_sub(known.len());
        let mut passed_over = 0_usize;
        for name in found.into_iter().filter(|name| Syntax::of(name).is_some()) {
            if known.contains(&name) {
                names.insert(name);
            } else if room > 0 {
                room -= 1;
                names.insert(name);
            } else {
                passed_over += 1;
            }
        }
        if passed_over > 0 && !self.crowded {
            let most = self.most_files;
            problems.push(self.problem(&format!(
                "has more than {most} manifests; {passed_over} of them are passed over"
            )));
        }
        if *look == Look::Everywhere {
            self.crowded = passed_over > 0;
        }
        Ok(names)
    }

    fn read_files(&mut self, names: BTreeSet<String>, look: &Look, update: &mut Update) {
        let mut touched: BTreeMap<Key, Option<Arc<Object>>> = BTreeMap::new();
        for name in names {
            let path = self.path.join(&name);
            let fingerprint = match fs::metadata(&path) {
                Ok(metadata) => Some(Fingerprint::of(&metadata)),
                // A link to what is missing is not gone.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && fs::symlink_metadata(&path).is_err() =>
                {
                    None
                }
                Err(error) => {
                    update.problems.extend(self.unreadable(name, &error));
                    continue;
                }
            };
            let known = self.files.get(&name);
            if *look == Look::Everywhere
                && known.is_some_and(|file| file.fingerprint == fingerprint)
            {
                continue;
            }
            let file = match fingerprint {
                // Files that go because the folder goes are not taken away.
                None if fs::metadata(&self.path).is_err() => return,
                None => None,
                Some(_) => {
                    match files::open(&path).and_then(|file| files::read(file, LARGEST_FILE)) {
                        Ok(bytes) => {
                            self.failures.remove(&name);
                            let previous = known.map(|file| &file.objects);
                            let (objects, problems) = read_objects(&name, &bytes, previous);
                            let is_new = |problem: &Problem| {
                                known.is_none_or(|file| !file.problems.contains(problem))
                            };
                            let news: Vec<_> = problems
                                .iter()
                                .filter(|problem| is_new(problem))
                                .cloned()
                                .collect();
                            update.problems.extend(news);
                            Some(File {
                                fingerprint,
                                problems: problems.into_iter().collect(),
                                objects,
                            })
                        }
                        Err(error) => {
                            update.problems.extend(self.unreadable(name, &error));
                            continue;
                        }
                    }
                }
            };
            if fingerprint.is_none() {
                self.failures.remove(&name);
            }
            self.replace(name, file, &mut touched);
        }
        for (key, before) in touched {
            let now = self.current(&key);
            if now.is_some() {
                update.problems.extend(self.duplicates(&key));
            }
            if before != now {
                update.events.push(match now {
                    Some(object) => Object::clone(&object).upsert(),
                    None => key.delete(),
                });
            }
        }
    }

    /// Puts a file in the place of the one of this name; notes what was in force before for each key it touches.
    fn replace(
        &mut self,
        name: String,
        file: Option<File>,
        touched: &mut BTreeMap<Key, Option<Arc<Object>>>,
    ) {
        let keys = |file: Option<&File>| -> BTreeSet<Key> {
            file.map(|file| file.objects.keys().cloned().collect())
                .unwrap_or_default()
        };
        let (old, new) = (keys(self.files.get(&name)), keys(file.as_ref()));
        for key in old.union(&new) {
            if !touched.contains_key(key) {
                touched.insert(key.clone(), self.current(key));
            }
        }
        for key in old.difference(&new) {
            if let Some(givers) = self.givers.get_mut(key) {
                givers.remove(&name);
                if givers.is_empty() {
                    self.givers.remove(key);
                }
            }
        }
        for key in new.difference(&old) {
            self.givers
                .entry(key.clone())
                .or_default()
                .insert(name.clone());
        }
        match file {
            Some(file) => self.files.insert(name, file),
            None => self.files.remove(&name),
        };
    }

    /// What is in force for a key: the last file's word.
    fn current(&self, key: &Key) -> Option<Arc<Object>> {
        let name = self.givers.get(key)?.last()?;
        self.files.get(name)?.objects.get(key)?.clone()
    }

    fn duplicates(&self, key: &Key) -> Option<Problem> {
        let givers = self.givers.get(key).filter(|givers| givers.len() > 1)?;
        let names: Vec<&str> = givers.iter().map(String::as_str).collect();
        Some(Problem {
            object: key.object_ref(),
            message: format!(
                "is given by several files ({}); the last counts",
                names.join(", ")
            ),
        })
    }

    /// A file that can't be read, unless that was told.
    fn unreadable(&mut self, name: String, error: &io::Error) -> Option<Problem> {
        let problem = Problem {
            object: ObjectRef::plain("file", &name),
            message: format!("can't be read ({error}); what it gave before stays"),
        };
        let message = &problem.message;
        let before = self.failures.insert(name, message.clone());
        (before.as_ref() != Some(message)).then_some(problem)
    }

    fn problem(&self, message: &str) -> Problem {
        Problem {
            object: ObjectRef::plain("folder", &self.path.display().to_string()),
            message: message.to_owned(),
        }
    }
}

impl Fingerprint {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The objects of a file, and what is wrong with it. Where a document can't be read, `previous` fills in.
fn read_objects(
    name: &str,
    bytes: &[u8],
    previous: Option<&BTreeMap<Key, Option<Arc<Object>>>>,
) -> (BTreeMap<Key, Option<Arc<Object>>>, Vec<Problem>) {
    let file = ObjectRef::plain("file", name);
    let told = |message| Problem {
        object: file.clone(),
        message,
    };
    let syntax = Syntax::of(name).unwrap_or(Syntax::Yaml);
    let Parsed {
        found,
        refused,
        errors,
        more_errors,
    } = document::parse(syntax, bytes);
    let mut objects = BTreeMap::new();
    let mut problems = Vec::new();
    for object in found {
        problems.extend(object.problems);
        if objects.contains_key(&object.key) {
            problems.push(Problem {
                object: object.key.object_ref(),
                message: format!("is given twice by {file}; the last counts"),
            });
        }
        objects.insert(object.key, object.value.map(Arc::new));
    }
    for refused in refused {
        let before = previous.and_then(|previous| previous.get(&refused.object));
        problems.push(Problem {
            object: refused.object.object_ref(),
            message: format!(
                "can't be read ({}; {file}, {}); {}",
                refused.reason,
                refused.place,
                match before {
                    Some(_) => "what it said before stays",
                    None => "it is passed over",
                }
            ),
        });
        if let Some(before) = before {
            let before = before.clone();
            objects.entry(refused.object).or_insert(before);
        }
    }
    let more = problems.len().saturating_sub(TOLD);
    if more > 0 {
        problems.truncate(TOLD);
        problems.push(told(format!(
            "{more} more problems of its objects are not told one by one"
        )));
    }
    let broken = !errors.is_empty();
    let kept = if previous.is_some() {
        "what it gave before stays"
    } else {
        "it is passed over"
    };
    problems.extend(
        errors
            .into_iter()
            .map(|error| told(format!("{error}; {kept}"))),
    );
    if more_errors > 0 {
        problems.push(told(format!(
            "{more_errors} more documents or items can't be read; {kept}"
        )));
    }
    if broken {
        for (key, object) in previous.into_iter().flatten() {
            objects.entry(key.clone()).or_insert_with(|| object.clone());
        }
    }
    (objects, problems)
}

#[cfg(test)]
mod tests;
