//! `bench`: builds the product as it is shipped, then measures it in the lab on the real control plane.

use std::{ffi::OsString, process::Command};

use anyhow::Result;

use crate::{
    build, process, setup,
    ui::Ui,
    workspace::{AGENT_BINARY, Workspace},
};

/// Runs a measurement; what it prints is Markdown.
pub fn run(ui: &Ui, workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    setup::lab(ui)?;
    setup::control_plane(ui, workspace)?;
    build::product(ui, workspace)?;
    process::step(
        ui,
        "lab",
        workspace
            .cargo()
            .args(["build", "--package", "proxy-lab", "--bins"]),
    )?;
    process::exec(
        Command::new(workspace.binary("debug", "bench"))
            .args(arguments)
            .current_dir(workspace.root())
            .env(AGENT_BINARY, workspace.binary("release", "proxy-agent")),
    )
}
