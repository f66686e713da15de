//! Comparison of attachments and pins with the kernel (docs/adr/0035): the differences, and the results of repairs.
//!
//! Each part of the comparison returns [`Findings`]. [`Teller`] logs them, and the metrics count them.

mod pins;
mod teller;

use std::error::Error;

pub use self::{pins::PinAudit, teller::Teller};
use super::pin::Held;

/// Kind of an attachment or pin.
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

/// A repair: an attachment or pin had been in place, was found changed, and is in place again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repair {
    /// Kind.
    pub kind: Kind,
    /// Which one.
    pub what: String,
    /// The difference that was found.
    pub found: &'static str,
}

/// An attachment or pin that should be in place, and is not.
#[derive(Debug)]
pub struct Failure {
    /// Kind.
    pub kind: Kind,
    /// Which one.
    pub what: String,
    /// Why not.
    pub error: Box<dyn Error + Send + Sync>,
}

/// The result of a comparison. Empty if nothing differs.
#[derive(Debug, Default)]
pub struct Findings {
    /// Repairs.
    pub repairs: Vec<Repair>,
    /// What could not be attached, pinned or removed.
    pub failures: Vec<Failure>,
    /// Devices and sides on which another component's program runs before ours at ingress or after ours at egress.
    pub displaced: Vec<String>,
}

impl Findings {
    /// Adds other findings.
    pub fn extend(&mut self, other: Self) {
        self.repairs.extend(other.repairs);
        self.failures.extend(other.failures);
        self.displaced.extend(other.displaced);
    }

    /// Adds a repair.
    pub fn repaired(&mut self, kind: Kind, what: impl Into<String>, found: &'static str) {
        self.repairs.push(Repair {
            kind,
            what: what.into(),
            found,
        });
    }

    /// Adds a failure.
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

    /// Pins objects again ([`Held::repin`]), and adds the results.
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
