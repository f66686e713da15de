//! What this kernel and this host have, found by asking, never by a version number.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::sys::{
    self,
    link::{self, AttachType},
    process, program,
};

/// `CGROUP2_SUPER_MAGIC`, include/uapi/linux/magic.h.
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// Why the cgroup hierarchy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup v2 hierarchy is mounted.
    #[error(
        "no cgroup v2 hierarchy is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`, \
         or name one with --cgroup"
    )]
    NotMounted,
    /// The folder given is of no cgroup v2 hierarchy.
    #[error("{} is not in a cgroup v2 hierarchy", .0.display())]
    NotCgroup2(PathBuf),
    /// A file operation failed.
    #[error("could not open {}", .path.display())]
    Io {
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Opens the cgroup that the socket hooks go on: the one given, else the root of the mounted v2 hierarchy.
pub fn open_cgroup(given: Option<&Path>) -> Result<File, CgroupError> {
    let path = match given {
        Some(path) => path.to_path_buf(),
        None => cgroup2_mount()?,
    };
    let failed = |source| CgroupError::Io {
        path: path.clone(),
        source,
    };
    let folder = File::open(&path).map_err(failed)?;
    match process::filesystem_magic(&folder).map_err(failed)? {
        CGROUP2_SUPER_MAGIC => Ok(folder),
        _ => Err(CgroupError::NotCgroup2(path)),
    }
}

fn cgroup2_mount() -> Result<PathBuf, CgroupError> {
    let path = PathBuf::from("/proc/self/mounts");
    let mounts = fs::read_to_string(&path).map_err(|source| CgroupError::Io { path, source })?;
    first_cgroup2(&mounts).ok_or(CgroupError::NotMounted)
}

/// The first cgroup v2 mount in the text of /proc/mounts (proc(5)); on hybrid hosts /sys/fs/cgroup/unified.
fn first_cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts
        .lines()
        .map(|line| line.split(' '))
        .find_map(|mut fields| {
            let (folder, kind) = (fields.nth(1)?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(folder.replace("\\040", " ")))
        })
}

/// Whether programs go on devices by tcx (Linux 6.6).
pub fn has_tcx() -> bool {
    /// The loopback device: the first in every network namespace.
    const LOOPBACK: u32 = 1;
    link::tcx_chain(LOOPBACK, AttachType::TcxIngress).is_ok()
}

/// Whether connect(2) can be refused with an error of our choice (`bpf_set_retval` in `sock_addr` programs).
pub fn has_set_retval() -> io::Result<bool> {
    /// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
    const CGROUP_SOCK_ADDR: u32 = 18;
    /// r1 = -ECONNREFUSED; call `bpf_set_retval` (helper 187); r0 = 0; exit.
    const PROGRAM: [u64; 4] = [
        0xffff_ff91_0000_01b7,
        0x0000_00bb_0000_0085,
        0x0000_0000_0000_00b7,
        0x0000_0000_0000_0095,
    ];
    match program::load(CGROUP_SOCK_ADDR, AttachType::Connect4 as u32, &PROGRAM) {
        Ok(_) => Ok(true),
        Err(error) if sys::is_unsupported(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_folder_of_a_hybrid_host_is_found() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(
            first_cgroup2(mounts),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(
            first_cgroup2("cgroup2 /a\\040b cgroup2 rw 0 0"),
            Some("/a b".into())
        );
        assert_eq!(first_cgroup2("proc /proc proc rw 0 0\n"), None);
    }
}
