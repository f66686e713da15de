//! What is attached and pinned, compared with what should be (docs/adr/0035): what differed, and what came of it.
//!
//! Whoever looks returns [`Findings`]; [`Teller`] logs them, and the metrics count them.

mod pins;
mod teller;

use std::error::Error;

pub use self::{pins::PinAudit, teller::Teller};
use super::pin::Held;

/// What kind of thing was not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A socket hook on the cgroup.
    Cgroup,
    /// A program in a tcx chain.
    Tcx,
    /// A filter of a clsact qdisc.
    Clsact,
    /// An XDP program.
    Xdp,
    /// A pin of a link.
    LinkPin,
    /// A pin of a map.
    MapPin,
    /// The folder of the pins, or the lock on it.
    PinFolder,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Cgroup,
        Self::Tcx,
        Self::Clsact,
        Self::Xdp,
        Self::LinkPin,
        Self::MapPin,
        Self::PinFolder,
    ];

    /// Its name in metrics and in the log.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Xdp => "xdp",
            Self::LinkPin => "link_pin",
            Self::MapPin => "map_pin",
            Self::PinFolder => "pin_folder",
        }
    }
}

/// Something that had been in place, was found changed, and is in place again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repair {
    /// Kind.
    pub kind: Kind,
    /// Which one.
    pub what: String,
    /// How it was found.
    pub found: &'static str,
}

/// Something that should be in place, and is not.
#[derive(Debug)]
pub struct Failure {
    /// Kind.
    pub kind: Kind,
    /// Which one.
    pub what: String,
    /// Why not.
    pub error: Box<dyn Error + Send + Sync>,
}

/// What a comparison found. Empty, if all is as it should be.
#[derive(Debug, Default)]
pub struct Findings {
    /// What was mended.
    pub repairs: Vec<Repair>,
    /// What could not be attached, pinned or removed.
    pub failures: Vec<Failure>,
    /// Places where another component's program comes before ours at ingress, or after it at egress.
    pub displaced: Vec<String>,
}

impl Findings {
    /// Adds what somebody else found.
    pub fn extend(&mut self, other: Self) {
        self.repairs.extend(other.repairs);
        self.failures.extend(other.failures);
        self.displaced.extend(other.displaced);
    }

    /// Something is in place again.
    pub fn repaired(&mut self, kind: Kind, what: impl Into<String>, found: &'static str) {
        self.repairs.push(Repair {
            kind,
            what: what.into(),
            found,
        });
    }

    /// Something is not in place.
    pub fn failed(
        &mut self,
        kind: Kind,
        what: impl Into<String>,
        error: impl Into<Box<dyn Error + Send + Sync>>,
    ) {
        self.failures.push(Failure {
            kind,
            what: what.into(),
            error: error.into(),
        });
    }

    /// Takes over what [`Held::repin`] did.
    pub(super) fn repinned(&mut self, kind: Kind, held: &mut Held) {
        for (name, result) in held.repin() {
            match result {
                Ok(true) => self.repaired(kind, name, "its pin was removed or replaced"),
                Ok(false) => {}
                Err(error) => self.failed(kind, name, error),
            }
        }
    }
}
