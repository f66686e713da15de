//! Entering a lab that was kept.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{LabError, Result};
use crate::{cgroup, host_binary, netns, sweep};

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
    let mut become_it = match self::command(&space, &group, &sweep::etc_folder(prefix, host)) {
        Ok(become_it) => become_it,
        Err(error) => return error,
    };
    if command.is_empty() {
        become_it.arg(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
    } else {
        become_it.args(command);
    }
    LabError::file("starting", become_it.get_program().to_owned())(become_it.exec())
}

/// The beginning of a command that runs in a namespace and a cgroup, and sees the files of a folder, if it is there, in
/// `/etc`.
pub(crate) fn command(netns: &Path, cgroup: &Path, etc: &Path) -> Result<Command> {
    let mut command = Command::new(host_binary::lab_host()?);
    command
        .arg("exec")
        .arg("--netns")
        .arg(netns)
        .arg("--cgroup")
        .arg(cgroup);
    if etc.is_dir() {
        command.arg("--etc").arg(etc);
    }
    command.arg("--");
    Ok(command)
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
