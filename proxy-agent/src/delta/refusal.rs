//! Why a Service could not be programmed as planned.

use std::fmt;

use proxy_common::abi::{MAPS, frontend::FrontendValue};

use crate::plan::ServiceName;

/// Something of which there is a limited number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Elements of `FRONTENDS`.
    Frontends,
    /// Elements of `TARGETS`.
    Targets,
    /// Slots in a row in `SLOTS`.
    Slots,
    /// Elements of `BACKENDS`.
    Backends,
    /// Elements of `SOURCE_RANGES`.
    SourceRanges,
    /// Elements of `META_NAMES`.
    Names,
}

impl Resource {
    /// Name of the map.
    pub const fn map(self) -> &'static str {
        match self {
            Self::Frontends => "FRONTENDS",
            Self::Targets => "TARGETS",
            Self::Slots => "SLOTS",
            Self::Backends => "BACKENDS",
            Self::SourceRanges => "SOURCE_RANGES",
            Self::Names => "META_NAMES",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.map())
    }
}

/// How many of each there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Elements of `FRONTENDS`.
    pub frontends: u32,
    /// Elements of `TARGETS`; the first is not used.
    pub targets: u32,
    /// Elements of `SLOTS`.
    pub slots: u32,
    /// Elements of `BACKENDS`; the first is not used.
    pub backends: u32,
    /// Elements of `SOURCE_RANGES`.
    pub source_ranges: u32,
    /// Elements of `META_NAMES`.
    pub names: u32,
}

impl Capacities {
    /// What fits into maps of these capacities, by name. An id is an element of several maps, and must fit into each.
    pub fn new(of: impl Fn(&'static str) -> u32) -> Self {
        Self {
            frontends: of("FRONTENDS"),
            targets: of("TARGETS")
                .min(of("META_TARGETS"))
                .min(of("TURNS"))
                .min(FrontendValue::MAX_TARGETS),
            slots: of("SLOTS"),
            backends: of("BACKENDS").min(of("META_BACKENDS")).min(of("LOADS")),
            source_ranges: of("SOURCE_RANGES"),
            names: of("META_NAMES"),
        }
    }
}

impl Default for Capacities {
    fn default() -> Self {
        Self::new(|map| {
            let spec = MAPS.iter().find(|spec| spec.name == map);
            spec.map_or(0, |spec| spec.entries)
        })
    }
}

/// How many of each are in use, what waits to be reclaimed included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Services of which something is written.
    pub services: usize,
    /// Elements of `FRONTENDS`.
    pub frontends: usize,
    /// Elements of `TARGETS`.
    pub targets: usize,
    /// Slots.
    pub slots: usize,
    /// Elements of `BACKENDS`.
    pub backends: usize,
    /// Elements of `SOURCE_RANGES`.
    pub source_ranges: usize,
    /// Elements of `META_NAMES`.
    pub names: usize,
}

impl Usage {
    /// Whether of something less is in use than in `other`.
    pub const fn is_less_in_part(&self, other: &Self) -> bool {
        self.frontends < other.frontends
            || self.targets < other.targets
            || self.slots < other.slots
            || self.backends < other.backends
            || self.source_ranges < other.source_ranges
            || self.names < other.names
    }

    /// Of each, the greater number.
    #[must_use]
    pub fn max(&self, other: &Self) -> Self {
        Self {
            services: self.services.max(other.services),
            frontends: self.frontends.max(other.frontends),
            targets: self.targets.max(other.targets),
            slots: self.slots.max(other.slots),
            backends: self.backends.max(other.backends),
            source_ranges: self.source_ranges.max(other.source_ranges),
            names: self.names.max(other.names),
        }
    }
}

/// Why a Service was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No room; what is freed later makes it worth another try.
    #[error("the map {0} is full")]
    Full(Resource),
    /// More backends than a target can hold.
    #[error("port {port_name:?} has {count} endpoints, and a list holds 65535 at most")]
    ListTooLong {
        /// Name of the Service port.
        port_name: String,
        /// Endpoints.
        count: usize,
    },
    /// A name that does not fit into its map.
    #[error("the name {name:?} is too long")]
    NameTooLong {
        /// The name.
        name: String,
    },
    /// The plan contradicts itself.
    #[error(
        "the plan has a frontend on port {port} without its target: this is a bug, please report it"
    )]
    NoTarget {
        /// Port of the frontend.
        port: u16,
    },
}

impl Reason {
    /// All labels in metrics.
    pub const LABELS: [&str; 4] = ["full", "list_too_long", "name_too_long", "no_target"];

    /// Label in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Full(_) => Self::LABELS[0],
            Self::ListTooLong { .. } => Self::LABELS[1],
            Self::NameTooLong { .. } => Self::LABELS[2],
            Self::NoTarget { .. } => Self::LABELS[3],
        }
    }
}

/// A Service that could not be programmed as planned; it is left as it was before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{service} is not programmed, and stays as it was before: {reason}")]
pub struct Refused {
    /// The Service.
    pub service: ServiceName,
    /// Why.
    pub reason: Reason,
}
