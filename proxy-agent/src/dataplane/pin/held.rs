//! Pinned objects that are also held open. If a pin is removed while the agent runs, the object therefore keeps working, and
//! the agent pins it again.

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

/// The pins of one folder that this process created or took over.
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
    /// The object's id in the kernel. No other object has this id while this one is held.
    id: u32,
    /// Inode of the pin, if the object is pinned. A different inode under the same name is another process's pin.
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

    /// Sets whether the folder is ours. If not, nothing in it is pinned, opened or removed.
    pub const fn trust(&mut self, trusted: bool) {
        self.trusted = trusted;
    }

    /// The pin of an object.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// An object and its id in the kernel. If it is not held but pinned by an earlier run, it is held from now on.
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

    /// Holds and pins an object, in place of any other object with this name. An object that can't be pinned is held
    /// nevertheless; [`repin`](Self::repin) tries again and returns the error.
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

    /// Closes an object and removes its pin. Returns false if there was no pin.
    pub fn remove(&mut self, name: &str) -> Result<bool, PinError> {
        self.objects.remove(name);
        if !self.trusted {
            return Ok(false);
        }
        unpin(&self.path(name))
    }

    /// Names of the objects that are held.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.objects.keys().map(String::as_str)
    }

    /// Pins held objects whose pin is missing or was replaced. Returns their names, and whether they had been pinned before.
    pub fn repin(&mut self) -> Vec<(String, Result<bool, PinError>)> {
        if !self.trusted {
            return Vec::new();
        }
        let pinned = match inodes(&self.folder) {
            Ok(pinned) => pinned,
            // Then the attempt to pin each object reports that the folder is missing.
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

    /// Pins an object. Returns whether it had been pinned before.
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

/// Information about a link begins with its type and its id, and so does information about a map or a program.
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
