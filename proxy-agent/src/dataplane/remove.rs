//! Removing what was attached and pinned: everything, or what is of other versions.

use std::path::Path;

use super::{
    attach::{self, AttachError},
    pin::{self, PinError, PinFolder},
    sys::map,
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

/// Detaches all programs, then removes all maps, of every version under the folder, and the folder. Something that cannot be
/// removed does not keep the rest, except that maps stay while a program is attached. The first reason is returned.
pub fn all(pins: &PinFolder) -> Result<Removed, RemoveError> {
    let mut removed = Removed::default();
    let mut failures = Vec::new();
    let versions = pins.versions()?;
    for version in &versions {
        removed.programs += count(detach_links(version), &mut failures);
    }
    removed.programs += count(attach::detach_filters(), &mut failures);
    if failures.is_empty() {
        for version in &versions {
            removed.maps += count(version_folder(version), &mut failures);
        }
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

/// Whether another version that is still attached has frontends in its maps. What can't be read has none.
pub fn another_version_serves(pins: &PinFolder) -> bool {
    let serves = |version: &Path| {
        pin::names(&version.join("links")).is_ok_and(|links| !links.is_empty())
            && map::has_elements(&version.join("maps/FRONTENDS")).unwrap_or(false)
    };
    let versions = pins.versions().unwrap_or_default();
    let others = versions.iter().filter(|folder| **folder != pins.root());
    others.into_iter().any(|folder| serves(folder))
}

/// Detaches the links of one version; returns how many. One that can't be detached keeps no other from it.
fn detach_links(version: &Path) -> Result<usize, AttachError> {
    let links = version.join("links");
    let names = pin::names(&links)?.into_iter();
    let detached: Vec<_> = names
        .map(|name| attach::detach_pinned(&links.join(name)))
        .collect();
    detached
        .into_iter()
        .try_fold(0, |sum, detached| Ok(sum + usize::from(detached?)))
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
