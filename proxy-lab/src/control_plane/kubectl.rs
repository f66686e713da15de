//! `kubectl`, in the control plane's namespace.

use std::ffi::OsStr;
use std::process::Command;

use super::{ControlPlane, binaries};
use crate::command;
use crate::error::Result;

/// Runs it as the admin, with an input if there is one.
pub(super) fn run<I, S>(
    control_plane: &ControlPlane,
    arguments: I,
    input: Option<&str>,
) -> Result<String>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(binaries::program("kubectl")?);
    // What it learns about the API stays in the lab.
    command
        .arg("--cache-dir")
        .arg(control_plane.folder().join("kubectl-cache"));
    command.args(arguments);
    command.env("KUBECONFIG", control_plane.admin_kubeconfig());
    let netns = control_plane.netns();
    netns.run(move || command::output_with(&mut command, input))
}
