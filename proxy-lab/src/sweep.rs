//! Taking labs down: one's own at its end, those of dead processes at the next start, kept ones on request.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::naming::{self, FAMILY, Owner};
use crate::{bpffs, cgroup, netns};

/// Everything of a lab that is seen from outside of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Network namespaces.
    pub namespaces: Vec<String>,
    /// Folders: cgroups, bpffs, temporary files.
    pub folders: Vec<PathBuf>,
    /// Processes in its cgroups.
    pub processes: Vec<i32>,
}

impl Leftovers {
    /// What currently exists with a prefix.
    pub fn of(prefix: &str) -> Self {
        let cgroup = cgroup::root().map(|root| root.join(prefix));
        let folders = [
            cgroup.as_ref().ok().cloned(),
            Some(bpffs_folder(prefix)),
            Some(temp_folder(prefix)),
        ];
        Self {
            namespaces: netns::list(prefix)
                .into_iter()
                .filter(|name| naming::prefix_of(name) == Some(prefix))
                .collect(),
            processes: cgroup
                .map(|path| cgroup::processes(&path))
                .unwrap_or_default(),
            folders: folders
                .into_iter()
                .flatten()
                .filter(|path| path.exists())
                .collect(),
        }
    }

    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A lab's folder in bpffs; each node's is below it.
pub(crate) fn bpffs_folder(prefix: &str) -> PathBuf {
    Path::new(bpffs::ROOT).join(prefix)
}

/// A lab's folder for sources and logs.
pub(crate) fn temp_folder(prefix: &str) -> PathBuf {
    std::env::temp_dir().join(prefix)
}

/// Files that a host has in `/etc` in place of the machine's.
pub(crate) fn etc_folder(prefix: &str, host: &str) -> PathBuf {
    temp_folder(prefix).join("etc").join(host)
}

/// Takes a lab down: processes, then programs, then namespaces and folders. Goes on after errors and returns the first.
pub fn take_down(prefix: &str) -> Result<()> {
    let group = cgroup::root()?.join(prefix);
    let mut results = vec![cgroup::kill(&group), bpffs::remove(&bpffs_folder(prefix))];
    for name in netns::list(prefix) {
        if naming::prefix_of(&name) == Some(prefix) {
            results.push(netns::remove(&name));
        }
    }
    results.push(cgroup::remove(&group));
    // A leftover file, unlike a kernel object, does no harm.
    let _ = std::fs::remove_dir_all(temp_folder(prefix));
    naming::release(prefix);
    results.into_iter().collect()
}

/// All prefixes of existing labs, with their owners.
pub fn labs() -> Vec<(String, Owner)> {
    let mut names = naming::locks();
    names.extend(netns::list(FAMILY));
    names.extend(naming::entries(Path::new(bpffs::ROOT), FAMILY));
    names.extend(naming::entries(&std::env::temp_dir(), FAMILY));
    if let Ok(root) = cgroup::root() {
        names.extend(naming::entries(&root, FAMILY));
    }
    let prefixes: BTreeSet<&str> = names
        .iter()
        .filter_map(|name| naming::prefix_of(name))
        .collect();
    prefixes
        .into_iter()
        .map(|prefix| (prefix.to_owned(), naming::owner(prefix)))
        .collect()
}

/// Labs that were kept, the newest last.
pub fn kept() -> Vec<String> {
    let kept = labs()
        .into_iter()
        .filter(|(_, owner)| *owner == Owner::Kept);
    let mut prefixes: Vec<_> = kept.map(|(prefix, _)| prefix).collect();
    prefixes.sort_by_key(|prefix| naming::kept_at(prefix));
    prefixes
}

/// Takes down what dead processes left, and names it.
pub fn sweep() -> Result<Vec<String>> {
    let mut swept = Vec::new();
    for (prefix, owner) in labs() {
        // Another process may be sweeping at the same time: one of us gets the lock.
        if owner != Owner::Dead {
            continue;
        }
        if let Some(_lock) = naming::lock_of_the_dead(&prefix) {
            take_down(&prefix)?;
            swept.push(prefix);
        }
    }
    Ok(swept)
}
