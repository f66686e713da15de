//! The second way: Debian's `rustc-web` with its prebuilt `core` for BPF, unpacked into the cache folder,
//! and a bpf-linker built against that compiler's LLVM. Nothing is installed into the system.

mod linker;

use std::{
    env, fmt, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{self, Command},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::apt::{self, Lists};
use crate::{
    process::{find_program, follow},
    ui::Ui,
    workspace::{BPF_TARGET, cargo},
};

/// The release that the project was last checked with; a newer one is taken too, with a note.
const CHECKED_RUSTC: &str = "1.96.0";
/// Raised when a change below makes folders of before unusable.
const RECIPE: u32 = 2;
/// Written last: a folder without it is not used.
const COMPLETE: &str = "complete";
/// How the names of folders begin that are not complete yet.
const PARTIAL: &str = "partial-";

/// An unpacked toolchain.
pub struct Unpacked {
    folder: PathBuf,
    linker: PathBuf,
    about: String,
}

impl Unpacked {
    fn at(folder: PathBuf) -> Option<Self> {
        let about = fs::read_to_string(folder.join(COMPLETE)).ok()?;
        Some(Self {
            linker: folder.join("bin/bpf-linker"),
            about: about.trim().to_owned(),
            folder,
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn linker(&self) -> &Path {
        &self.linker
    }

    pub fn cargo(&self, subcommand: &str) -> Command {
        // Clippy has to be the compiler's own: rustup's would bring another compiler.
        let mut command = if subcommand == "clippy" {
            Command::new(self.folder.join("bin/cargo-clippy"))
        } else {
            Command::new(cargo())
        };
        // The BPF target and its flags are unstable, hence the bootstrap switch on this stable release.
        command
            .arg(subcommand)
            .env("CARGO", cargo())
            .env("RUSTC", self.folder.join("bin/rustc"))
            .env("RUSTC_BOOTSTRAP", "1");
        command
    }
}

impl fmt::Display for Unpacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.about)
    }
}

/// Whether this system has what the recipe needs.
pub fn is_possible() -> bool {
    apt::is_there()
}

/// A complete toolchain in the cache: the release last checked, or else the newest.
pub fn find(cache: &Path) -> Option<Unpacked> {
    let mut releases: Vec<String> = fs::read_dir(cache)
        .ok()?
        .filter_map(|entry| release_of(entry.ok()?.file_name().to_str()?).map(str::to_owned))
        .collect();
    releases.sort_by_key(|release| {
        let numbers: Vec<u32> = release
            .split('.')
            .filter_map(|number| number.parse().ok())
            .collect();
        (release != CHECKED_RUSTC, std::cmp::Reverse(numbers))
    });
    releases
        .iter()
        .find_map(|release| Unpacked::at(cache.join(folder_name(release))))
}

/// Downloads, unpacks and builds. The caller holds the cache's lock.
pub fn install(ui: &Ui, cache: &Path, no_rustup: &str) -> Result<Unpacked> {
    ensure!(
        find_program("cc").is_some(),
        "no C compiler: bpf-linker is built here and needs `cc` (on Debian: apt-get install gcc libc6-dev)"
    );
    ui.line(&format!(
        "setup: eBPF toolchain: Debian's rustc-web ({no_rustup}).\n  \
         About 120 MB are downloaded and bpf-linker is compiled, 1 to 5 minutes in all, once.\n  \
         It goes into {} (480 MB); nothing is installed into the system.",
        cache.display()
    ));
    let lists = apt::refresh(ui);
    let version = lists.explain(offered_version())?;
    let release = release_of_version(&version).to_owned();
    if release != CHECKED_RUSTC {
        ui.line(&format!(
            "setup: note: Debian offers rustc {release}; this was last checked with {CHECKED_RUSTC}"
        ));
    }

    let folder = cache.join(folder_name(&release));
    remove_leftovers(cache, &folder)?;
    let partial = cache.join(format!("{PARTIAL}{}", process::id()));
    unpack(ui, &lists, &version, &partial)?;
    let about = linker::build(ui, &partial, &release)?;
    fs::write(partial.join(COMPLETE), &about).context("could not write the completion mark")?;
    fs::rename(&partial, &folder).with_context(|| {
        format!(
            "could not rename {} to {}",
            partial.display(),
            folder.display()
        )
    })?;
    ui.line(&format!("setup: {about}, in {}", folder.display()));
    Unpacked::at(folder).context("the toolchain vanished while it was being installed")
}

/// Removes what an interrupted run left.
fn remove_leftovers(cache: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("could not remove {}", folder.display()))?;
    }
    for entry in
        fs::read_dir(cache).with_context(|| format!("could not list {}", cache.display()))?
    {
        let entry = entry.with_context(|| format!("could not list {}", cache.display()))?;
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            // A compiler orphaned a moment ago may still write there: the next run removes the rest.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// The source version that apt offers of the compiler *and* of its `core` for BPF.
fn offered_version() -> Result<String> {
    let (Some(rustc), Some(core)) = (
        apt::candidate("rustc-web")?,
        apt::candidate("libstd-rust-web-dev-bpf")?,
    ) else {
        bail!(
            "apt knows no rustc-web with libstd-rust-web-dev-bpf (Debian 12 with its -security archive, or Debian 13, has them). \
             Instead: rustup toolchain install nightly --component rust-src && cargo install bpf-linker"
        );
    };
    let version = source_version(&rustc);
    ensure!(
        version == source_version(&core),
        "apt offers rustc-web {rustc}, but libstd-rust-web-dev-bpf {core}: they have to be the same"
    );
    Ok(version.to_owned())
}

/// A package as apt shall fetch it: as it is offered, which has to be of this source version.
fn offered(package: &str, source: &str) -> Result<String> {
    let version =
        apt::candidate(package)?.with_context(|| format!("apt knows no package {package}"))?;
    ensure!(
        source_version(&version) == source,
        "apt offers {package} {version}, but rustc-web {source}: they have to be the same"
    );
    Ok(format!("{package}={version}"))
}

fn unpack(ui: &Ui, lists: &Lists, version: &str, folder: &Path) -> Result<()> {
    let packages = folder.join("deb");
    fs::create_dir_all(&packages)
        .with_context(|| format!("could not make {}", packages.display()))?;
    let minor = release_of_version(version)
        .rsplit_once('.')
        .map_or(version, |(minor, _)| minor);
    let driver = format!("libstd-rust-web-{minor}");
    let mut wanted = [
        "rustc-web",
        "libstd-rust-web-dev",
        "libstd-rust-web-dev-bpf",
        "rust-web-clippy",
        &driver,
    ]
    .into_iter()
    .map(|package| lists.explain(offered(package, version)))
    .collect::<Result<Vec<_>>>()?;
    // The libraries that the compiler needs and this system lacks: libllvm, and more on a lean one.
    wanted.extend(
        lists
            .explain(apt::missing_with(&driver))?
            .into_iter()
            .filter(|package| *package != driver),
    );
    lists.explain(apt::download(ui, &wanted, &packages))?;

    ui.step("unpack", |progress| {
        for entry in fs::read_dir(&packages).context("could not list the downloads")? {
            let package = entry.context("could not list the downloads")?.path();
            follow(
                progress,
                Command::new("dpkg-deb").arg("-x").arg(&package).arg(folder),
            )?;
        }
        for unused in ["deb", "usr/share", "usr/lib/rustlib/bpfeb-unknown-none"] {
            let unused = folder.join(unused);
            if unused.exists() {
                fs::remove_dir_all(&unused)
                    .with_context(|| format!("could not remove {}", unused.display()))?;
            }
        }
        let core = folder.join("usr/lib/rustlib").join(BPF_TARGET);
        ensure!(
            core.is_dir(),
            "the packages hold no `core` for {BPF_TARGET}"
        );
        wrap(folder, "rustc", "usr/bin/rustc")?;
        wrap(folder, "cargo-clippy", "usr/bin/cargo-clippy")
    })
}

/// Writes `bin/NAME`, which runs `program` with the unpacked libraries.
fn wrap(folder: &Path, name: &str, program: &str) -> Result<()> {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("could not make {}", bin.display()))?;
    let script = bin.join(name);
    let text = format!(
        "#!/bin/sh\n\
         here=$(dirname \"$(readlink -f \"$0\")\")/..\n\
         for libraries in \"$here\"/usr/lib/*-linux-gnu; do\n  \
           LD_LIBRARY_PATH=\"$libraries${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\"\n\
         done\n\
         export LD_LIBRARY_PATH\n\
         exec \"$here/{program}\" \"$@\"\n"
    );
    fs::write(&script, text)
        .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("could not write {}", script.display()))
}

