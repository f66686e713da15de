//! `demo`: builds what it needs, then hands the terminal to the lab's demo.

use std::ffi::OsString;

use anyhow::Result;

use crate::{build, process, setup, ui::Ui, workspace::Workspace};

/// The demo's flag for the real control plane.
const CLUSTER: &str = "--cluster";

/// Runs the demo with the given arguments; its exit code decides.
pub fn run(ui: &Ui, workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    setup::lab(ui)?;
    if arguments.iter().any(|argument| argument == CLUSTER) {
        setup::control_plane(ui, workspace)?;
    }
    build::lab(ui, workspace)?;
    process::exec(
        workspace
            .lab_program("demo", workspace.lab_agent())
            .args(arguments),
    )
}
