//! Names. Everything that a lab makes outside its own namespaces carries its prefix, `plab-LABEL-PID-NUMBER`, so
//! that any number of labs coexist and what a dead one left is known by its name.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use crate::error::{LabError, Result};

/// What every prefix begins with.
pub const FAMILY: &str = "plab-";

/// Where the locks are.
const FOLDER: &str = "/run/proxy-lab";

/// The longest label: names of files and of `ip netns` stay readable.
const LONGEST_LABEL: usize = 24;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A lab's prefix, and a lock that proves that its owner lives: the kernel releases it when the owner ends,
/// however it ends.
#[derive(Debug)]
pub struct Claim {
    prefix: String,
    lock: File,
}

impl Claim {
    /// Takes a new prefix for this process.
    pub fn take(label: &str) -> Result<Self> {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if label.is_empty() || label.len() > LONGEST_LABEL || !label.chars().all(fine) {
            let rule =
                format!("a lab's label is 1 to {LONGEST_LABEL} of a-z and 0-9, not {label:?}");
            return Err(LabError::Topology(rule));
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{FAMILY}{label}-{}-{number}", std::process::id());
        std::fs::create_dir_all(FOLDER).map_err(LabError::file("creating", FOLDER))?;
        // Locked before it gets its name: a sweep never sees it unlocked.
        let path = lock_path(&prefix);
        let draft = Path::new(FOLDER).join(format!(".{prefix}"));
        let lock = File::create(&draft).map_err(LabError::file("creating", &draft))?;
        lock.lock().map_err(LabError::file("locking", &draft))?;
        std::fs::rename(&draft, &path).map_err(LabError::file("creating", &path))?;
        Ok(Self { prefix, lock })
    }

    /// The prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Marks the lab as one that outlives its owner: no sweep takes it, only [`crate::sweep::take_down`].
    pub fn keep(&self) -> Result<()> {
        std::io::Write::write_all(&mut &self.lock, KEPT.as_bytes())
            .map_err(LabError::file("writing", lock_path(&self.prefix)))
    }
}

/// Content of a kept lab's lock file.
const KEPT: &str = "kept\n";

/// Whose a prefix is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A live process.
    Alive,
    /// Nobody, but it was left on purpose.
    Kept,
    /// A process that died.
    Dead,
}

/// Whose a prefix is.
pub fn owner(prefix: &str) -> Owner {
    let Ok(lock) = File::open(lock_path(prefix)) else {
        return Owner::Dead;
    };
    match lock.try_lock_shared() {
        // The lock is held or its state is unknown: leave the lab alone.
        Err(_) => Owner::Alive,
        Ok(()) if std::io::read_to_string(&lock).is_ok_and(|text| text == KEPT) => Owner::Kept,
        Ok(()) => Owner::Dead,
    }
}

/// When a lab was kept; the beginning of time if it was not.
pub(crate) fn kept_at(prefix: &str) -> SystemTime {
    let written = std::fs::metadata(lock_path(prefix)).and_then(|metadata| metadata.modified());
    written.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Takes the lock to clean up after a dead owner; `None` if another process holds it.
pub(crate) fn lock_of_the_dead(prefix: &str) -> Option<File> {
    let lock = File::options()
        .create(true)
        .append(true)
        .open(lock_path(prefix))
        .ok()?;
    lock.try_lock().is_ok().then_some(lock)
}

/// Releases a prefix, after everything that has it was removed.
pub fn release(prefix: &str) {
    // Gone already: fine.
    let _ = std::fs::remove_file(lock_path(prefix));
}

fn lock_path(prefix: &str) -> PathBuf {
    Path::new(FOLDER).join(prefix)
}

/// The prefixes that have a lock file.
pub(crate) fn locks() -> Vec<String> {
    entries(Path::new(FOLDER), FAMILY)
}

/// The prefix that a name begins with, if it is one of ours.
pub(crate) fn prefix_of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(FAMILY)?;
    let mut parts = rest.split('-');
    let (label, pid, number) = (parts.next()?, parts.next()?, parts.next()?);
    pid.parse::<u32>().ok()?;
    number.parse::<u32>().ok()?;
    Some(&name[..FAMILY.len() + label.len() + pid.len() + number.len() + 2])
}

/// Names in a folder that begin with `prefix`, sorted.
pub(crate) fn entries(folder: &Path, prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_found_at_the_front_of_names() {
        assert_eq!(prefix_of("plab-demo-4242-0"), Some("plab-demo-4242-0"));
        assert_eq!(
            prefix_of("plab-demo-4242-0-worker-1"),
            Some("plab-demo-4242-0")
        );
        assert_eq!(
            prefix_of("plab-demo-4242-11-pod-a-0"),
            Some("plab-demo-4242-11")
        );
        assert_eq!(prefix_of("plab-demo-x-0"), None);
        assert_eq!(prefix_of("kt-node1"), None);
    }
}
