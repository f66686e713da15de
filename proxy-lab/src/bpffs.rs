//! Folders in the BPF file system at `/sys/fs/bpf`.

use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::statfs;

use crate::error::{LabError, Result};

/// Where it is mounted.
pub const ROOT: &str = "/sys/fs/bpf";

/// `BPF_FS_MAGIC` (linux/magic.h).
const MAGIC: i64 = 0xcafe_4a11;

/// Makes a folder, and mounts the file system first where it is not (as systemd does at boot; it then stays mounted).
pub fn create(path: &Path) -> Result<PathBuf> {
    let root = Path::new(ROOT);
    let here = statfs(root)
        .map_err(std::io::Error::from)
        .map_err(LabError::file("looking at", root))?;
    if here.filesystem_type().0 != MAGIC {
        mount(
            Some("bpf"),
            root,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .map_err(std::io::Error::from)
        .map_err(LabError::file("mounting the BPF file system on", root))?;
    }
    std::fs::create_dir_all(path).map_err(LabError::file("creating", path))?;
    Ok(path.to_owned())
}

/// Removes a folder and every object pinned below it.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::file("removing", path)(error))
        }
        _ => Ok(()),
    }
}
