//! Opening pinned maps, each with its own types.

use std::{collections::BTreeMap, io};

use proxy_common::abi::{MAPS, MapSpec, Pinned, TypedSpec, kind::OneValue};

use super::{
    pin::PinFolder,
    sys::map::{self, CounterMap, Map, OpenError},
};

/// Why a pinned map can't be used.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Its shape differs from that of this version's map.
    #[error(
        "the pinned map {name} has another shape ({found}) than this version's ({expected}): \
         run `proxy-agent cleanup` with the same --bpffs first"
    )]
    OtherShape {
        /// Map.
        name: &'static str,
        /// Shape of the pinned map.
        found: String,
        /// Shape of this version's map.
        expected: String,
    },
    /// It could not be opened.
    #[error("could not open the pinned map {name}")]
    Open {
        /// Map.
        name: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl MapError {
    /// The error of opening the map `name`.
    pub fn of(name: &'static str) -> impl FnOnce(OpenError) -> Self {
        move |error| match error {
            OpenError::Io(source) => Self::Open { name, source },
            OpenError::OtherShape { found, expected } => Self::OtherShape {
                name,
                found,
                expected,
            },
        }
    }
}

/// Opens a pinned map.
pub fn open<S: OneValue, K: map::Plain, V: map::Plain>(
    pins: &PinFolder,
    expected: TypedSpec<S, K, V>,
) -> Result<Map<K, V>, MapError> {
    let name = expected.spec.name;
    Map::open(&pins.map(name), expected).map_err(MapError::of(name))
}

/// Opens the counters of the datapath.
pub fn counters(pins: &PinFolder) -> Result<CounterMap, MapError> {
    let counters = Pinned::COUNTERS;
    let name = counters.spec.name;
    CounterMap::open(&pins.map(name), counters).map_err(MapError::of(name))
}

/// Capacities of the pinned maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapCapacities(BTreeMap<&'static str, u32>);

impl MapCapacities {
    /// Reads them. A pinned map keeps the capacity with which it was created, perhaps by another version.
    pub fn read(pins: &PinFolder) -> Result<Self, MapError> {
        let read = |spec: &'static MapSpec| {
            let entries =
                map::capacity(&pins.map(spec.name), spec).map_err(MapError::of(spec.name))?;
            Ok((spec.name, entries))
        };
        MAPS.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The capacity of a map.
    pub fn of(&self, name: &str) -> u32 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.0.iter().map(|(name, entries)| (*name, *entries))
    }
}

/// Fails if the shape of a pinned map differs from that of this version's map. Maps that are not pinned yet are accepted.
pub fn check_pinned(pins: &PinFolder) -> Result<(), MapError> {
    for spec in MAPS {
        match map::capacity(&pins.map(spec.name), spec) {
            Ok(_) => {}
            Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(MapError::of(spec.name)(error)),
        }
    }
    Ok(())
}
