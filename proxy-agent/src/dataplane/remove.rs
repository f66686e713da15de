//! Removing everything that any version has attached and pinned.

use std::{fs, io, path::Path};

use super::{
    attach::{self, AttachError},
    pin::{self, PinError, PinFolder},
    sys::process::device_name,
};

/// Devices whose filters are looked at, by number, where the kernel has no links for them.
const DEVICES: &str = "/proc/self/net/dev";

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Programs detached.
    pub programs: usize,
    /// Maps removed.
    pub maps: usize,
}

/// Not everything could be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// A program.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A pin.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The list of devices.
    #[error("could not read {DEVICES}")]
    Devices(#[source] io::Error),
}

/// Detaches all programs, then removes all maps, of every version under the folder, and the folder.
pub fn all(pins: &PinFolder) -> Result<Removed, RemoveError> {
    let mut removed = Removed::default();
    for version in pin::names(pins.base())? {
        let version = pins.base().join(version);
        let links = version.join("links");
        for name in pin::names(&links)? {
            removed.programs += usize::from(attach::detach_pinned(&links.join(name))?);
        }
    }
    removed.programs += filters()?;
    for version in pin::names(pins.base())? {
        removed.maps += version_folder(&pins.base().join(version))?;
    }
    pin::remove_folder(pins.base())?;
    Ok(removed)
}

/// Removes the pins and folders of one version; returns the number of maps.
fn version_folder(version: &Path) -> Result<usize, PinError> {
    let maps = version.join("maps");
    let mut removed = 0;
    for name in pin::names(&maps)? {
        removed += usize::from(pin::unpin(&maps.join(name))?);
    }
    for folder in [maps, version.join("links"), version.to_path_buf()] {
        pin::remove_folder(&folder)?;
    }
    Ok(removed)
}

/// Removes the filters that a kernel without tcx keeps on devices.
fn filters() -> Result<usize, RemoveError> {
    let devices = fs::read_to_string(DEVICES)
        .map_err(RemoveError::Devices)?
        .lines()
        .count();
    let mut removed = 0;
    let (mut ifindex, mut found) = (0, 0);
    // Numbers are given out upwards and rarely far beyond the number of devices.
    while found + 2 < devices && ifindex < 1 << 20 {
        ifindex += 1;
        if device_name(ifindex).is_some() {
            found += 1;
            removed += attach::detach_filters(ifindex)?;
        }
    }
    Ok(removed)
}
