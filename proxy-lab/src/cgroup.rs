//! Folders in the cgroup v2 hierarchy, wherever it is mounted (`/sys/fs/cgroup`, or `…/unified` on hybrid systems).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{LabError, Result};

/// The mount point of cgroup v2, from `/proc/mounts`.
pub fn root() -> Result<PathBuf> {
    let mounts = Path::new("/proc/mounts");
    let text = std::fs::read_to_string(mounts).map_err(LabError::file("reading", mounts))?;
    mount_point(&text, "cgroup2").ok_or(LabError::NoCgroup2)
}

/// The first mount point of a file system type in the text of `/proc/mounts`.
pub(crate) fn mount_point(mounts: &str, kind: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, found) = (fields.next()?, fields.next()?, fields.next()?);
        (found == kind).then(|| PathBuf::from(at))
    })
}

/// Makes a folder.
pub fn create(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(LabError::file("creating", path))
}

/// Kills every process in the folder and below it, and waits until none is left.
pub fn kill(path: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while path.exists() {
        let left = processes(path);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let problem = format!("processes {left:?} do not die");
            return Err(LabError::file("killing the processes of", path)(
                std::io::Error::other(problem),
            ));
        }
        // cgroup.kill (5.14) takes forks under way as well; without it, one by one until none is left.
        if std::fs::write(path.join("cgroup.kill"), "1").is_err() {
            for pid in left {
                // Gone in the meantime: fine.
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::SIGKILL,
                );
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Processes in the folder and below it.
pub fn processes(path: &Path) -> Vec<i32> {
    let mut found: Vec<i32> = std::fs::read_to_string(path.join("cgroup.procs"))
        .map(|text| text.lines().filter_map(|line| line.parse().ok()).collect())
        .unwrap_or_default();
    for child in folders(path) {
        found.extend(processes(&child));
    }
    found
}

/// Removes the folder and everything below it. Its processes must have ended.
pub fn remove(path: &Path) -> Result<()> {
    for child in folders(path) {
        remove(&child)?;
    }
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match std::fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            // A killed process counts until its parent has waited for it.
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(LabError::file("removing", path)(error)),
        }
    }
}

/// The folders in a folder.
pub(crate) fn folders(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_hierarchy_of_hybrid_and_pure_systems() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(
            mount_point(hybrid, "cgroup2"),
            Some("/sys/fs/cgroup/unified".into())
        );
        let pure = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(mount_point(pure, "cgroup2"), Some("/sys/fs/cgroup".into()));
        assert_eq!(mount_point("proc /proc proc rw 0 0\n", "cgroup2"), None);
    }
}
