//! `mutants`: is the conformance suite worth its name? With each mistake of a list made in our code, a case must fail.
//!
//! Mistakes are data, in `xtask/mutants.yaml`: no code of the product knows of them. They are made in a copy of the
//! sources, whose crates are built anew; dependencies are those of the workspace's own build.

mod copy;
mod list;
mod report;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use self::{list::Mutant, report::Report};
use crate::{
    build, build_ebpf, process,
    setup::{self, Toolchain},
    summary::Summary,
    ui::{Step, Ui},
    workspace::Workspace,
};

/// The suite, and the mutated agent.
const CONFORMANCE: &str = "conformance";
const AGENT: &str = "proxy-agent";

/// Prints what the mutants are.
pub fn list(ui: &Ui, workspace: &Workspace) -> Result<()> {
    for mutant in list::load(workspace.root())? {
        let Mutant {
            name, rule, what, ..
        } = mutant;
        ui.line(&format!("{name:36} {rule:3} {what}"));
    }
    Ok(())
}

/// Makes each mistake (or those with these names), and expects that a case fails which passes without it.
pub fn run(ui: &Ui, workspace: &Workspace, names: &[String]) -> Result<()> {
    let mutants = list::select(list::load(workspace.root())?, names)?;
    setup::lab(ui)?;
    setup::control_plane(ui, workspace)?;
    let toolchain = build::lab(ui, workspace)?;
    let laboratory = Laboratory::new(workspace, &toolchain)?;

    let mut summary = Summary::default();
    let mut right = None;
    summary.run(ui, "without a mistake", || {
        ui.step("without a mistake", |step| {
            let report = right.insert(laboratory.try_right(step, &mutants)?);
            let failed: Vec<_> = report.failed().collect();
            ensure!(
                failed.is_empty(),
                "these cases fail without any mistake, so that they notice none: {}",
                failed.join(", ")
            );
            Ok(String::new())
        })
    });
    if let Some(right) = &right {
        for mutant in &mutants {
            summary.run(ui, &mutant.name, || {
                ui.step(&mutant.name, |step| laboratory.kill(step, mutant, right))
            });
        }
    }
    ui.line(&format!(
        "what the cases said: {}",
        laboratory.reports.display()
    ));
    summary.finish(ui)
}

/// Where mutants are made and tried.
struct Laboratory<'a> {
    workspace: &'a Workspace,
    toolchain: &'a Toolchain,
    copy: Workspace,
    reports: PathBuf,
}

impl<'a> Laboratory<'a> {
    fn new(workspace: &'a Workspace, toolchain: &'a Toolchain) -> Result<Self> {
        let copy = workspace.for_mutants();
        let reports = copy.target().join("reports");
        fs::create_dir_all(&reports)
            .with_context(|| format!("could not make {}", reports.display()))?;
        Ok(Self {
            workspace,
            toolchain,
            copy,
            reports,
        })
    }

    /// Runs the cases of all mutants against the agent as it is.
    fn try_right(&self, step: &Step, mutants: &[Mutant]) -> Result<Report> {
        let of_all = |words: fn(&Mutant) -> &Vec<String>| {
            let words: BTreeSet<_> = mutants.iter().flat_map(words).cloned().collect();
            words.into_iter().collect::<Vec<_>>()
        };
        let cases = of_all(|mutant| &mutant.cases);
        let subjects = of_all(|mutant| &mutant.subjects);
        let agent = self.workspace.binary("debug", AGENT);
        self.judge(step, "right", &agent, &cases, &subjects)
    }

    /// Makes a mutant and says which case noticed it.
    fn kill(&self, step: &Step, mutant: &Mutant, right: &Report) -> Result<String> {
        let Mutant {
            name,
            rule,
            what,
            cases,
            subjects,
            ..
        } = mutant;
        let able = right.passed(cases, subjects);
        ensure!(
            !able.is_empty(),
            "{name}: no case that passes without a mistake has one of these in its name: {}",
            cases.join(", ")
        );
        let agent = self.build(step, mutant)?;
        let report = self.judge(step, name, &agent, cases, subjects)?;
        let mut killers = report.failed().filter(|case| able.contains(case));
        let Some(first) = killers.next() else {
            bail!(
                "{name} ({rule}: {what}) survived: nothing fails of {}",
                able.join(", ")
            );
        };
        Ok(match killers.count() {
            0 => format!("killed by {first}"),
            others => format!("killed by {first} and {others} more"),
        })
    }

    /// Builds the eBPF object and the agent with a mistake in them.
    fn build(&self, step: &Step, mutant: &Mutant) -> Result<PathBuf> {
        let text = mutant.mutated(self.workspace.root())?;
        copy::update(self.workspace.root(), self.copy.root(), &mutant.file, text)?;
        let built = |command: &mut Command| {
            process::follow(step, command).with_context(|| {
                format!(
                    "{} does not compile; a mutant has to, to prove anything",
                    mutant.name
                )
            })
        };
        built(build_ebpf::command(&self.copy, self.toolchain, "build").arg("--bins"))?;
        built(
            self.copy
                .cargo()
                // Both packages, so that dependencies have the features that they have in the workspace's build.
                .args(["build", "--package", AGENT, "--package", "proxy-lab"])
                .args(["--bin", AGENT])
                .env("CARGO_TARGET_DIR", self.copy.target())
                .env("CARGO_BUILD_BUILD_DIR", self.workspace.target())
                .env("PROXY_EBPF_OBJECT", self.copy.ebpf_object()),
        )?;
        Ok(self.copy.binary("debug", AGENT))
    }

    /// Runs cases against an agent.
    fn judge(
        &self,
        step: &Step,
        name: &str,
        agent: &Path,
        cases: &[String],
        subjects: &[String],
    ) -> Result<Report> {
        let file = self.reports.join(format!("{name}.json"));
        // What an earlier run left would be believed.
        if file.exists() {
            fs::remove_file(&file)
                .with_context(|| format!("could not remove {}", file.display()))?;
        }
        let mut command = self.workspace.lab_program(CONFORMANCE, agent);
        command
            .args([
                "--cases",
                &cases.join(","),
                "--subjects",
                &subjects.join(","),
            ])
            .arg("--report")
            .arg(&file);
        let (_, output) = process::watch(step, &mut command)?;
        Report::read(&file).with_context(|| {
            format!(
                "the cases came to no result: {command:?}\n{}",
                output.join("\n")
            )
        })
    }
}
