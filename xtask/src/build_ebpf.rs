//! `build-ebpf`: the eBPF object, with BTF, for the little-endian BPF target.

use std::{env, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process,
    setup::{self, Toolchain},
    ui::Ui,
    workspace::{BPF_TARGET, Workspace},
};

/// Sets up the toolchain and builds the eBPF object.
pub fn run(ui: &Ui, workspace: &Workspace) -> Result<()> {
    let toolchain = setup::ebpf_toolchain(ui)?;
    with(ui, workspace, &toolchain)
}

/// Builds the eBPF object with a toolchain that is there.
pub fn with(ui: &Ui, workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let mut cargo = command(workspace, toolchain, "build");
    let output = process::step(ui, "eBPF object", cargo.arg("--bins"))?;
    for line in output.iter().filter(|line| !is_noise(line)) {
        ui.line(line);
    }
    let object = workspace.ebpf_object();
    let size = object
        .metadata()
        .with_context(|| format!("the build left no object at {}", object.display()))?
        .len();
    ensure!(
        size > 0,
        "the build left an empty object at {}",
        object.display()
    );
    ui.line(&format!("    {} ({} KiB)", object.display(), size / 1024));
    Ok(())
}

/// A cargo command for the eBPF crate: `build`, or a check that sees what the build sees.
pub fn command(workspace: &Workspace, toolchain: &Toolchain, subcommand: &str) -> Command {
    let mut cargo = toolchain.cargo(workspace, subcommand);
    cargo
        .args([
            "--package",
            "proxy-ebpf",
            "--release",
            "--target",
            BPF_TARGET,
            "--target-dir",
        ])
        .arg(workspace.ebpf_target())
        .args(toolchain.build_args())
        // The profile strips debug information for the product's sake; here BTF is made of it.
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(workspace, toolchain).join("\x1f"),
        );
    cargo
}

/// Whether cargo itself printed the line. The rest are warnings of the compiler and the linker.
pub fn is_noise(line: &str) -> bool {
    let verb = line.split_whitespace().next().unwrap_or_default();
    line.is_empty()
        || matches!(
            verb,
            "Adding"
                | "Checking"
                | "Blocking"
                | "Compiling"
                | "Downloaded"
                | "Downloading"
                | "Finished"
                | "Locking"
                | "Updating"
        )
}

fn rustflags(workspace: &Workspace, toolchain: &Toolchain) -> Vec<String> {
    let mut flags = vec![
        // aya-ebpf picks its bindings (registers of `pt_regs`) by the architecture of the host.
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        // BTF is made from debug information.
        "-Cdebuginfo=2".to_owned(),
        // Atomics that return a value need v3; kernels have it since 5.12.
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", toolchain.linker().display()),
    ];
    // The verifier's log quotes source paths.
    flags.extend(workspace.path_remaps());
    flags
}
