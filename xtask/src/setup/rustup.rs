//! The first way: rustup's nightly builds `core` itself.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::process::{find_program, read};

/// A nightly with rust-src, and a bpf-linker.
pub struct Nightly {
    rustup: PathBuf,
    release: String,
    linker: PathBuf,
}

impl Nightly {
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.rustup);
        // RUSTC names the compiler of the cargo that runs xtask, if anything.
        command
            .args(["run", "nightly", "cargo", subcommand])
            .env_remove("RUSTC")
            .env_remove("CARGO");
        command
    }

    pub fn linker(&self) -> &Path {
        &self.linker
    }
}

impl fmt::Display for Nightly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rustup's {} and {}", self.release, self.linker.display())
    }
}

/// The toolchain, or a description of what it lacks, as the end of a sentence.
pub fn find() -> Result<Nightly, String> {
    let rustup = find_program("rustup").ok_or("rustup is missing")?;
    let rustc = |arguments: &[&str]| {
        read(
            Command::new(&rustup)
                .args(["run", "nightly", "rustc"])
                .args(arguments),
        )
    };
    let (Ok(release), Ok(sysroot)) = (rustc(&["--version"]), rustc(&["--print", "sysroot"])) else {
        return Err("rustup has no nightly toolchain".to_owned());
    };
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !core.is_file() {
        return Err("rustup's nightly lacks the component rust-src".to_owned());
    }
    let linker = find_program("bpf-linker").ok_or("bpf-linker is not on PATH")?;
    Ok(Nightly {
        rustup,
        release: release.trim().to_owned(),
        linker,
    })
}
