//! Where things are: the workspace's root and cargo's target folder.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf, absolute},
    process::Command,
};

use anyhow::{Context as _, Result};

/// The target triple of the eBPF programs (little endian; no big-endian node is supported).
pub const BPF_TARGET: &str = "bpfel-unknown-none";

/// Names the agent's binary to the lab and its tests.
pub const AGENT_BINARY: &str = "PROXY_AGENT_BIN";

/// The checkout that this run works on.
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace that cargo runs this program from.
    pub fn find() -> Result<Self> {
        // Read at run time: a binary moved with its target folder must not know another checkout.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .context("CARGO_MANIFEST_DIR is not set: run this as `cargo xtask …`")?;
        let root = Path::new(&manifest)
            .parent()
            .context("the xtask crate has no parent folder")?
            .to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) if !dir.is_empty() => absolute(&dir)
                .with_context(|| format!("CARGO_TARGET_DIR {} is no path", dir.display()))?,
            _ => root.join("target"),
        };
        Ok(Self { root, target })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder for the eBPF crate: its own, so that both builds can run at once.
    pub fn ebpf_target(&self) -> PathBuf {
        self.target.join("ebpf")
    }

    /// Where the built eBPF object is.
    pub fn ebpf_object(&self) -> PathBuf {
        self.ebpf_target()
            .join(BPF_TARGET)
            .join("release/proxy-ebpf")
    }

    /// Arguments for rustc that make the paths of sources, ours and those of dependencies, the same on every machine.
    pub fn path_remaps(&self) -> Vec<String> {
        let home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
        let home = home.map(|home| format!("--remap-path-prefix={}=cargo", home.display()));
        let root = format!("--remap-path-prefix={}=.", self.root.display());
        home.into_iter().chain([root]).collect()
    }

    /// The path of a binary that cargo built; `profile` is the name of its folder.
    pub fn binary(&self, profile: &str, name: &str) -> PathBuf {
        self.target.join(profile).join(name)
    }

    /// A copy of the workspace for mutations, and its build results.
    pub fn for_mutants(&self) -> Self {
        let folder = self.target.join("mutants");
        Self {
            root: folder.join("sources"),
            target: folder.join("target"),
        }
    }

    /// Cargo's target folder.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where container images are made.
    pub fn image(&self) -> PathBuf {
        self.target.join("image")
    }

    /// Where the output of test binaries is kept.
    pub fn test_logs(&self) -> PathBuf {
        self.target.join("test-logs")
    }

    /// The agent for the lab: the one built for it, or one that the user chose, such as a release
    /// build.
    pub fn lab_agent(&self) -> OsString {
        env::var_os(AGENT_BINARY)
            .unwrap_or_else(|| self.binary("debug", "proxy-agent").into_os_string())
    }

    /// A program of the lab, with the agent that it runs, started in the workspace's root.
    pub fn lab_program(&self, name: &str, agent: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(self.binary("debug", name));
        command.current_dir(&self.root).env(AGENT_BINARY, agent);
        command
    }

    /// The cargo that runs this program, started in the workspace's root.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root);
        // Build scripts that ask for these (ring's) would run again whenever this program and its user take turns with
        // cargo, and all that depends on them would be compiled again.
        for (name, _) in env::vars_os().filter(|(name, _)| is_of_a_package(name)) {
            command.env_remove(name);
        }
        command
    }
}

/// Whether cargo uses this variable to tell a program that it runs about its package.
fn is_of_a_package(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"CARGO_PKG_") || name.starts_with(b"CARGO_MANIFEST_")
}

/// The cargo that runs this program.
pub fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_not_told_of_this_package() {
        let workspace = Workspace::find().expect("cargo runs tests");
        let command = workspace.cargo();
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"] {
            assert!(env::var_os(name).is_some(), "{name}");
            let removed = command.get_envs().find(|(known, _)| *known == name);
            assert_eq!(removed, Some((OsStr::new(name), None)));
        }
    }
}
