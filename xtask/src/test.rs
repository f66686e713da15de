//! `test`: lints, then every test binary by itself, so that each has its time and its number of threads.

pub mod binaries;
mod outcome;

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use self::binaries::{Kind, TestBinary};
pub use self::outcome::Outcome;
use crate::{build, lint, process, setup, summary::Summary, ui::Ui, workspace::Workspace};

/// Binaries of lab tests that run side by side. Labs know nothing of each other and mostly wait: two take a third less
/// time. But on two cores some then wait longer than their patience.
const LABS_AT_ONCE: usize = 1;

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
    let mut summary = Summary::begin();

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
        let mut run = |kind: Kind, at_once: usize| {
            let of_kind: Vec<_> = binaries.iter().filter(|one| one.kind == kind).collect();
            run_binaries(ui, workspace, &of_kind, at_once, &mut summary);
        };
        if wants(Part::Unit) {
            run(Kind::Unit, 1);
        }
        if wants(Part::Root) {
            run(Kind::Kernel, 1);
            run(Kind::Lab, LABS_AT_ONCE);
        }
        if wants(Part::Unit) {
            doc_tests(ui, workspace, &mut summary);
        }
        ui.line(&format!(
            "what the tests printed: {}",
            workspace.test_logs().display()
        ));
    }
    summary.finish(ui)
}

/// Runs binaries, this many side by side; their rows come in their order.
fn run_binaries(
    ui: &Ui,
    workspace: &Workspace,
    binaries: &[&TestBinary],
    at_once: usize,
    summary: &mut Summary,
) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut ran = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(binary) = binaries.get(index) else {
                return ran;
            };
            let tests = run_tests(ui, workspace, &binary.name, &mut command(workspace, binary));
            ran.push((index, tests));
        }
    };
    let mut ran = thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().flat_map(|worker| {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        ended.collect::<Vec<_>>()
    });
    ran.sort_by_key(|&(index, _)| index);
    for (index, tests) in ran {
        tests.record(ui, &binaries[index].name, summary);
    }
}

fn command(workspace: &Workspace, binary: &TestBinary) -> Command {
    let mut command = binary.command(workspace);
    // A test that skips itself passes; its reason is in its output.
    command.arg("--show-output");
    if binary.kind == Kind::Lab {
        // Labs share the machine's devices, addresses and cores.
        command.arg("--test-threads=1");
    }
    command
}

fn doc_tests(ui: &Ui, workspace: &Workspace, summary: &mut Summary) {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--doc", "--quiet"]);
    run_tests(ui, workspace, "doc tests", &mut cargo).record(ui, "doc tests", summary);
}

/// Tests that have run.
struct Ran {
    result: Result<String>,
    skipped: Vec<String>,
    time: Duration,
}

impl Ran {
    fn record(self, ui: &Ui, name: &str, summary: &mut Summary) {
        summary.record(ui, name, self.result, self.time);
        for reason in self.skipped {
            summary.skip(name, &reason);
        }
    }
}

fn run_tests(ui: &Ui, workspace: &Workspace, name: &str, command: &mut Command) -> Ran {
    let start = Instant::now();
    let mut skipped = Vec::new();
    let result = ui.step(name, |step| {
        let (success, output) = process::watch(step, command)?;
        keep(workspace, name, &output)?;
        if !success {
            bail!("failed: {command:?}\n{}", output.join("\n"));
        }
        let outcome = Outcome::of(&output);
        skipped.extend(outcome.skipped.iter().cloned());
        Ok(outcome.to_string())
    });
    Ran {
        result,
        skipped,
        time: start.elapsed(),
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
