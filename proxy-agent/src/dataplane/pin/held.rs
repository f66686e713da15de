//! Pinned objects that are held open as well. So a pin that somebody removes takes nothing with it while the agent runs:
//! the object goes on working, and is pinned again.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirEntryExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use super::{PinError, unpin};
use crate::{
    dataplane::sys::object::{self, LinkInfo},
    telemetry::chain,
};

/// The pins of one folder that this process put there or took over.
#[derive(Debug)]
pub struct Held {
    folder: PathBuf,
    /// Whether the folder is ours. If not, it is not touched.
    trusted: bool,
    objects: BTreeMap<String, Object>,
}

#[derive(Debug)]
struct Object {
    fd: OwnedFd,
    /// The kernel's number of it, which no other object has while it is held.
    id: u32,
    /// Inode of the pin, if there is one. Another inode under the same name is somebody else's pin.
    inode: Option<u64>,
    was_pinned: bool,
}

impl Held {
    /// Nothing is held yet.
    pub const fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            trusted: true,
            objects: BTreeMap::new(),
        }
    }

    /// Says whether the folder is ours. In another one nothing is pinned, opened or removed.
    pub const fn trust(&mut self, trusted: bool) {
        self.trusted = trusted;
    }

    /// The pin of an object.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// An object that is held, or pinned by an earlier run (then it is held from now on), and the kernel's id of it.
    pub fn get(&mut self, name: &str) -> Result<Option<(BorrowedFd<'_>, u32)>, PinError> {
        if !self.objects.contains_key(name) {
            if !self.trusted {
                return Ok(None);
            }
            let path = self.path(name);
            let failed = |source| PinError::Io {
                action: "open the pin",
                path: path.clone(),
                source,
            };
            let fd = match object::open(&path) {
                Ok(fd) => fd,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed(error)),
            };
            let object = Object {
                id: id_of(&fd).map_err(failed)?,
                fd,
                inode: Some(inode(&path).map_err(failed)?),
                was_pinned: true,
            };
            self.objects.insert(name.to_owned(), object);
        }
        let object = self.objects.get(name);
        Ok(object.map(|object| (object.fd.as_fd(), object.id)))
    }

    /// Holds and pins an object, in place of whatever has this name. Where it cannot be pinned it is held all the same, and
    /// [`repin`](Self::repin) tries again and says why not.
    pub fn put(&mut self, name: &str, fd: OwnedFd) {
        let object = Object {
            id: id_of(&fd).unwrap_or_default(),
            fd,
            inode: None,
            was_pinned: false,
        };
        self.objects.insert(name.to_owned(), object);
        if let Err(error) = self.pin(name) {
            tracing::debug!(name, error = chain(&error), "not pinned");
        }
    }

    /// Lets go of an object, and removes its pin; false where there was none.
    pub fn remove(&mut self, name: &str) -> Result<bool, PinError> {
        self.objects.remove(name);
        if !self.trusted {
            return Ok(false);
        }
        unpin(&self.path(name))
    }

    /// Names of what is held.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.objects.keys().map(String::as_str)
    }

    /// Pins what is held and is not pinned, or whose name has another pin. Gives their names, and whether they had been
    /// pinned before.
    pub fn repin(&mut self) -> Vec<(String, Result<bool, PinError>)> {
        if !self.trusted {
            return Vec::new();
        }
        let pinned = match inodes(&self.folder) {
            Ok(pinned) => pinned,
            // Then each pin says that the folder is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => {
                let error = PinError::Io {
                    action: "list",
                    path: self.folder.clone(),
                    source,
                };
                return vec![(self.folder.display().to_string(), Err(error))];
            }
        };
        let missing = self.objects.iter().filter(|(name, object)| {
            object.inode.is_none() || pinned.get(*name).copied() != object.inode
        });
        let missing: Vec<String> = missing.map(|(name, _)| name.clone()).collect();
        let again = |name: String| {
            let result = self.pin(&name);
            (name, result)
        };
        missing.into_iter().map(again).collect()
    }

    /// Whether it had been pinned before.
    fn pin(&mut self, name: &str) -> Result<bool, PinError> {
        let path = self.path(name);
        let object = self.objects.get_mut(name).filter(|_| self.trusted);
        let Some(object) = object else {
            return Ok(false);
        };
        let failed = |source| PinError::Io {
            action: "pin",
            path: path.clone(),
            source,
        };
        unpin(&path)?;
        object.inode = None;
        object::pin(&object.fd, &path).map_err(failed)?;
        object.inode = Some(inode(&path).map_err(failed)?);
        Ok(std::mem::replace(&mut object.was_pinned, true))
    }
}

/// Information about an object of any kind begins with its kind and its number.
fn id_of(fd: &OwnedFd) -> io::Result<u32> {
    Ok(object::info::<LinkInfo>(fd)?.id)
}

fn inode(path: &Path) -> io::Result<u64> {
    Ok(fs::symlink_metadata(path)?.ino())
}

/// Inodes of the pins in a folder, by name.
fn inodes(folder: &Path) -> io::Result<BTreeMap<String, u64>> {
    fs::read_dir(folder)?
        .map(|entry| {
            let entry = entry?;
            Ok((
                entry.file_name().to_string_lossy().into_owned(),
                entry.ino(),
            ))
        })
        .collect()
}
