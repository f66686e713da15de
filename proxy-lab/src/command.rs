//! Running other programs.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::error::{LabError, Result};

/// What a command wrote to stdout; an error if it did not end well.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(command, &error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(
        command,
        &format!("ended with {}: {}", output.status, said.trim()),
    ))
}

/// A program with arguments, the first word being the program.
pub(crate) fn words<I, S>(words: I) -> Result<Command>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut words = words.into_iter();
    let program = words
        .next()
        .ok_or_else(|| LabError::Topology("an empty command".to_owned()))?;
    let mut command = Command::new(program);
    command.args(words);
    Ok(command)
}

/// Runs a program of iproute2, `ip` or `bridge`, with one command a line, in the namespace of the calling thread.
pub(crate) fn batch(program: &str, script: &str) -> Result<()> {
    let mut command = Command::new(program);
    command.args(["-batch", "-"]);
    output_with(&mut command, Some(script)).map(drop)
}

/// The same as [`output`], for a command that reads `input`; the error repeats it.
pub(crate) fn output_with(command: &mut Command, input: Option<&str>) -> Result<String> {
    let Some(input) = input else {
        return output(command);
    };
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| failed(command, &format!("does not start: {error}")))?;
    // All of them read their input before they print anything.
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child
        .wait_with_output()
        .map_err(|error| failed(command, &error.to_string()))?;
    if output.status.success() && written.is_ok() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(
        command,
        &format!(
            "ended with {}: {}; its input was:\n{input}",
            output.status,
            said.trim()
        ),
    ))
}

fn failed(command: &Command, ending: &str) -> LabError {
    let line: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    LabError::Command {
        command: line.join(" "),
        ending: ending.to_owned(),
    }
}
