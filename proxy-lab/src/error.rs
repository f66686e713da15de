//! Errors of the lab.

use std::path::{Path, PathBuf};

use crate::protocol::Failure;

/// An error of the lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Namespaces, cgroups and BPF need root.
    #[error("the lab needs root (network namespaces, cgroups, bpffs): run it with sudo")]
    NotRoot,
    /// No cgroup v2 hierarchy is mounted.
    #[error(
        "no cgroup v2 is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`"
    )]
    NoCgroup2,
    /// The requested topology is invalid.
    #[error("the topology cannot be built: {0}")]
    Topology(String),
    /// A file operation failed.
    #[error("{action} {}", path.display())]
    File {
        /// A verb: "creating", "removing"…
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A system call that names no file failed.
    #[error("{action}")]
    Kernel {
        /// What was tried.
        action: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A command could not be started or ended with an error.
    #[error("`{command}` {ending}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended, with what it wrote to stderr.
        ending: String,
    },
    /// The `lab-host` binary is missing, or was built from other sources.
    #[error(
        "{0}; build it with `cargo build -p proxy-lab --bin lab-host` or name it in PROXY_LAB_HOST_BIN"
    )]
    HostBinary(String),
    /// A `lab-host` process ended or did not answer.
    #[error("the process of host {host} {problem}")]
    HostProcess {
        /// The host.
        host: String,
        /// What happened.
        problem: String,
    },
    /// A `lab-host` reported an error.
    #[error("on host {host}: {message}")]
    Refused {
        /// The host.
        host: String,
        /// The error message from the host.
        message: String,
    },
    /// One request had no answer.
    #[error("from host {host} to {to}: {failure}")]
    NoAnswer {
        /// The client.
        host: String,
        /// The destination.
        to: std::net::SocketAddr,
        /// Why.
        failure: Failure,
    },
    /// Something did not happen in time.
    #[error("{what}: not within {within:?}")]
    NotInTime {
        /// What should have happened.
        what: String,
        /// The timeout.
        within: std::time::Duration,
    },
    /// An agent, kube-proxy or a program of the control plane did not start or ended.
    #[error("{name} {problem}; the end of its log:\n{log}")]
    Daemon {
        /// The program.
        name: String,
        /// What happened.
        problem: String,
        /// The last lines of its log.
        log: String,
    },
    /// The programs of the control plane are not built.
    #[error(
        "{0}: build the control plane's programs with `cargo xtask setup`, or name their folder in PROXY_LAB_CONTROL_PLANE"
    )]
    NoControlPlane(String),
    /// The API server refused something, or did not answer.
    #[error("{action}")]
    Api {
        /// What was tried.
        action: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
}

impl LabError {
    /// Error of a file operation; `action` is a verb such as `reading`.
    pub fn file(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    /// Error of a system call; `action` is for example `entering a network namespace`.
    pub fn kernel<E: Into<std::io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Kernel {
            action,
            source: source.into(),
        }
    }

    /// The error and its causes in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// A result with [`LabError`].
pub type Result<T, E = LabError> = std::result::Result<T, E>;
