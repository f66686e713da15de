//! Where everything is pinned: `<bpffs>/v<ABI_VERSION>/{maps,links}`.
//!
//! A pin keeps a map or a link alive without the agent. One agent at a time works on the base: it holds a lock
//! on it, which ends with the process, however that ends.
//!
//! `/sys/fs/bpf` is open to every user of the node by default. So the base is ours alone (mode 0700): else anybody could open it
//! and hold the lock, or pin what we would take for ours.

mod trust;

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
    /// Somebody else may have put there what we would use.
    #[error(
        "{} can't be used, since it {why}: look at what it is, then remove it or give it to root alone (chown root, chmod 700), \
         or name another folder with --bpffs",
        .path.display()
    )]
    Untrusted {
        /// The folder, or one above it.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It is the root of a file system that others may open.
    #[error(
        "{} is the root of a bpf file system that other users may open: name a folder below it with --bpffs",
        .0.display()
    )]
    SharedRoot(PathBuf),
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

    /// Makes the folders; the base must lie on a bpf file system, and be ours.
    pub fn create(&self) -> Result<(), PinError> {
        self.own_base()?;
        for folder in [self.root(), self.maps(), self.links()] {
            trust::make(&folder)?;
        }
        Ok(())
    }

    /// Whether all folders are there, and ours.
    pub fn is_complete(&self) -> bool {
        let folders = [self.base.clone(), self.root(), self.maps(), self.links()];
        folders.iter().all(|folder| trust::open(folder).is_ok())
    }

    /// The base, which is made if it is missing, and closed to all others.
    fn own_base(&self) -> Result<File, PinError> {
        self.check_file_system()?;
        trust::check_parents(&self.base)?;
        trust::refuse_open_mount(&self.base)?;
        trust::make(&self.base)?;
        trust::close(&self.base)
    }

    /// Whether there is a base, of whatever kind.
    pub fn exists(&self) -> bool {
        fs::symlink_metadata(&self.base).is_ok()
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

    /// Fails unless something is pinned, by us.
    pub fn check_present(&self) -> Result<(), PinError> {
        if !self.exists() {
            return Err(PinError::Nothing(self.root()));
        }
        trust::check_parents(&self.base)?;
        trust::open(&self.base)?;
        for folder in [self.root(), self.maps()] {
            if fs::symlink_metadata(&folder).is_err() {
                return Err(PinError::Nothing(self.root()));
            }
            trust::open(&folder)?;
        }
        Ok(())
    }

    /// Takes the folder for this process; makes it if it is missing. Whoever else works on it keeps it.
    pub fn lock(&self) -> Result<PinLock, PinError> {
        loop {
            let base = self.own_base()?;
            match base.try_lock() {
                Ok(()) if trust::is_at(&base, &self.base) => return Ok(PinLock(base)),
                // A cleanup has removed it meanwhile.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(PinError::Busy(self.base.clone())),
                Err(TryLockError::Error(error)) => return Err(failed("lock", &self.base)(error)),
            }
        }
    }

    /// The folders of all versions. What else is there is not ours.
    pub fn versions(&self) -> Result<Vec<PathBuf>, PinError> {
        let names = names(&self.base)?;
        let ours = names.iter().filter(|name| is_version(name));
        Ok(ours.map(|name| self.base.join(name)).collect())
    }

    /// Names of the pinned links, sorted.
    pub fn link_names(&self) -> Result<Vec<String>, PinError> {
        names(&self.links())
    }
}

/// Whether a folder of this name is of one version: `v<number>`.
fn is_version(name: &str) -> bool {
    let number = name.strip_prefix('v').unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
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

/// Removes an empty folder; what is not there is fine, and so is one with something of somebody else's in it.
pub fn remove_folder(path: &Path) -> Result<(), PinError> {
    use io::ErrorKind::{DirectoryNotEmpty, NotFound, ResourceBusy};
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind(), DirectoryNotEmpty | NotFound | ResourceBusy) => Ok(()),
        Err(error) => Err(failed("remove", path)(error)),
    }
}
