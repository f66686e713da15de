//! `mutants`: tests the conformance suite. For each mistake of a list made in our code, a case must fail.
//! The mistakes are data, in `xtask/mutants.yaml`, and the product's code does not know them. They are made
//! in a copy of the sources, whose crates are rebuilt; dependencies come from the workspace's own build.

mod copy;
mod list;
mod report;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    slice,
    sync::mpsc,
    thread,
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

/// The sources that the eBPF object is built of.
const IN_OBJECT: [&str; 2] = ["proxy-common", "proxy-ebpf"];

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
    // A mutant is built while the cases of the one before wait.
    let (sender, built) = mpsc::sync_channel(0);
    thread::scope(|scope| {
        // Dropped where this ends early: then there is nobody to build for.
        let built = built;
        let (laboratory, mutants) = (&laboratory, &mutants);
        scope.spawn(move || {
            for mutant in mutants {
                let agent = ui.step(&format!("building {}", mutant.name), |step| {
                    laboratory.build(step, mutant)
                });
                if sender.send(agent).is_err() {
                    return;
                }
            }
        });
        let mut right = None;
        summary.run(ui, "without a mistake", || {
            ui.step("without a mistake", |step| {
                let report = right.insert(laboratory.try_right(step, mutants)?);
                let failed = report.differ().chain(report.unknown());
                let failed: Vec<_> = failed.map(|failure| failure.to_string()).collect();
                ensure!(
                    failed.is_empty(),
                    "these cases fail without any mistake, so that they notice none: {}",
                    failed.join("; ")
                );
                Ok(String::new())
            })
        });
        let Some(right) = right else { return };
        for mutant in mutants {
            summary.run(ui, &mutant.name, || {
                let agent = built.recv().context("mutants are not built any more")??;
                let killed = ui.step(&mutant.name, |step| {
                    laboratory.kill(step, mutant, &agent, &right)
                })?;
                remove(&agent)?;
                Ok(killed)
            });
        }
    });
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

    /// Says which case noticed a mutant.
    fn kill(&self, step: &Step, mutant: &Mutant, agent: &Path, right: &Report) -> Result<String> {
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
        // One subject that notices is enough.
        let mut unknown = Vec::new();
        for subject in subjects {
            let run = format!("{name}-{subject}");
            let report = self.judge(step, &run, agent, cases, slice::from_ref(subject))?;
            let mut killers = report.differ().filter(|found| able.contains(&found.case));
            if let Some(first) = killers.next() {
                return Ok(match killers.count() {
                    0 => format!("killed by {first}"),
                    others => format!("killed by {first} (and {others} more)"),
                });
            }
            unknown.extend(report.unknown().map(|failure| failure.to_string()));
        }
        ensure!(
            unknown.is_empty(),
            "{name}: nothing is known, since the lab failed: {}",
            unknown.join("; ")
        );
        bail!(
            "{name} ({rule}: {what}) survived: nothing fails of {}",
            able.join(", ")
        )
    }

    /// Builds the eBPF object, if the mistake is in it, and the agent; returns where that is.
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
        let in_object = IN_OBJECT
            .iter()
            .any(|sources| mutant.file.starts_with(sources));
        let object = if in_object {
            built(build_ebpf::command(&self.copy, self.toolchain, "build").arg("--bins"))?;
            self.copy.ebpf_object()
        } else {
            self.workspace.ebpf_object()
        };
        built(
            self.copy
                .cargo()
                // Both packages, so that dependencies have the features that they have in the workspace's build.
                .args(["build", "--package", AGENT, "--package", "proxy-lab"])
                .args(["--bin", AGENT])
                .env("CARGO_TARGET_DIR", self.copy.target())
                .env("CARGO_BUILD_BUILD_DIR", self.workspace.target())
                .env("PROXY_EBPF_OBJECT", object),
        )?;
        // The next one is built in its place.
        let folder = self.copy.target().join("agents").join(&mutant.name);
        let (built, agent) = (self.copy.binary("debug", AGENT), folder.join(AGENT));
        fs::create_dir_all(&folder)
            .and_then(|()| fs::copy(&built, &agent))
            .with_context(|| {
                format!("could not copy {} to {}", built.display(), agent.display())
            })?;
        Ok(agent)
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

/// Removes a mutant that was killed. (One that survived may be looked at.)
fn remove(agent: &Path) -> Result<()> {
    let removed = agent.parent().map_or(Ok(()), fs::remove_dir_all);
    removed.with_context(|| format!("could not remove {}", agent.display()))
}
