//! `test`: lints, then every test binary by itself, so that each has its time and its number of threads.

pub mod binaries;
mod outcome;

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use self::binaries::{Kind, TestBinary};
pub use self::outcome::Outcome;
use crate::{build, lint, process, setup, summary::Summary, ui::Ui, workspace::Workspace};

/// A part of the tests.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Formats, clippy, own checks
    Lint,
    /// Unit, property and doc tests: no root
    Unit,
    /// Tests against the kernel: eBPF programs by test run, and the lab
    Root,
}

/// Runs one part, or all.
pub fn run(ui: &Ui, workspace: &Workspace, part: Option<Part>) -> Result<()> {
    let wants = |asked: Part| part.is_none_or(|part| part == asked);
    let mut summary = Summary::default();

    if wants(Part::Root) {
        if setup::is_root() {
            setup::lab(ui)?;
            match setup::no_control_plane(workspace)? {
                Some(missing) => summary.skip("tests with the control plane", &missing),
                None => summary.run(ui, "setup, control plane", || {
                    setup::control_plane(ui, workspace).map(|_| String::new())
                }),
            }
        } else {
            summary.skip("tests against the kernel", "not root");
        }
    }
    let mut toolchain = None;
    summary.run(ui, "setup, build", || {
        toolchain = Some(build::lab(ui, workspace)?);
        Ok(String::new())
    });
    // Without the object nothing below compiles.
    let Some(toolchain) = toolchain else {
        return summary.finish(ui);
    };

    if wants(Part::Lint) {
        lint::all(ui, workspace, &toolchain, &mut summary);
    }
    if wants(Part::Unit) || wants(Part::Root) {
        let mut binaries = Vec::new();
        summary.run(ui, "compile tests", || {
            binaries = binaries::build(ui, workspace)?;
            Ok(format!("{} binaries", binaries.len()))
        });
        let (kernel, unit): (Vec<_>, Vec<_>) = binaries
            .iter()
            .partition(|binary| binary.kind != Kind::Unit);
        if wants(Part::Unit) {
            for binary in unit {
                run_binary(ui, workspace, binary, &mut summary);
            }
            doc_tests(ui, workspace, &mut summary);
        }
        if wants(Part::Root) {
            for binary in kernel {
                run_binary(ui, workspace, binary, &mut summary);
            }
        }
        ui.line(&format!(
            "what the tests printed: {}",
            workspace.test_logs().display()
        ));
    }
    summary.finish(ui)
}

fn run_binary(ui: &Ui, workspace: &Workspace, binary: &TestBinary, summary: &mut Summary) {
    let mut command = binary.command(workspace);
    // A test that skips itself passes; its reason is in its output.
    command.arg("--show-output");
    if binary.kind == Kind::Lab {
        // Labs share the machine's devices, addresses and two cores.
        command.arg("--test-threads=1");
    }
    run_tests(ui, workspace, &binary.name, &mut command, summary);
}

fn doc_tests(ui: &Ui, workspace: &Workspace, summary: &mut Summary) {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--doc", "--quiet"]);
    run_tests(ui, workspace, "doc tests", &mut cargo, summary);
}

fn run_tests(
    ui: &Ui,
    workspace: &Workspace,
    name: &str,
    command: &mut Command,
    summary: &mut Summary,
) {
    let mut skipped = Vec::new();
    summary.run(ui, name, || {
        ui.step(name, |step| {
            let (success, output) = process::watch(step, command)?;
            keep(workspace, name, &output)?;
            if !success {
                bail!("failed: {command:?}\n{}", output.join("\n"));
            }
            let outcome = Outcome::of(&output);
            skipped.extend(outcome.skipped.iter().cloned());
            Ok(outcome.to_string())
        })
    });
    for reason in skipped {
        summary.skip(name, &reason);
    }
}

/// Keeps what tests print: many print what they measured.
fn keep(workspace: &Workspace, name: &str, output: &[String]) -> Result<()> {
    let folder = workspace.test_logs();
    let file = folder.join(format!("{}.log", name.replace(' ', "-")));
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&file, output.join("\n")))
        .with_context(|| format!("could not write {}", file.display()))
}
