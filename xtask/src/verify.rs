//! `verify`: every program through this kernel's verifier, and what it costs there.

use anyhow::{Context as _, Result, ensure};

use crate::{
    build_ebpf, process, setup,
    test::{Outcome, binaries},
    ui::Ui,
    workspace::Workspace,
};

/// The test that measures the programs, and the binary it is in.
const BINARY: &str = "proxy-agent test differential";
const TEST: &str = "numbers::numbers";

/// Prints instructions, machine code, load time and nanoseconds of each program.
pub fn run(ui: &Ui, workspace: &Workspace) -> Result<()> {
    setup::lab(ui)?;
    build_ebpf::run(ui, workspace)?;
    let binaries = binaries::build(ui, workspace)?;
    let binary = binaries
        .iter()
        .find(|binary| binary.name == BINARY)
        .with_context(|| format!("there is no {BINARY}"))?;
    let mut command = binary.command(workspace);
    let output = process::step(
        ui,
        "programs in the kernel",
        command.args([TEST, "--exact", "--nocapture"]),
    )?;
    let outcome = Outcome::of(&output);
    ensure!(outcome.passed == 1, "{BINARY} has no test {TEST}");
    for line in output.iter().filter(|line| !is_of_the_harness(line)) {
        println!("{line}");
    }
    Ok(())
}

fn is_of_the_harness(line: &str) -> bool {
    line.starts_with("running ") || line.starts_with("test ")
}
