//! `setup`: the eBPF toolchain and the lab's control plane in the user's cache folder, and what the lab needs from the
//! system.

mod apt;
mod control_plane;
mod debian;
mod lab;
mod rustup;

use std::{
    env, fmt,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{ui::Ui, workspace::Workspace};

/// The user's choice between the two ways, for tests and for those who have both.
const CHOICE: &str = "PROXY_EBPF_TOOLCHAIN";

/// A compiler that has (or can build) `core` for the BPF target, and its linker.
pub enum Toolchain {
    /// rustup's nightly builds `core` from rust-src; bpf-linker is on `PATH`.
    Rustup(rustup::Nightly),
    /// Debian's rustc with a prebuilt `core`, unpacked into the cache folder.
    Debian(debian::Unpacked),
}

impl Toolchain {
    /// A cargo subcommand with this toolchain's compiler, free of what the caller's environment says
    /// about another.
    pub fn cargo(&self, workspace: &Workspace, subcommand: &str) -> Command {
        let mut command = match self {
            Self::Rustup(nightly) => nightly.cargo(subcommand),
            Self::Debian(unpacked) => unpacked.cargo(subcommand),
        };
        command
            .current_dir(workspace.root())
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        command
    }

    /// What `cargo build` needs to be told besides the target.
    pub fn build_args(&self) -> &'static [&'static str] {
        match self {
            Self::Rustup(_) => &["-Z", "build-std=core"],
            Self::Debian(_) => &[],
        }
    }

    pub fn linker(&self) -> &Path {
        match self {
            Self::Rustup(nightly) => nightly.linker(),
            Self::Debian(unpacked) => unpacked.linker(),
        }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup(nightly) => nightly.fmt(f),
            Self::Debian(unpacked) => unpacked.fmt(f),
        }
    }
}

/// Everything that any command needs.
pub fn run(ui: &Ui, workspace: &Workspace) -> Result<()> {
    ebpf_toolchain(ui)?;
    match no_control_plane(workspace)? {
        Some(missing) => ui.line(&format!("setup: note: {missing}")),
        None => drop(control_plane(ui, workspace)?),
    }
    lab::prepare_or_explain(ui)
}

/// What the commands that run the lab need: root, network tools, bpffs.
pub fn lab(ui: &Ui) -> Result<()> {
    lab::prepare(ui)
}

/// The programs of the lab's control plane, built if they have to be; returns their folder.
pub fn control_plane(ui: &Ui, workspace: &Workspace) -> Result<PathBuf> {
    control_plane::prepare(ui, workspace)
}

/// Why they are not here and cannot be built, if so.
pub fn no_control_plane(workspace: &Workspace) -> Result<Option<String>> {
    control_plane::missing(workspace)
}

/// Whether this process may do what the lab does.
pub fn is_root() -> bool {
    apt::is_root()
}

/// The eBPF toolchain, installed if it has to be.
pub fn ebpf_toolchain(ui: &Ui) -> Result<Toolchain> {
    let choice = env::var(CHOICE).unwrap_or_default();
    let missing = match choice.as_str() {
        "debian" => format!("{CHOICE} asks for it"),
        "" | "rustup" => match rustup::find() {
            Ok(nightly) => {
                ui.line(&format!("setup: eBPF toolchain: {nightly}"));
                return Ok(Toolchain::Rustup(nightly));
            }
            Err(missing) => missing,
        },
        other => bail!("{CHOICE} is `{other}`, but must be `rustup`, `debian` or unset"),
    };
    if choice == "rustup" {
        bail!("{CHOICE} asks for rustup's toolchain, but {missing}");
    }
    let cache = Cache::open()?;
    if let Some(unpacked) = debian::find(cache.folder()) {
        return Ok(Toolchain::Debian(say_found(ui, unpacked)));
    }
    if !debian::is_possible() {
        bail!(
            "no eBPF toolchain. Either of two would do:\n  \
             1. rustup's nightly with rust-src, and bpf-linker; here {missing}. To get them:\n     \
                rustup toolchain install nightly --component rust-src && cargo install bpf-linker\n  \
             2. on Debian 12 or 13, the packages rustc-web and libstd-rust-web-dev-bpf, which setup unpacks into {} \
                by itself; here apt-get and dpkg-deb are missing",
            cache.folder().display()
        );
    }
    let _lock = cache.lock(ui)?;
    // Whoever held the lock may have done the work.
    let unpacked = match debian::find(cache.folder()) {
        Some(unpacked) => say_found(ui, unpacked),
        None => debian::install(ui, cache.folder(), &missing)?,
    };
    Ok(Toolchain::Debian(unpacked))
}

fn say_found(ui: &Ui, unpacked: debian::Unpacked) -> debian::Unpacked {
    ui.line(&format!(
        "setup: eBPF toolchain: {unpacked}, in {}",
        unpacked.folder().display()
    ));
    unpacked
}

/// The project's folder in the user's cache, which all checkouts share.
struct Cache {
    folder: PathBuf,
}

impl Cache {
    fn open() -> Result<Self> {
        let base = match (env::var_os("XDG_CACHE_HOME"), env::home_dir()) {
            (Some(dir), _) if Path::new(&dir).is_absolute() => PathBuf::from(dir),
            (_, Some(home)) => home.join(".cache"),
            _ => bail!(
                "neither XDG_CACHE_HOME nor HOME is set: there is no cache folder to install into"
            ),
        };
        let folder = base.join("kube-proxy-ebpf");
        fs::create_dir_all(&folder)
            .with_context(|| format!("could not make {}", folder.display()))?;
        Ok(Self { folder })
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    /// Held while installing. The kernel lets it go when the process ends, however it ends.
    fn lock(&self, ui: &Ui) -> Result<File> {
        let path = self.folder.join("setup.lock");
        let problem = || format!("could not lock {}", path.display());
        let file = File::create(&path).with_context(problem)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                ui.step("another setup is at work: waiting for it", |_| {
                    file.lock().with_context(problem)
                })?;
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(problem),
        }
        Ok(file)
    }
}
