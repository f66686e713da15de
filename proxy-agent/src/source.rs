//! Where objects come from.
//!
//! A source hands out [`Update`]s: events of one moment, to be applied together, and what it found wrong within
//! objects. It names an object again only when it changed.

pub mod file;
pub mod kube;
#[cfg(test)]
mod malformed;
mod object;
pub mod pulse;
mod schema;

use std::{path::PathBuf, str::FromStr, sync::Arc};

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;

use self::{
    kube::{Cluster, Reporter},
    pulse::Pulse,
};
use crate::model::{Event, Problem};

/// What a source has to say at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Changes of objects.
    pub events: Vec<Event>,
    /// What was left out of the objects that changed.
    pub problems: Vec<Problem>,
}

impl Update {
    /// Whether there is nothing to say.
    pub const fn is_empty(&self) -> bool {
        self.events.is_empty() && self.problems.is_empty()
    }
}

/// Names a source: the value of `--source`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    /// `file:DIR`: the YAML and JSON files of a folder.
    File(PathBuf),
    /// `kube`: the API server.
    Kube,
}

/// A value of `--source` that names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a source is file:DIR or kube")]
pub struct UnknownSource;

impl FromStr for SourceSpec {
    type Err = UnknownSource;

    fn from_str(text: &str) -> Result<Self, UnknownSource> {
        match text.split_once(':') {
            Some(("file", dir)) if !dir.is_empty() => Ok(Self::File(dir.into())),
            None if text == "kube" => Ok(Self::Kube),
            _ => Err(UnknownSource),
        }
    }
}

/// A source that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of manifests.
    File(PathBuf),
    /// The API server.
    Kube(Box<Cluster>),
}

/// A source that is followed.
#[derive(Debug)]
pub struct Feed {
    /// What it says; dropping this ends it.
    pub updates: mpsc::Receiver<Update>,
    /// Tells the owners of objects what is wrong with them, where the source has a way to.
    pub reporter: Option<Reporter>,
    /// When it was last heard.
    pub pulse: Arc<Pulse>,
}

impl Source {
    /// Follows it, on a thread of its own, until the feed is dropped.
    pub fn follow(self) -> anyhow::Result<Feed> {
        match self {
            Self::File(folder) => {
                let pulse = Arc::new(Pulse::new(&[file::KIND]));
                Ok(Feed {
                    updates: file::follow(folder, Arc::clone(&pulse))
                        .context("could not follow the folder with the objects")?,
                    reporter: None,
                    pulse,
                })
            }
            Self::Kube(cluster) => cluster.follow(),
        }
    }

    /// Reads all that it says now. The events end with [`Event::Synced`].
    pub fn read(self) -> anyhow::Result<Update> {
        match self {
            Self::File(path) => {
                let mut folder = file::Folder::new(path);
                let update = folder.read(&file::Look::Everywhere);
                if let Some(failure) = folder.failure() {
                    bail!(
                        "can't read the folder {}: {failure}",
                        folder.path().display()
                    );
                }
                Ok(update)
            }
            Self::Kube(cluster) => cluster.read(),
        }
    }
}
