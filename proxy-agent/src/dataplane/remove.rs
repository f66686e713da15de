//! Removing what was attached and pinned: everything, or what is of other versions.

use std::path::Path;

use super::{
    attach::{self, AttachError},
    pin::{self, PinError, PinFolder},
};
use crate::telemetry::chain;

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

/// Detaches all programs, then removes all maps, of every version under the folder, and the folder. What can't be removed
/// does not keep the rest; the first reason is returned.
pub fn all(pins: &PinFolder) -> Result<Removed, RemoveError> {
    let mut removed = Removed::default();
    let mut failures = Vec::new();
    let versions = pins.versions()?;
    for version in &versions {
        removed.programs += count(detach_links(version), &mut failures);
    }
    removed.programs += count(attach::detach_filters(), &mut failures);
    for version in &versions {
        removed.maps += count(version_folder(version), &mut failures);
    }
    if failures.is_empty() {
        pin::remove_folder(pins.base())?;
        return Ok(removed);
    }
    Err(failures.swap_remove(0))
}

fn count<E: Into<RemoveError>>(
    removed: Result<usize, E>,
    failures: &mut Vec<RemoveError>,
) -> usize {
    removed.unwrap_or_else(|error| {
        let error = error.into();
        tracing::debug!(error = chain(&error), "something could not be removed");
        failures.push(error);
        0
    })
}

/// Detaches the links and removes the maps of every version but this one, which serves by now. Filters need nothing:
/// those of another version have been replaced. Flows that only the other version knew end with its maps.
pub fn other_versions(pins: &PinFolder) -> Result<Removed, RemoveError> {
    let mut removed = Removed::default();
    for version in pins.versions()? {
        if version != pins.root() {
            removed.programs += detach_links(&version)?;
            removed.maps += version_folder(&version)?;
        }
    }
    Ok(removed)
}

/// Detaches the links of one version; returns how many.
fn detach_links(version: &Path) -> Result<usize, AttachError> {
    let links = version.join("links");
    let mut detached = 0;
    let mut failure = Ok(());
    for name in pin::names(&links)? {
        match attach::detach_pinned(&links.join(name)) {
            Ok(was_there) => detached += usize::from(was_there),
            Err(error) => failure = Err(error),
        }
    }
    failure.map(|()| detached)
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
