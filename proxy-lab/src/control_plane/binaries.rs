//! Where the programs of the control plane are: `cargo xtask setup` builds them into the user's cache folder.

use std::path::PathBuf;

use crate::error::{LabError, Result};
use crate::host_binary;

/// Names the folder with the programs.
const VARIABLE: &str = "PROXY_LAB_CONTROL_PLANE";
const K8S: &str = include_str!("../../cluster/k8s/go.mod");
/// What decides about the programs, in the order in which it is hashed.
const RECIPE: [&str; 3] = [
    K8S,
    include_str!("../../cluster/coredns/go.mod"),
    include_str!("../../cluster/coredns/main.go"),
];

/// A program's file.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let folder = folder().ok_or_else(|| {
        LabError::NoControlPlane("neither XDG_CACHE_HOME nor HOME is set".to_owned())
    })?;
    let file = folder.join(name);
    if file.is_file() {
        return Ok(file);
    }
    Err(LabError::NoControlPlane(format!(
        "{} is not there",
        file.display()
    )))
}

/// `PROXY_LAB_CONTROL_PLANE`, or where `xtask/src/setup/control_plane.rs` builds for these module files.
fn folder() -> Option<PathBuf> {
    host_binary::named_by(VARIABLE).or_else(|| {
        let cache = host_binary::named_by("XDG_CACHE_HOME")
            .filter(|folder| folder.is_absolute())
            .or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
        Some(cache.join("kube-proxy-ebpf").join(folder_name()))
    })
}

fn folder_name() -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in RECIPE.iter().flat_map(|text| text.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("control-plane-{}-{hash:016x}", version())
}

/// The version of Kubernetes that is built.
pub(crate) fn version() -> &'static str {
    let words: Vec<_> = K8S.split_whitespace().collect();
    let mut pairs = words.windows(2);
    let found = pairs.find(|pair| pair[0] == "k8s.io/kubernetes");
    found.map_or("unknown", |pair| pair[1])
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_the_module_files() {
        assert!(super::version().starts_with("v1."));
    }
}
