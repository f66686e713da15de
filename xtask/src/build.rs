//! `build`: the agent with the eBPF object inside; and the same, quickly, for the lab.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result};

use crate::{
    build_ebpf, process,
    setup::{self, Toolchain},
    ui::Ui,
    workspace::Workspace,
};

/// Tells `proxy-agent/build.rs` to do without the eBPF object.
pub const SKIP_EBPF: (&str, &str) = ("PROXY_EBPF_SKIP", "1");

/// Builds the product: one optimised binary.
pub fn product(ui: &Ui, workspace: &Workspace) -> Result<()> {
    build_ebpf::run(ui, workspace)?;
    process::step(
        ui,
        "agent (release)",
        workspace
            .cargo()
            .args(["build", "--package", "proxy-agent", "--release"]),
    )?;
    say_size(ui, &workspace.binary("release", "proxy-agent"))
}

/// Builds the product with all libraries inside, for an image that has nothing else; returns where it is.
pub fn static_agent(ui: &Ui, workspace: &Workspace) -> Result<PathBuf> {
    build_ebpf::run(ui, workspace)?;
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut cargo = workspace.cargo();
    cargo
        .args([
            "build",
            "--package",
            "proxy-agent",
            "--release",
            "--target",
            &target,
        ])
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            static_rustflags(workspace).join("\x1f"),
        );
    process::step(ui, "agent (release, static)", &mut cargo)?;
    let binary = workspace.binary(&format!("{target}/release"), "proxy-agent");
    say_size(ui, &binary)?;
    Ok(binary)
}

/// With the C library inside; panics name source files by their paths.
fn static_rustflags(workspace: &Workspace) -> Vec<String> {
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(workspace.path_remaps());
    flags
}

/// Builds the eBPF object and, in the dev profile, the agent and the lab; returns the toolchain that did it.
pub fn lab(ui: &Ui, workspace: &Workspace) -> Result<Toolchain> {
    let toolchain = if workspace.ebpf_object().exists() {
        let toolchain = setup::ebpf_toolchain(ui)?;
        build_ebpf::with(ui, workspace, &toolchain)?;
        toolchain
    } else {
        // The first time, both have minutes to do, in target folders of their own. Only the agent's own
        // crate is compiled again when the object is there.
        thread::scope(|scope| {
            let dependencies = scope.spawn(|| {
                let mut cargo = lab_binaries(workspace);
                process::step(
                    ui,
                    "agent and lab, first pass",
                    cargo.env(SKIP_EBPF.0, SKIP_EBPF.1),
                )
            });
            let toolchain = setup::ebpf_toolchain(ui).and_then(|toolchain| {
                build_ebpf::with(ui, workspace, &toolchain)?;
                Ok(toolchain)
            });
            dependencies
                .join()
                .map_err(|_| anyhow::anyhow!("the thread that builds the agent panicked"))??;
            toolchain
        })?
    };
    process::step(ui, "agent and lab", &mut lab_binaries(workspace))?;
    Ok(toolchain)
}

fn lab_binaries(workspace: &Workspace) -> Command {
    let mut cargo = workspace.cargo();
    cargo.args([
        "build",
        "--package",
        "proxy-agent",
        "--package",
        "proxy-lab",
        "--bins",
    ]);
    cargo
}

fn say_size(ui: &Ui, file: &Path) -> Result<()> {
    let size = file
        .metadata()
        .with_context(|| format!("the build left no {}", file.display()))?
        .len();
    ui.line(&format!("    {} ({} KiB)", file.display(), size / 1024));
    Ok(())
}
