//! `conformance`: builds what it needs, then has the lab's judge compare service proxies.

use std::ffi::OsString;

use anyhow::Result;

use crate::{build, process, setup, ui::Ui, workspace::Workspace};

/// What it writes when it is not asked for anything else.
const DOCUMENT: &str = "docs/conformance.md";

/// Runs the judge with the given arguments; without any it judges all, and writes the document.
pub fn run(ui: &Ui, workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    setup::lab(ui)?;
    setup::control_plane(ui, workspace)?;
    build::lab(ui, workspace)?;
    let mut command = workspace.lab_program("conformance", workspace.lab_agent());
    command.args(arguments);
    if arguments.is_empty() {
        command.args(["--write", DOCUMENT]);
    }
    process::exec(&mut command)
}
