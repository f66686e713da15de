//! `bench`: builds the programs to measure, then measures them in the lab on the real control plane.

use std::ffi::OsString;

use anyhow::Result;

use crate::{
    build, build_ebpf, process, setup,
    ui::Ui,
    workspace::{AGENT_BINARY, Workspace},
};

/// The measurement that is a benchmark of cargo's, since it needs the agent's own ways to load programs.
const PACKETS: &str = "packets";

/// Runs a measurement; what it prints is Markdown.
pub fn run(ui: &Ui, workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    setup::lab(ui)?;
    setup::control_plane(ui, workspace)?;
    if let Some((first, rest)) = arguments.split_first()
        && first == PACKETS
    {
        return packets(ui, workspace, rest);
    }
    build::product(ui, workspace)?;
    process::step(
        ui,
        "lab",
        workspace
            .cargo()
            .args(["build", "--package", "proxy-lab", "--bins"]),
    )?;
    process::exec(
        workspace
            .lab_program("bench", workspace.binary("release", "proxy-agent"))
            .args(arguments),
    )
}

/// Packets are the kernel's and the eBPF object's work, which is the same however the agent was built.
fn packets(ui: &Ui, workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    build_ebpf::run(ui, workspace)?;
    process::step(
        ui,
        "agent and lab",
        workspace.cargo().args([
            "build",
            "--package",
            "proxy-agent",
            "--package",
            "proxy-lab",
        ]),
    )?;
    process::exec(
        workspace
            .cargo()
            .args([
                "bench",
                "--quiet",
                "--profile",
                "dev",
                "--package",
                "proxy-lab",
            ])
            .args(["--bench", PACKETS, "--"])
            .args(arguments)
            .env(AGENT_BINARY, workspace.binary("debug", "proxy-agent")),
    )
}
