//! One module for each command.

pub mod cleanup;
pub mod flows;
pub mod health;
pub mod on_host;
pub mod plan;
pub mod run;
pub mod services;
pub mod version;

use std::path::PathBuf;

/// Where programs and maps are pinned.
#[derive(Clone, Debug, clap::Args)]
pub struct BpffsArgs {
    /// Folder on a bpf file system that holds the pinned maps and links.
    #[arg(
        long,
        env = "PROXY_BPFFS",
        value_name = "PATH",
        default_value = "/sys/fs/bpf/kube-proxy-ebpf"
    )]
    pub bpffs: PathBuf,
}
