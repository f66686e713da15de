//! Asking apt: candidates, fresh lists, downloads.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{find_program, follow, read, step},
    ui::Ui,
};

/// Whether this system has apt and dpkg.
pub fn is_there() -> bool {
    ["apt-get", "apt-cache", "dpkg-deb"]
        .iter()
        .all(|name| find_program(name).is_some())
}

/// Whether this process may change the system.
pub fn is_root() -> bool {
    // The owner of /proc/self is the effective user.
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The version of a package that apt would install, if it knows any.
pub fn candidate(package: &str) -> Result<Option<String>> {
    let policy = read(
        Command::new("apt-cache")
            .args(["policy", package])
            .env("LC_ALL", "C"),
    )?;
    Ok(policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned))
}

/// Fetches the package lists, as root. Without network the old lists have to do: what they say is then
/// perhaps gone from the mirror, and [`download`] and [`install`] say so.
pub fn refresh(ui: &Ui) -> Lists {
    if !is_root() {
        return Lists::Old("only root may run `apt-get update`".to_owned());
    }
    let mut update = get();
    update.args(["update", "-o", "APT::Update::Error-Mode=any"]);
    match step(ui, "apt-get update", &mut update) {
        Ok(_) => Lists::Fresh,
        Err(error) => Lists::Old(format!("{error:#}")),
    }
}

/// How far the package lists can be trusted.
pub enum Lists {
    Fresh,
    /// Perhaps out of date, and why they could not be fetched.
    Old(String),
}

impl Lists {
    /// Adds to an error what the state of the lists may have to do with it.
    pub fn explain<T>(&self, result: Result<T>) -> Result<T> {
        match self {
            Self::Fresh => result,
            Self::Old(reason) => result.with_context(|| {
                format!(
                    "apt's package lists may be out of date ({reason}): run `apt-get update` as root, then try again"
                )
            }),
        }
    }
}

/// The packages that `package` would pull in and that the system lacks, itself included.
pub fn missing_with(package: &str) -> Result<Vec<String>> {
    let plan = read(get().args(["install", "--simulate", "--no-install-recommends", package]))?;
    Ok(plan
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
        .map(str::to_owned)
        .collect())
}

/// Downloads packages (`name` or `name=version`) into a folder.
pub fn download(ui: &Ui, packages: &[String], folder: &Path) -> Result<Vec<String>> {
    ui.step(
        &format!("download of {} packages", packages.len()),
        |step| {
            follow(
                step,
                get()
                    // The sandbox user of apt can't write into a user's folder, and apt then only warns.
                    .args(["download", "-o", "APT::Sandbox::User="])
                    .args(packages)
                    .current_dir(folder),
            )
        },
    )
}

/// Installs packages into the system.
pub fn install(ui: &Ui, packages: &[&str]) -> Result<Vec<String>> {
    if !is_root() {
        bail!("only root may install packages");
    }
    step(
        ui,
        &format!("apt-get install {}", packages.join(" ")),
        get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages),
    )
}

fn get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-o", "DPkg::Lock::Timeout=120"])
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}
