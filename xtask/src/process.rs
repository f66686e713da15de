//! Running other programs. Every failure names the whole command line.

use std::{
    env,
    io::{BufRead as _, BufReader, pipe},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::ui::{Step, Ui};

/// How much of a failed step's output is printed.
const KEPT_LINES: usize = 400;

/// Runs a command on the caller's terminal.
pub fn exec(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("could not start {command:?}"))?;
    if !status.success() {
        bail!("failed with {status}: {command:?}");
    }
    Ok(())
}

/// Runs a command and returns what it printed.
pub fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("could not start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "failed with {}: {command:?}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("no UTF-8 from {command:?}"))
}

/// Runs a command as a step of its own and returns its output, which the user sees only line by line
/// beside the step's title, and as part of the error when it fails.
pub fn step(ui: &Ui, title: &str, command: &mut Command) -> Result<Vec<String>> {
    ui.step(title, |step| follow(step, command))
}

/// Runs a command inside a step, see [`step`].
pub fn follow(step: &Step, command: &mut Command) -> Result<Vec<String>> {
    let (success, output) = watch(step, command)?;
    if !success {
        let end = &output[output.len().saturating_sub(KEPT_LINES)..];
        bail!("failed: {command:?}\n{}", end.join("\n"));
    }
    Ok(output)
}

/// Runs a command inside a step. Returns whether it succeeded, and its output in either case.
pub fn watch(step: &Step, command: &mut Command) -> Result<(bool, Vec<String>)> {
    let (reader, writer) = pipe().context("could not make a pipe")?;
    let second = writer.try_clone().context("could not clone a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(second)
        .spawn()
        .with_context(|| format!("could not start {command:?}"))?;
    // The command holds the pipe's writing ends: the reader below would wait for them for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut output = Vec::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("could not read a child's output")?;
        let line = String::from_utf8_lossy(&line).into_owned();
        step.show(&line);
        output.push(line);
    }
    let status = child.wait().context("could not wait for a child")?;
    Ok((status.success(), output))
}

/// The path of a program on `PATH`, or in the folders that only root's `PATH` has.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_named_with_its_output() {
        let ui = Ui::new();
        let error = step(
            &ui,
            "fails",
            Command::new("sh").args(["-c", "echo why >&2; exit 3"]),
        )
        .expect_err("the command fails")
        .to_string();
        assert!(
            error.contains("exit 3") && error.ends_with("why"),
            "{error}"
        );
    }
}
