//! `conformance`: builds what it needs, then has the lab's judge compare service proxies.

use std::{ffi::OsString, process::Command};

use anyhow::Result;

use crate::{
    build, process, setup,
    ui::Ui,
    workspace::{AGENT_BINARY, Workspace},
};

/// What it writes when it is not asked for anything else.
const DOCUMENT: &str = "docs/conformance.md";

/// Runs the judge with the given arguments; without any it judges all, and writes the document.
pub fn run(ui: &Ui, workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    setup::lab(ui)?;
    setup::control_plane(ui, workspace)?;
    build::lab(ui, workspace)?;
    let mut command = Command::new(workspace.binary("debug", "conformance"));
    command
        .args(arguments)
        .current_dir(workspace.root())
        .env(AGENT_BINARY, workspace.lab_agent());
    if arguments.is_empty() {
        command.args(["--write", DOCUMENT]);
    }
    process::exec(&mut command)
}
