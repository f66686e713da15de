//! `image`: the agent as a container image, without a container engine: a static binary, alone in its root file system.

mod archive;
mod check;
#[cfg(test)]
mod tests;

use std::{
    env,
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{build, process, setup, ui::Ui, workspace::Workspace};
use archive::{Entry, Image};
use check::Archive;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const REFERENCE: &str = concat!("kube-proxy-ebpf:", env!("CARGO_PKG_VERSION"));
const PROGRAM: &str = "proxy-agent";

/// Builds the binary, packs it, reads the archive back and runs what is in it.
pub fn run(ui: &Ui, workspace: &Workspace) -> Result<()> {
    let binary = build::static_agent(ui, workspace)?;
    let program = fs::read(&binary).with_context(|| format!("reading {}", binary.display()))?;
    let files = files(program);
    let image = Image {
        reference: REFERENCE,
        architecture: architecture()?,
        version: VERSION,
        entrypoint: &["/proxy-agent"],
        arguments: &["run"],
        files: &files,
    };
    let folder = workspace.image();
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let name = format!("kube-proxy-ebpf-{VERSION}-{}.tar", image.architecture);
    let path = folder.join(name);
    let digest = ui.step("image", |_| {
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        archive::write(&image, file).with_context(|| format!("writing {}", path.display()))
    })?;
    let root = folder.join("rootfs");
    let said = ui.step("image, read back and run", |_| {
        try_out(&path, &root, &digest.to_string())
    })?;
    let size = path.metadata().map_or(0, |metadata| metadata.len());
    ui.line(&format!(
        "    {} ({} KiB)\n    {REFERENCE} for {}, {digest}\n    {said}\n\
         Load it on a node, or push it to your registry:\n    \
         ctr -n k8s.io images import {name}\n    podman load -i {name}\n    docker load -i {name}",
        path.display(),
        size / 1024,
        image.architecture,
        name = path.display(),
    ));
    Ok(())
}

/// The image's files. The C library looks names up as nsswitch.conf says; node names of API servers are often in
/// /etc/hosts, which the kubelet writes.
fn files(program: Vec<u8>) -> [Entry; 2] {
    [
        Entry {
            path: PROGRAM,
            mode: 0o755,
            bytes: program,
        },
        Entry {
            path: "etc/nsswitch.conf",
            mode: 0o644,
            bytes: b"hosts: files dns\n".to_vec(),
        },
    ]
}

/// Reads the archive back, unpacks it and runs the agent with nothing around it; returns what was seen.
fn try_out(path: &Path, root: &Path, digest: &str) -> Result<String> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let found = Archive::read(file)
        .and_then(|archive| archive.check())
        .with_context(|| format!("{} is not whole", path.display()))?;
    ensure!(
        found.digest == digest,
        "it is {}, {digest} was written",
        found.digest
    );
    if root.exists() {
        fs::remove_dir_all(root).with_context(|| format!("removing {}", root.display()))?;
    }
    tar::Archive::new(found.layer.as_slice())
        .unpack(root)
        .with_context(|| format!("unpacking into {}", root.display()))?;
    if !setup::is_root() {
        return Ok("not run in an empty root: that takes root".to_owned());
    }
    let entrypoint = found.config["config"]["Entrypoint"][0].as_str();
    let program = entrypoint.context("the image has no entry point")?;
    let said = process::read(Command::new("chroot").arg(root).args([program, "version"]))
        .context("the agent does not run alone: is it static?")?;
    ensure!(
        said.contains(VERSION),
        "the agent says it is {}, this is {VERSION}",
        said.trim()
    );
    Ok(format!("says, alone in its root: {}", said.trim()))
}

/// This machine's architecture as images name it.
fn architecture() -> Result<&'static str> {
    match env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => anyhow::bail!("no image is made for {other}"),
    }
}
