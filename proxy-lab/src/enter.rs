//! Entering a lab that was kept.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::LabError;
use crate::{cgroup, host_binary, netns};

/// Becomes a command (by default a shell) in the network namespace and cgroup of a host of a lab; returns only if it
/// cannot. Both matter: socket hooks go by the cgroup.
pub fn enter(prefix: &str, host: &str, command: &[OsString]) -> LabError {
    let space = Path::new(netns::FOLDER).join(format!("{prefix}-{host}"));
    let group = cgroup::root().map(|root| find(&root.join(prefix), host));
    let group = match group {
        Ok(Some(group)) if space.exists() => group,
        Ok(_) => return LabError::Topology(format!("{prefix} has no host {host:?}")),
        Err(error) => return error,
    };
    let binary = match host_binary::lab_host() {
        Ok(binary) => binary,
        Err(error) => return error,
    };
    let mut become_it = Command::new(binary);
    become_it
        .arg("exec")
        .arg("--netns")
        .arg(space)
        .arg("--cgroup")
        .arg(group)
        .arg("--");
    if command.is_empty() {
        become_it.arg(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
    } else {
        become_it.args(command);
    }
    LabError::file("starting", binary)(become_it.exec())
}

/// The folder of this name below another.
fn find(below: &Path, name: &str) -> Option<PathBuf> {
    let folders = cgroup::folders(below);
    let here = folders
        .iter()
        .find(|path| path.file_name().is_some_and(|last| last == name));
    here.cloned()
        .or_else(|| folders.iter().find_map(|folder| find(folder, name)))
}