fn folder_name(release: &str) -> String {
    format!("{}{release}{}", prefix(), suffix())
}

fn release_of(folder: &str) -> Option<&str> {
    folder.strip_prefix(&prefix())?.strip_suffix(&suffix())
}

fn prefix() -> String {
    format!("toolchain-{}-rustc-", env::consts::ARCH)
}

fn suffix() -> String {
    format!("-bpf-linker-{}-r{RECIPE}", linker::VERSION)
}

/// `1.96.0` of `1.96.0+dfsg1-1~deb12u2`.
fn release_of_version(version: &str) -> &str {
    version.split(['+', '-', '~']).next().unwrap_or(version)
}

/// `1.96.0+dfsg1-1~deb13u1` of `1.96.0+dfsg1-1~deb13u1+b1`: Debian builds packages again without a new source, each of them
/// that is not for all architectures.
fn source_version(version: &str) -> &str {
    match version.rsplit_once("+b") {
        Some((source, rebuild)) if rebuild.parse::<u32>().is_ok() => source,
        _ => version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_carry_the_release() {
        assert_eq!(release_of(&folder_name("1.96.0")), Some("1.96.0"));
        assert_eq!(release_of("partial-toolchain"), None);
        assert_eq!(release_of_version("1.96.0+dfsg1-1~deb12u2"), "1.96.0");
    }

    #[test]
    fn a_rebuild_is_of_the_same_source() {
        let rebuilt = "1.96.0+dfsg1-1~deb13u1+b1";
        assert_eq!(source_version(rebuilt), "1.96.0+dfsg1-1~deb13u1");
        for source in ["1.96.0+dfsg1-1~deb13u1", "1.96.0+beta-1", "1.96.0-1+b"] {
            assert_eq!(source_version(source), source);
        }
    }

    #[test]
    fn the_checked_release_is_preferred_then_the_newest() {
        let cache = env::temp_dir().join(format!("xtask-debian-{}", process::id()));
        let add = |release: &str| {
            let folder = cache.join(folder_name(release));
            fs::create_dir_all(&folder).expect("a folder in the temporary folder");
            fs::write(folder.join(COMPLETE), release).expect("a file in the temporary folder");
        };
        let found = || find(&cache).map(|unpacked| unpacked.to_string());
        assert_eq!(found(), None);
        add("1.97.1");
        add("1.100.0");
        assert_eq!(found().as_deref(), Some("1.100.0"));
        add(CHECKED_RUSTC);
        assert_eq!(found().as_deref(), Some(CHECKED_RUSTC));
        fs::remove_file(cache.join(folder_name(CHECKED_RUSTC)).join(COMPLETE))
            .expect("the mark is there");
        assert_eq!(found().as_deref(), Some("1.100.0"));
        fs::remove_dir_all(&cache).expect("the temporary folder can be removed");
    }
}
