//! Removing everything that any version has attached and pinned.

use std::path::Path;

use super::{
    attach::{self, AttachError},
    pin::{self, PinError, PinFolder},
};

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
    removed.programs += attach::detach_filters()?;
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
