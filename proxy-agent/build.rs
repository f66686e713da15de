//! Puts the eBPF object beside the agent's sources, from where it is embedded: one binary is the product.
//!
//! The object is built by `cargo xtask build-ebpf`, not from here: it wants another compiler, and a
//! build script that starts cargo fights for the lock of the target folder.
//!
//! - `PROXY_EBPF_OBJECT` names the object, if it is not in the workspace's target folder.
//! - `PROXY_EBPF_SKIP=1` embeds an empty one: enough for lints, useless for running.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

const IN_TARGET: &str = "ebpf/bpfel-unknown-none/release/proxy-ebpf";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PROXY_EBPF_OBJECT");
    println!("cargo::rerun-if-env-changed=PROXY_EBPF_SKIP");
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo set no OUT_DIR")?);
    let embedded = out.join("proxy-ebpf.o");
    if env::var_os("PROXY_EBPF_SKIP").is_some_and(|skip| skip == "1") {
        return fs::write(&embedded, [])
            .map_err(|error| format!("could not write {}: {error}", embedded.display()));
    }
    let object = match env::var_os("PROXY_EBPF_OBJECT") {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => find_in_target(&out).ok_or(
            "the eBPF object is not built: run `cargo xtask build-ebpf` first \
             (or set PROXY_EBPF_SKIP=1 where the agent is only linted)",
        )?,
    };
    println!("cargo::rerun-if-changed={}", object.display());
    fs::copy(&object, &embedded).map(drop).map_err(|error| {
        format!(
            "could not copy the eBPF object {}: {error}; run `cargo xtask build-ebpf`",
            object.display()
        )
    })
}

/// The object in the target folder that `OUT_DIR` is in, however deep (a target triple adds a level),
/// or in the workspace's own.
fn find_in_target(out: &Path) -> Option<PathBuf> {
    let workspace = env::var_os("CARGO_MANIFEST_DIR").map(|dir| Path::new(&dir).join("../target"));
    out.ancestors()
        .map(Path::to_path_buf)
        .chain(workspace)
        .map(|folder| folder.join(IN_TARGET))
        .find(|object| object.is_file())
}
