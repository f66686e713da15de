//! What the lab needs from the system: root, network tools, a mounted bpffs.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use super::apt;
use crate::{
    process::{exec, find_program},
    ui::Ui,
};

/// Programs that the lab runs, with the Debian package of each.
const TOOLS: [(&str, &str); 8] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("bridge", "iproute2"),
    ("iptables", "iptables"),
    ("ip6tables", "iptables"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("sysctl", "procps"),
];
const BPFFS: &str = "/sys/fs/bpf";

/// Installs and mounts what is missing, or reports what it cannot.
pub fn prepare(ui: &Ui) -> Result<()> {
    ensure!(
        apt::is_root(),
        "the lab makes network namespaces and loads eBPF programs: run this as root"
    );
    let packages = missing_packages();
    if !packages.is_empty() {
        if !apt::is_there() {
            bail!(
                "the lab needs programs that are not here, and there is no apt-get to install them: {}",
                missing_tools().join(", ")
            );
        }
        ui.line(&format!(
            "setup: the lab's network tools, a few MB, into the system by apt-get: {}",
            packages.join(" ")
        ));
        let lists = apt::refresh(ui);
        lists.explain(apt::install(ui, &packages))?;
    }
    mount_bpffs(ui)
}

/// Like [`prepare`], but without root it only prints what the lab needs.
pub fn prepare_or_explain(ui: &Ui) -> Result<()> {
    if apt::is_root() {
        return prepare(ui);
    }
    let missing = missing_tools();
    let tools = if missing.is_empty() {
        "its programs are all here".to_owned()
    } else {
        format!(
            "it will want {} (packages {})",
            missing.join(", "),
            missing_packages().join(" ")
        )
    };
    ui.line(&format!(
        "setup: the lab (demo, test root) runs as root only; {tools}"
    ));
    Ok(())
}

fn missing_tools() -> Vec<&'static str> {
    missing().map(|(tool, _)| tool).collect()
}

fn missing_packages() -> Vec<&'static str> {
    let mut packages: Vec<_> = missing().map(|(_, package)| package).collect();
    packages.dedup();
    packages
}

fn missing() -> impl Iterator<Item = (&'static str, &'static str)> {
    TOOLS
        .into_iter()
        .filter(|(tool, _)| find_program(tool).is_none())
}

fn mount_bpffs(ui: &Ui) -> Result<()> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").context("could not read /proc/self/mounts")?;
    if is_mounted(&mounts) {
        return Ok(());
    }
    ui.line(&format!("setup: bpffs is mounted at {BPFFS}"));
    exec(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))
}

fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpffs_is_seen_at_its_place_only() {
        assert!(is_mounted(
            "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n"
        ));
        assert!(!is_mounted(
            "bpf /run/bpf bpf rw 0 0\ntmpfs /sys/fs/bpf tmpfs rw 0 0\n"
        ));
    }
}
