//! Finding binaries of the workspace that belong to the running one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::command;
use crate::error::{LabError, Result};
use crate::inside::FINGERPRINT;

/// The `lab-host` binary of this build. `PROXY_LAB_HOST_BIN`, or beside this program, or built on the spot when cargo runs
/// this program (cargo builds a package's binaries for its own tests only).
pub(crate) fn lab_host() -> Result<&'static Path> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = FOUND.get() {
        return Ok(path);
    }
    let path = find_lab_host()?;
    Ok(FOUND.get_or_init(|| path))
}

fn find_lab_host() -> Result<PathBuf> {
    if let Some(path) = named_by("PROXY_LAB_HOST_BIN") {
        return if fits(&path) {
            Ok(path)
        } else {
            Err(misfit(&path))
        };
    }
    if let Some(path) = beside_this_program("lab-host").filter(|path| fits(path)) {
        return Ok(path);
    }
    build_lab_host()?;
    match beside_this_program("lab-host") {
        Some(path) if fits(&path) => Ok(path),
        Some(path) => Err(misfit(&path)),
        None => Err(LabError::HostBinary(
            "the binary lab-host is not beside this program".to_owned(),
        )),
    }
}

fn misfit(path: &Path) -> LabError {
    LabError::HostBinary(format!("{} is of another build", path.display()))
}

fn fits(path: &Path) -> bool {
    let said = command::output(Command::new(path).arg("fingerprint"));
    said.is_ok_and(|text| text.trim() == FINGERPRINT.to_string())
}

fn build_lab_host() -> Result<()> {
    let (Some(cargo), Some(package), Some(folder)) = (
        std::env::var_os("CARGO"),
        std::env::var_os("CARGO_MANIFEST_DIR"),
        profile_folder(),
    ) else {
        return Ok(());
    };
    let mut build = Command::new(cargo);
    build
        .args([
            "build",
            "--quiet",
            "--package",
            "proxy-lab",
            "--bin",
            "lab-host",
        ])
        .current_dir(package);
    build
        .arg("--target-dir")
        .arg(folder.parent().unwrap_or(&folder));
    if folder.file_name().is_some_and(|name| name == "release") {
        build.arg("--release");
    }
    command::output(&mut build).map(|_| ())
}

/// A binary named by an environment variable.
pub(crate) fn named_by(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// Another program of the workspace, beside the running one.
pub fn beside(name: &'static str) -> Result<PathBuf> {
    beside_this_program(name).ok_or_else(|| {
        LabError::Topology(format!(
            "the program {name} is not beside this one: build it with `cargo build -p proxy-lab --bins`"
        ))
    })
}

/// A binary in the folder where cargo puts those of this program's profile.
pub(crate) fn beside_this_program(name: &str) -> Option<PathBuf> {
    let path = profile_folder()?.join(name);
    path.is_file().then_some(path)
}

/// `target/debug` or `target/release`: this program is there, or in `deps` or `examples` below.
fn profile_folder() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    let below = folder
        .file_name()
        .is_some_and(|name| name == "deps" || name == "examples");
    Some(if below {
        folder.parent()?.to_owned()
    } else {
        folder.to_owned()
    })
}
