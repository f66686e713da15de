//! The test binaries of the default members, as cargo reports them.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{
    process,
    ui::Ui,
    workspace::{AGENT_BINARY, Workspace},
};

/// What a test binary is, which decides when and how it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Beside the code it tests, or in a crate that never meets the kernel.
    Unit,
    /// An integration test of the agent: loads programs if it is root.
    Kernel,
    /// An integration test of the lab: namespaces and traffic if it is root.
    Lab,
}

/// A compiled test binary.
#[derive(Debug)]
pub struct TestBinary {
    pub name: String,
    pub kind: Kind,
    pub executable: PathBuf,
    /// The package's folder, which cargo makes a test's working directory.
    pub package: PathBuf,
}

impl TestBinary {
    /// Runs it as cargo would.
    pub fn command(&self, workspace: &Workspace) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .current_dir(&self.package)
            .env("CARGO_MANIFEST_DIR", &self.package)
            .env(AGENT_BINARY, workspace.lab_agent());
        command
    }
}

/// A line of cargo's `--message-format=json`, as far as we read it.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    #[serde(rename = "message")]
    diagnostic: Option<Diagnostic>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Deserialize)]
struct Diagnostic {
    rendered: Option<String>,
}

/// Compiles the tests and lists their binaries, those that meet the kernel last.
pub fn build(ui: &Ui, workspace: &Workspace) -> Result<Vec<TestBinary>> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--no-run", "--message-format=json"]);
    let (success, output) = ui.step("compile tests", |step| process::watch(step, &mut cargo))?;
    if !success {
        let reasons: Vec<_> = output.iter().map(|line| readable(line)).collect();
        anyhow::bail!("failed: {cargo:?}\n{}", reasons.concat());
    }
    let mut binaries: Vec<_> = output
        .iter()
        .filter(|line| line.starts_with('{'))
        .map(|line| test_binary(line))
        .filter_map(Result::transpose)
        .collect::<Result<_>>()?;
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(binaries)
}

fn test_binary(line: &str) -> Result<Option<TestBinary>> {
    let message: Message =
        serde_json::from_str(line).with_context(|| format!("cargo said something new: {line}"))?;
    let Message {
        executable: Some(executable),
        manifest_path: Some(manifest),
        target: Some(target),
        ..
    } = message
    else {
        return Ok(None);
    };
    if !message.profile.is_some_and(|profile| profile.test) {
        return Ok(None);
    }
    let package = manifest
        .parent()
        .context("a manifest without a folder")?
        .to_path_buf();
    let package_name = package
        .file_name()
        .unwrap_or_default()
        .display()
        .to_string();
    let kind = kind(&package_name, &target);
    let what = target.kind.first().map_or("", String::as_str);
    Ok(Some(TestBinary {
        name: format!("{package_name} {what} {}", target.name),
        kind,
        executable,
        package,
    }))
}

fn kind(package: &str, target: &Target) -> Kind {
    match package {
        _ if !target.kind.iter().any(|kind| kind == "test") => Kind::Unit,
        "proxy-agent" => Kind::Kernel,
        "proxy-lab" => Kind::Lab,
        _ => Kind::Unit,
    }
}

/// The human's part of a line: a compiler's message as it would print it, or the line itself.
fn readable(line: &str) -> String {
    if !line.starts_with('{') {
        return format!("{line}\n");
    }
    let message = serde_json::from_str::<Message>(line)
        .ok()
        .and_then(|message| message.diagnostic);
    message
        .and_then(|diagnostic| diagnostic.rendered)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_messages_become_binaries() {
        let artifact = |package: &str, kind: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/{package}/Cargo.toml","target":{{"kind":["{kind}"],"name":"t"}},"profile":{{"test":{test}}},"executable":"/t/x"}}"#
            )
        };
        let kind_of = |line: &str| {
            test_binary(line)
                .expect("a message")
                .map(|binary| binary.kind)
        };
        assert_eq!(
            kind_of(&artifact("proxy-common", "test", true)),
            Some(Kind::Unit)
        );
        assert_eq!(
            kind_of(&artifact("proxy-agent", "lib", true)),
            Some(Kind::Unit)
        );
        assert_eq!(
            kind_of(&artifact("proxy-agent", "test", true)),
            Some(Kind::Kernel)
        );
        assert_eq!(
            kind_of(&artifact("proxy-lab", "test", true)),
            Some(Kind::Lab)
        );
        assert_eq!(kind_of(&artifact("proxy-agent", "bin", false)), None);
        assert_eq!(
            kind_of(r#"{"reason":"build-finished","success":true}"#),
            None
        );
    }
}
