//! Where everything is pinned: `<bpffs>/v<ABI_VERSION>/{maps,links}`.
//!
//! A pin keeps a map or a link alive without the agent. One agent at a time works on a folder: it holds a lock
//! on it, which ends with the process, however that ends.

mod held;

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use proxy_common::abi::ABI_VERSION;

pub use self::held::Held;
use super::sys::process;

/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Not on a bpf file system.
    #[error(
        "{} is not on a bpf file system: mount one with `mount -t bpf bpf /sys/fs/bpf`, or name one with --bpffs",
        .0.display()
    )]
    NotBpffs(PathBuf),
    /// Another process works on it.
    #[error("another agent works on {}; stop it first", .0.display())]
    Busy(PathBuf),
    /// Nothing was ever pinned there.
    #[error("nothing is pinned under {}: no agent of this version has run with this --bpffs", .0.display())]
    Nothing(PathBuf),
    /// A file operation failed.
    #[error("could not {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
    let path = path.to_path_buf();
    move |source| PinError::Io {
        action,
        path,
        source,
    }
}

/// The pins of this ABI version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinFolder {
    base: PathBuf,
}

/// Holds the folder until dropped.
#[derive(Debug)]
pub struct PinLock(File);

impl PinLock {
    /// Whether the folder that has this name now is the one that was locked.
    pub fn is_on(&self, folder: &Path) -> bool {
        let same = || {
            let (held, named) = (self.0.metadata()?, fs::metadata(folder)?);
            io::Result::Ok((held.dev(), held.ino()) == (named.dev(), named.ino()))
        };
        same().unwrap_or(false)
    }
}

impl PinFolder {
    /// The pins under a folder of a bpf file system.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into() }
    }

    /// The folder of all versions.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The folder of this version.
    pub fn root(&self) -> PathBuf {
        self.base.join(format!("v{ABI_VERSION}"))
    }

    /// The folder of the maps.
    pub fn maps(&self) -> PathBuf {
        self.root().join("maps")
    }

    /// The pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The folder of the links.
    pub fn links(&self) -> PathBuf {
        self.root().join("links")
    }

    /// The pin of a link.
    pub fn link(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    /// Makes the folders; the base must lie on a bpf file system.
    pub fn create(&self) -> Result<(), PinError> {
        self.check_file_system()?;
        for folder in [self.maps(), self.links()] {
            fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        }
        Ok(())
    }

    /// Fails unless the base, or the nearest folder above it that exists, is on a bpf file system.
    pub fn check_file_system(&self) -> Result<(), PinError> {
        let not_bpffs = || PinError::NotBpffs(self.base.clone());
        let nearest = self
            .base
            .ancestors()
            .find(|folder| folder.is_dir())
            .ok_or_else(not_bpffs)?;
        let folder = File::open(nearest).map_err(failed("open", nearest))?;
        match process::filesystem_magic(&folder).map_err(failed("examine", nearest))? {
            BPF_FS_MAGIC => Ok(()),
            _ => Err(not_bpffs()),
        }
    }

    /// Fails unless something is pinned.
    pub fn check_present(&self) -> Result<(), PinError> {
        if self.maps().is_dir() {
            Ok(())
        } else {
            Err(PinError::Nothing(self.root()))
        }
    }

    /// Takes the folder for this process.
    pub fn lock(&self) -> Result<PinLock, PinError> {
        let folder = File::open(&self.base).map_err(failed("open", &self.base))?;
        match folder.try_lock() {
            Ok(()) => Ok(PinLock(folder)),
            Err(TryLockError::WouldBlock) => Err(PinError::Busy(self.base.clone())),
            Err(TryLockError::Error(error)) => Err(failed("lock", &self.base)(error)),
        }
    }

    /// Names of the pinned links, sorted.
    pub fn link_names(&self) -> Result<Vec<String>, PinError> {
        names(&self.links())
    }
}

/// Names in a folder, sorted; none where the folder is not there.
pub fn names(folder: &Path) -> Result<Vec<String>, PinError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", folder)(error)),
    };
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed("list", folder))?;
    names.sort_unstable();
    Ok(names)
}

/// Removes a pin; false where there was none.
pub fn unpin(path: &Path) -> Result<bool, PinError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove the pin", path)(error)),
    }
}

/// Removes an empty folder; what is not there is fine.
pub fn remove_folder(path: &Path) -> Result<(), PinError> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path)(error)),
    }
}
