//! bpf-linker, built against the LLVM of the unpacked compiler: bitcode is read by the LLVM that wrote it.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::wrap;
use crate::{
    process::{read, step},
    ui::Ui,
    workspace::cargo,
};

/// Knows LLVM 21, 22 and 23.
pub const VERSION: &str = "0.13.0";
const KNOWN_LLVM: [u32; 3] = [21, 22, 23];

/// Builds bpf-linker against the unpacked (or the system's) LLVM; returns what the toolchain consists of.
pub fn build(ui: &Ui, folder: &Path, release: &str) -> Result<String> {
    let llvm = llvm_major(folder)?;
    ensure!(
        KNOWN_LLVM.contains(&llvm),
        "rustc {release} is made with LLVM {llvm}, and bpf-linker {VERSION} knows only {KNOWN_LLVM:?}: a newer bpf-linker is needed"
    );
    link_llvm(folder, llvm)?;
    let build = folder.join("build");
    step(
        ui,
        &format!("build of bpf-linker {VERSION} for LLVM {llvm}"),
        Command::new(cargo())
            .args([
                "install",
                "bpf-linker",
                "--version",
                VERSION,
                "--locked",
                "--no-track",
            ])
            .args([
                "--no-default-features",
                "--features",
                &format!("llvm-{llvm}"),
                "--root",
            ])
            .arg(folder.join("libexec"))
            // Outside of the workspace: its own settings are not for this build.
            .current_dir(folder)
            .env("LLVM_PREFIX", folder.join("llvm"))
            .env("LD_LIBRARY_PATH", folder.join("llvm/lib"))
            .env("CARGO_TARGET_DIR", &build)
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env_remove("RUSTC")
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS"),
    )?;
    fs::remove_dir_all(&build).with_context(|| format!("could not remove {}", build.display()))?;
    wrap(folder, "bpf-linker", "libexec/bin/bpf-linker")?;
    read(Command::new(folder.join("bin/bpf-linker")).arg("--version"))?;
    Ok(format!(
        "Debian's rustc {release}, LLVM {llvm}, bpf-linker {VERSION}"
    ))
}

fn llvm_major(folder: &Path) -> Result<u32> {
    let version = read(Command::new(folder.join("bin/rustc")).arg("-vV"))?;
    version
        .lines()
        .find_map(|line| {
            line.strip_prefix("LLVM version: ")?
                .split('.')
                .next()?
                .parse()
                .ok()
        })
        .with_context(|| format!("no LLVM version in the answer of rustc -vV:\n{version}"))
}

/// Fills `llvm/lib` with links to LLVM and the unpacked libraries it needs, in the form that bpf-linker's build expects.
fn link_llvm(folder: &Path, llvm: u32) -> Result<()> {
    let libraries = folder.join("llvm/lib");
    fs::create_dir_all(&libraries)
        .with_context(|| format!("could not make {}", libraries.display()))?;
    let unpacked = library_folders(&folder.join("usr/lib"));
    for source in &unpacked {
        for (name, path) in shared_objects(source) {
            // Relative, for the folder is renamed when it is complete.
            let relative = path
                .strip_prefix(folder)
                .context("a library outside of the toolchain")?;
            symlink(Path::new("../..").join(relative), libraries.join(&name))
                .with_context(|| format!("could not link {name}"))?;
        }
    }
    let wanted = format!("libLLVM.so.{llvm}.");
    let system = library_folders(Path::new("/usr/lib"));
    let (name, path) = unpacked
        .iter()
        .chain(&system)
        .flat_map(|source| shared_objects(source))
        .find(|(name, _)| name.starts_with(&wanted))
        .with_context(|| {
            format!("found no {wanted}* for bpf-linker, neither unpacked nor in /usr/lib")
        })?;
    let link = libraries.join("libLLVM.so");
    let target = if libraries.join(&name).exists() {
        PathBuf::from(name)
    } else {
        path
    };
    symlink(target, &link).with_context(|| format!("could not make {}", link.display()))
}

fn library_folders(base: &Path) -> Vec<PathBuf> {
    let triple = format!("{}-linux-gnu", env::consts::ARCH);
    [base.join(triple)]
        .into_iter()
        .filter(|folder| folder.is_dir())
        .collect()
}

fn shared_objects(folder: &Path) -> Vec<(String, PathBuf)> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            name.contains(".so").then(|| (name, entry.path()))
        })
        .collect()
}
