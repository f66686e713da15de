//! Errors of attaching and detaching.

use std::{io, path::PathBuf};

use super::clsact::ClsactError;
use crate::dataplane::{load::LoadError, pin::PinError, probe::CgroupError};

/// Why a program could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A socket hook.
    #[error("could not attach {hook} to the cgroup")]
    Cgroup {
        /// Hook.
        hook: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The cgroup itself.
    #[error(transparent)]
    NoCgroup(#[from] CgroupError),
    /// A device.
    #[error("could not {action} {program} at the {side} of device {device}")]
    Device {
        /// What was tried.
        action: &'static str,
        /// Program.
        program: &'static str,
        /// Ingress or egress.
        side: &'static str,
        /// Name, or ifindex.
        device: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A link could not be pinned or examined.
    #[error("could not {action} the link {}", .path.display())]
    Link {
        /// What was tried.
        action: &'static str,
        /// Pin.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The filters of a device without tcx.
    #[error(transparent)]
    Clsact(#[from] ClsactError),
    /// The bpffs folder.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The programs.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl AttachError {
    /// Whether the device does not exist any more. It may disappear at any time, and the next device event reports it.
    pub fn is_device_gone(&self) -> bool {
        let (Self::Device { source, .. }
        | Self::Clsact(
            ClsactError::List { source, .. }
            | ClsactError::Qdisc { source, .. }
            | ClsactError::Filter { source, .. },
        )) = self
        else {
            return false;
        };
        source.raw_os_error() == Some(libc::ENODEV)
    }
}
