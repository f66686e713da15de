//! The three flow tables, and how a flow's two halves find each other in them.

use std::io;

use proxy_common::{
    abi::{
        Pinned,
        flow::{FlowKey, FlowValue, Half, flow_flags},
        protocol,
        target::{Backend, BackendState},
    },
    flow_timeout::FlowHalves,
    tables::{FlowState, FlowTable},
};

use crate::dataplane::{
    maps::array::MappedArray,
    open::{MapError, open},
    pin::PinFolder,
    sys::map::Map,
};

/// `FLOWS`, `NEW_FLOWS`, `SNAT_CLAIMS`, and `BACKENDS`.
#[derive(Debug)]
pub struct FlowTables {
    confirmed: Map<FlowKey, FlowValue>,
    new: Map<FlowKey, FlowValue>,
    claims: Map<FlowKey, FlowValue>,
    backends: MappedArray<Backend>,
}

/// A flow table could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} the map {}", name(*.table))]
pub struct TableError {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub table: FlowTable,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// One half where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// In which table.
    pub table: FlowTable,
    /// Under which key.
    pub key: FlowKey,
    /// What is there.
    pub value: FlowValue,
}

/// Name of a flow table's map.
pub const fn name(table: FlowTable) -> &'static str {
    match table {
        FlowTable::Confirmed => "FLOWS",
        FlowTable::New => "NEW_FLOWS",
        FlowTable::Claims => "SNAT_CLAIMS",
    }
}

impl FlowTables {
    /// Opens the maps pinned in `pins`.
    pub fn open(pins: &PinFolder) -> Result<Self, MapError> {
        Ok(Self {
            confirmed: open(pins, Pinned::FLOWS)?,
            new: open(pins, Pinned::NEW_FLOWS)?,
            claims: open(pins, Pinned::SNAT_CLAIMS)?,
            backends: MappedArray::open(pins, Pinned::BACKENDS)?,
        })
    }

    /// A table's map.
    pub const fn map(&self, table: FlowTable) -> &Map<FlowKey, FlowValue> {
        match table {
            FlowTable::Confirmed => &self.confirmed,
            FlowTable::New => &self.new,
            FlowTable::Claims => &self.claims,
        }
    }

    /// What a table has under a key.
    pub fn lookup(&self, table: FlowTable, key: &FlowKey) -> Result<Option<Found>, TableError> {
        let value = self.map(table).lookup(key).map_err(|source| TableError {
            action: "read",
            table,
            source,
        })?;
        Ok(value.map(|value| Found {
            table,
            key: *key,
            value,
        }))
    }

    /// The other half of a flow; none where it is gone, or its place was taken by another flow's.
    pub fn other(&self, half: &Found) -> Result<Option<Found>, TableError> {
        let key = half.value.out.inverted();
        for table in places(half).iter().copied() {
            if let Some(other) = self.lookup(table, &key)?
                && other.value.out == half.key.inverted()
                && other.value.half != half.value.half
            {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// Whether the backend of a half still serves, as packets see it (`balance::serving`). Of a connection it is not asked,
    /// since that may outlive its backend.
    pub fn is_served(&self, half: &Found) -> bool {
        let value = &half.value;
        protocol::has_connections(half.key.protocol)
            || self.backends.get(value.backend).is_ok_and(|backend| {
                backend.word.generation() == value.generation
                    && backend.word.state() == BackendState::Serving
            })
    }

    /// The backend of that id, if it still is of that generation.
    pub fn backend(&self, id: u32, generation: u32) -> Option<Backend> {
        let backend = self.backends.get(id).ok()?;
        (backend.word.generation() == generation && !backend.addr.is_unspecified())
            .then_some(backend)
    }

    /// What is known of the flow of two halves.
    pub fn halves(&self, half: &Found, other: Option<&Found>) -> FlowHalves {
        FlowHalves {
            protocol: half.key.protocol,
            one: FlowState::from(&half.value),
            other: other.map(|other| FlowState::from(&other.value)),
            serving: self.is_served(half),
        }
    }
}

/// Where the other half may be. A flow that is being confirmed is written into `FLOWS` before it leaves `NEW_FLOWS`, so
/// it is looked for in the other order.
fn places(half: &Found) -> &'static [FlowTable] {
    let (forward, flags) = (half.value.half == Half::Forward as u8, half.value.flags);
    if forward && flags & flow_flags::SNAT != 0 {
        return &[FlowTable::Claims];
    }
    match half.table {
        FlowTable::Confirmed => &[FlowTable::Confirmed],
        FlowTable::Claims if flags & flow_flags::CONFIRMED != 0 => &[FlowTable::Confirmed],
        FlowTable::Claims | FlowTable::New => &[FlowTable::New, FlowTable::Confirmed],
    }
}
