//! `lint`: formats, clippy for both targets, and checks of our own.

mod import_cycles;
mod machine_paths;
mod reachable;
mod sources;
mod unsafe_code;

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    build::SKIP_EBPF,
    build_ebpf, process,
    setup::{self, Toolchain},
    summary::Summary,
    ui::Ui,
    workspace::Workspace,
};
use sources::Sources;

/// Checks that take a program of their own: run where it is installed, with the package that has it.
/// Advisories need the network: `cargo deny check advisories` is for a calendar, not for each change.
const OPTIONAL: [(&str, &[&str], &str); 2] = [
    (
        "cargo-deny",
        &["deny", "check", "bans", "licenses", "sources"],
        "cargo-deny",
    ),
    ("typos", &[], "typos-cli"),
];

/// Runs all checks and prints their table.
pub fn run(ui: &Ui, workspace: &Workspace) -> Result<()> {
    let toolchain = setup::ebpf_toolchain(ui)?;
    let mut summary = Summary::default();
    all(ui, workspace, &toolchain, &mut summary);
    summary.finish(ui)
}

/// Runs all checks as steps of a larger run.
pub fn all(ui: &Ui, workspace: &Workspace, toolchain: &Toolchain, summary: &mut Summary) {
    summary.run(ui, "format", || {
        process::step(
            ui,
            "format",
            workspace.cargo().args(["fmt", "--all", "--check"]),
        )?;
        Ok(String::new())
    });
    summary.run(ui, "clippy", || {
        let mut cargo = workspace.cargo();
        if !workspace.ebpf_object().exists() {
            cargo.env(SKIP_EBPF.0, SKIP_EBPF.1);
        }
        process::step(
            ui,
            "clippy",
            cargo.args(["clippy", "--all-targets", "--", "-D", "warnings"]),
        )?;
        Ok("default members, all targets".to_owned())
    });
    summary.run(ui, "clippy of proxy-ebpf", || {
        clippy_ebpf(ui, workspace, toolchain)
    });
    for (program, arguments, package) in OPTIONAL {
        if process::find_program(program).is_none() {
            summary.skip(program, &format!("not installed (cargo install {package})"));
            continue;
        }
        summary.run(ui, program, || {
            process::step(
                ui,
                program,
                Command::new(program)
                    .args(arguments)
                    .current_dir(workspace.root()),
            )?;
            Ok(String::new())
        });
    }
    summary.run(ui, "own checks", || {
        ui.step("own checks", |_| {
            let sources = Sources::read(workspace.root())?;
            let mut findings = unsafe_code::check(&sources);
            findings.extend(machine_paths::check(&sources, workspace.root()));
            findings.extend(reachable::check(&sources));
            findings.extend(import_cycles::check(&sources));
            if !findings.is_empty() {
                bail!("{}", findings.join("\n"));
            }
            Ok(format!(
                "{} files: unsafe, machine paths, unreachable files, import cycles",
                sources.len()
            ))
        })
    });
}

/// For the BPF target, in a run of its own: in one run with the others, cargo would unify features and
/// give the object `std`.
fn clippy_ebpf(ui: &Ui, workspace: &Workspace, toolchain: &Toolchain) -> Result<String> {
    let mut cargo = build_ebpf::command(workspace, toolchain, "clippy");
    cargo.args(["--bins", "--"]);
    // A nightly has other lints every day: there they are shown, not refused.
    let note = match toolchain {
        Toolchain::Debian(_) => {
            cargo.args(["-D", "warnings"]);
            ""
        }
        Toolchain::Rustup(_) => "warnings of a nightly are shown, not refused",
    };
    for line in process::step(ui, "clippy of proxy-ebpf", &mut cargo)? {
        if !build_ebpf::is_noise(&line) {
            ui.line(&line);
        }
    }
    Ok(note.to_owned())
}
