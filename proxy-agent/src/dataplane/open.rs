//! Opening pinned maps, each as what it is.

use std::{collections::BTreeMap, io};

use proxy_common::abi::{MAPS, MapSpec, Pinned, TypedSpec, kind::OneValue};

use super::{
    pin::PinFolder,
    sys::map::{self, CounterMap, Map, OpenError},
};

/// Why a pinned map can't be used.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// It is not what this version makes.
    #[error(
        "the pinned map {name} has another shape ({found}) than this version's ({expected}): \
         run `proxy-agent cleanup` with the same --bpffs first"
    )]
    OtherShape {
        /// Map.
        name: &'static str,
        /// What is pinned.
        found: String,
        /// What this version makes.
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
    /// What became of opening a map.
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

/// How many elements each pinned map has room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapCapacities(BTreeMap<&'static str, u32>);

impl MapCapacities {
    /// Reads them. A pinned map keeps the capacity that it was made with, which may be another version's.
    pub fn read(pins: &PinFolder) -> Result<Self, MapError> {
        let read = |spec: &'static MapSpec| {
            let entries =
                map::capacity(&pins.map(spec.name), spec).map_err(MapError::of(spec.name))?;
            Ok((spec.name, entries))
        };
        MAPS.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// That of a map.
    pub fn of(&self, name: &str) -> u32 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.0.iter().map(|(name, entries)| (*name, *entries))
    }
}

/// Fails where a map is pinned that has another shape than this version's. What is not pinned yet is fine.
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
