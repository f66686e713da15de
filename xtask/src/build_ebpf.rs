//! `build-ebpf`: the eBPF object, with BTF, for the little-endian BPF target.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process,
    setup::{self, Toolchain},
    ui::Ui,
    workspace::{BPF_TARGET, Workspace},
};

/// Builds the eBPF object and returns its path.
pub fn run(ui: &Ui, workspace: &Workspace) -> Result<PathBuf> {
    let toolchain = setup::ebpf_toolchain(ui)?;
    process::step(
        ui,
        &format!("eBPF object, with {toolchain}"),
        &mut cargo_build(workspace, &toolchain),
    )?;
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
    Ok(object)
}

fn cargo_build(workspace: &Workspace, toolchain: &Toolchain) -> Command {
    let mut cargo = toolchain.cargo(workspace);
    cargo
        .args(["build", "--package", "proxy-ebpf", "--bins", "--release"])
        .args(["--target", BPF_TARGET, "--target-dir"])
        .arg(workspace.ebpf_target())
        .args(toolchain.build_args())
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(workspace, toolchain).join("\x1f"),
        );
    cargo
}

fn rustflags(workspace: &Workspace, toolchain: &Toolchain) -> Vec<String> {
    vec![
        // aya-ebpf picks its bindings (registers of `pt_regs`) by the architecture of the host.
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        // BTF is made from debug information.
        "-Cdebuginfo=2".to_owned(),
        // Atomics that return a value need v3; kernels have it since 5.12.
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", toolchain.linker().display()),
        // The verifier's log quotes source paths: relative ones, the same on every machine.
        format!("--remap-path-prefix={}=.", workspace.root().display()),
    ]
}
