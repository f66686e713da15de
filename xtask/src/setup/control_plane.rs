//! The lab's control plane: etcd, Kubernetes' own API server, controllers, kube-proxy and kubectl, and CoreDNS, built from
//! their Go modules (`proxy-lab/cluster`) into the cache folder. What is there already is not built again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::Cache;
use crate::{
    process::{find_program, follow},
    ui::Ui,
    workspace::Workspace,
};

/// What is built of which module: the package and the program's name. First what shares most with the others.
const PROGRAMS: [(&str, &str, &str); 6] = [
    ("k8s", "k8s.io/kubernetes/cmd/kube-proxy", "kube-proxy"),
    (
        "k8s",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "kube-apiserver",
    ),
    (
        "k8s",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "kube-controller-manager",
    ),
    ("k8s", "k8s.io/kubernetes/cmd/kubectl", "kubectl"),
    ("k8s", "go.etcd.io/etcd/server/v3", "etcd"),
    ("coredns", ".", "coredns"),
];
/// What decides about the programs, below `proxy-lab/cluster`.
const RECIPE: [&str; 3] = ["k8s/go.mod", "coredns/go.mod", "coredns/main.go"];
/// The module whose version is the cluster's version.
const KUBERNETES: &str = "k8s.io/kubernetes";

/// Why the programs are not here and cannot be built, if so.
pub fn missing(workspace: &Workspace) -> Result<Option<String>> {
    let place = Place::find(workspace)?;
    Ok((place.absent().next().is_some() && find_program("go").is_none()).then(|| {
        "the lab's control plane is built with Go, and there is no `go` on PATH: get Go 1.26 (any from 1.21 on fetches it by \
         itself) from https://go.dev/dl/ or from the distribution"
            .to_owned()
    }))
}

/// The folder with all programs, which are built if they have to be.
pub fn prepare(ui: &Ui, workspace: &Workspace) -> Result<PathBuf> {
    let place = Place::find(workspace)?;
    let Place {
        modules,
        version,
        cache,
        folder,
    } = &place;
    if place.absent().next().is_none() {
        ui.line(&format!(
            "setup: control plane: Kubernetes {version}, in {}",
            folder.display()
        ));
        return Ok(place.folder);
    }
    if let Some(missing) = missing(workspace)? {
        bail!(missing);
    }
    let _lock = cache.lock(ui)?;
    // Whoever held the lock may have done the work.
    let absent: Vec<_> = place.absent().collect();
    if absent.is_empty() {
        return Ok(place.folder);
    }
    let names: Vec<_> = absent.iter().map(|(.., name)| *name).collect();
    ui.line(&format!(
        "setup: control plane of the lab: Kubernetes {version}, CoreDNS; to build: {}.\n  \
         Up to 250 MB of Go modules are downloaded and compiled, 8 to 15 minutes on two cores, once (half a minute with a \
         warm Go cache).\n  It goes into {} (420 MB); nothing is installed into the system.",
        names.join(", "),
        folder.display()
    ));
    fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    for (module, package, name) in absent {
        build(
            ui,
            &modules.join(module),
            package,
            version,
            &folder.join(name),
        )?;
    }
    Ok(place.folder)
}

/// Where it comes from and goes to.
struct Place {
    modules: PathBuf,
    version: String,
    cache: Cache,
    folder: PathBuf,
}

impl Place {
    fn find(workspace: &Workspace) -> Result<Self> {
        let modules = workspace.root().join("proxy-lab/cluster");
        let version = version(&modules)?;
        let cache = Cache::open()?;
        let folder = cache.folder().join(folder_name(&modules, &version)?);
        Ok(Self {
            modules,
            version,
            cache,
            folder,
        })
    }

    fn absent(&self) -> impl Iterator<Item = &'static (&'static str, &'static str, &'static str)> {
        PROGRAMS
            .iter()
            .filter(|(.., name)| !self.folder.join(name).is_file())
    }
}

/// Builds one program. Its name appears when it is complete.
fn build(ui: &Ui, module: &Path, package: &str, version: &str, program: &Path) -> Result<()> {
    let partial = program.with_added_extension("partial");
    let name = program.file_name().unwrap_or_default().display();
    ui.step(&format!("build of {name}"), |step| {
        follow(
            step,
            // The machine stays usable meanwhile; and the other builds of a first run come first.
            niced("go")
                .args([
                    "build",
                    "-v",
                    "-trimpath",
                    "-mod=readonly",
                    "-buildvcs=false",
                    "-ldflags",
                    &link_flags(version),
                    "-o",
                ])
                .arg(&partial)
                .arg(package)
                .current_dir(module)
                .env("CGO_ENABLED", "0"),
        )
    })?;
    fs::rename(&partial, program)
        .with_context(|| format!("could not complete {}", program.display()))
}

/// A command of the lowest priority, where there is `nice`.
fn niced(program: &str) -> Command {
    if find_program("nice").is_none() {
        return Command::new(program);
    }
    let mut command = Command::new("nice");
    command.args(["-n", "19", program]);
    command
}

/// No symbols; and the version that the API server and kube-proxy say they are, which Kubernetes' own build sets like this.
fn link_flags(version: &str) -> String {
    let numbers: Vec<_> = version.trim_start_matches('v').split('.').collect();
    let set = "-X k8s.io/component-base/version.";
    format!(
        "-s -w {set}gitVersion={version} {set}gitMajor={} {set}gitMinor={} {set}gitTreeState=clean",
        numbers.first().unwrap_or(&""),
        numbers.get(1).unwrap_or(&"")
    )
}

/// The cluster's version, from the module file.
fn version(modules: &Path) -> Result<String> {
    let file = modules.join("k8s/go.mod");
    let text =
        fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
    version_in(&text).with_context(|| format!("{} requires no {KUBERNETES}", file.display()))
}

fn version_in(module_file: &str) -> Option<String> {
    let mut words = module_file.lines().map(str::split_whitespace);
    words.find_map(|mut words| {
        (words.next()? == KUBERNETES).then(|| words.next().map(str::to_owned))?
    })
}

/// The folder's name: version and hash (FNV-1a) of the recipe. The lab's library works it out the same way.
fn folder_name(modules: &Path, version: &str) -> Result<String> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for name in RECIPE {
        let file = modules.join(name);
        let text = fs::read(&file).with_context(|| format!("could not read {}", file.display()))?;
        for byte in text {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(format!("control-plane-{version}-{hash:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_is_required() {
        let text = "module x\n\ntool (\n\tk8s.io/kubernetes/cmd/kubectl\n)\nrequire (\n\tk8s.io/kubernetes v1.36.3 // indirect\n)\n";
        assert_eq!(version_in(text).as_deref(), Some("v1.36.3"));
        assert_eq!(version_in("module x\n"), None);
        assert!(link_flags("v1.36.3").contains("gitMajor=1 "));
    }
}
