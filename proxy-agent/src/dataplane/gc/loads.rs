//! What is left of the records of connections that count for least connections: of flows that are gone, which nobody took
//! off; and whether the counts are what the records say.
//!
//! Packets go on while records are walked over, so a count that seems wrong is put right only when it seemed so twice in a
//! row, in the same direction, and by no more than it seemed each time.

use std::{collections::BTreeMap, io};

use proxy_common::{
    abi::{Pinned, flow::FlowKey, load::Load, target::Slot},
    tables::FlowTable,
};

use super::tables::FlowTables;
use crate::dataplane::{
    maps::array::MappedArray,
    open::{MapError, open},
    pin::PinFolder,
    sys::map::Map,
};

/// `FLOW_LOADS`, `SOCKET_LOADS` and `LOADS`.
#[derive(Debug)]
pub struct LoadTables {
    pub flows: Map<FlowKey, Slot>,
    pub sockets: Map<u64, Slot>,
    loads: MappedArray<Load>,
    /// Records of this walk, by backend and generation.
    tally: BTreeMap<(u32, u32), i64>,
    /// How many connections were missing from the counts after the last walk.
    missing: BTreeMap<(u32, u32), i64>,
}

impl LoadTables {
    /// Opens the maps pinned in `pins`.
    pub fn open(pins: &PinFolder) -> Result<Self, MapError> {
        Ok(Self {
            flows: open(pins, Pinned::FLOW_LOADS)?,
            sockets: open(pins, Pinned::SOCKET_LOADS)?,
            loads: MappedArray::open(pins, Pinned::LOADS)?,
            tally: BTreeMap::new(),
            missing: BTreeMap::new(),
        })
    }

    /// A flow's record: counted, or removed where the flow is gone.
    pub fn examine(
        &mut self,
        tables: &FlowTables,
        (key, slot): &(FlowKey, Slot),
    ) -> io::Result<()> {
        if tables.map(FlowTable::Confirmed).lookup(key)?.is_some() {
            self.count(*slot);
        } else if self.flows.delete(key)? {
            self.add(*slot, -1);
        }
        Ok(())
    }

    /// A record that stands for a connection.
    pub fn count(&mut self, slot: Slot) {
        *self
            .tally
            .entry((slot.backend, slot.generation))
            .or_default() += 1;
    }

    /// All records were seen: puts right what was wrong before, too.
    pub fn settle(&mut self) {
        let tally = std::mem::take(&mut self.tally);
        let mut missing: BTreeMap<(u32, u32), i64> = (0..)
            .zip(self.loads.read_all())
            .filter(|(_, load)| load.count != 0)
            .map(|(id, load)| ((id, load.generation), -i64::from(load.count)))
            .collect();
        for (of, records) in tally {
            // Records of an earlier generation count for nothing, and neither do those of a backend that `LOADS` has no room for.
            let load = self.loads.get(of.0);
            if load.is_ok_and(|load| load.generation == of.1) {
                *missing.entry(of).or_default() += records;
            }
        }
        missing.retain(|_, n| *n != 0);
        for (&(backend, generation), now) in &mut missing {
            let before = self.missing.get(&(backend, generation));
            let before = before.copied().unwrap_or_default();
            if before.signum() == now.signum() {
                let by = before.abs().min(now.abs()) * now.signum();
                let slot = Slot {
                    backend,
                    generation,
                };
                self.add(slot, by);
                *now -= by;
            }
        }
        self.missing = missing;
    }

    /// Corrects a count. A backend that `LOADS` has no room for has none.
    fn add(&self, slot: Slot, by: i64) {
        let _ = self.loads.update(slot.backend, |load| {
            let count = u32::try_from((i64::from(load.count) + by).max(0)).ok()?;
            (load.generation == slot.generation).then_some(Load { count, ..load })
        });
    }
}
