//! Which flows of a chunk are over, and their removal.

use std::collections::HashSet;

use proxy_common::{
    abi::flow::{FlowKey, FlowValue, Half},
    flow_timeout::{Reason, is_kept},
    tables::{FlowState, FlowTable},
};

use super::{
    Collected,
    tables::{FlowTables, Found, TableError},
};

/// Flows that are deleted at once: as few as to be deleted right after they were looked at.
const BATCH: usize = 64;

/// Decides about the elements of one chunk, at one time.
pub struct Judge<'a> {
    /// Where the halves are.
    pub tables: &'a FlowTables,
    /// Jiffies.
    pub now: u32,
    /// Jiffies in a second.
    pub hz: u32,
    /// Whether the table is nearly full.
    pub crowded: bool,
}

impl Judge<'_> {
    /// Removes the flows of a chunk that are over; gives how many of its elements were of such.
    pub fn remove_what_is_over(
        &self,
        table: FlowTable,
        chunk: &[(FlowKey, FlowValue)],
        done: &mut Collected,
    ) -> Result<usize, TableError> {
        let mut over = 0;
        let mut doomed = Doomed::default();
        for &(key, value) in chunk {
            if doomed.has(table, &key) {
                over += 1;
                continue;
            }
            let half = Found { table, key, value };
            let Some((other, _)) = self.judge(&half)? else {
                continue;
            };
            // The chunk is some milliseconds old: packets may have come since, or the other half have gone with this
            // one already.
            let Some(half) = self.tables.lookup(table, &key)? else {
                over += 1;
                continue;
            };
            if half.value.out != value.out {
                continue;
            }
            let flow = self.tables.halves(&half, other.as_ref());
            if let Some(reason) = flow.expired(self.now, self.hz, self.crowded) {
                over += 1;
                *done.removed.entry(reason).or_default() += 1;
                doomed.add(half, other);
                if doomed.flows >= BATCH {
                    doomed.delete(self.tables)?;
                }
            }
        }
        doomed.delete(self.tables)?;
        Ok(over)
    }

    /// The other half and the reason, if the flow is over.
    fn judge(&self, half: &Found) -> Result<Option<(Option<Found>, Reason)>, TableError> {
        let kept = is_kept(
            &FlowState::from(&half.value),
            half.key.protocol,
            self.tables.is_served(half),
            self.now,
            self.hz,
            self.crowded,
        );
        if kept {
            return Ok(None);
        }
        let other = self.tables.other(half)?;
        let flow = self.tables.halves(half, other.as_ref());
        let reason = flow.expired(self.now, self.hz, self.crowded);
        Ok(reason.map(|reason| (other, reason)))
    }
}

/// Halves that are about to be deleted, in the order in which they are.
#[derive(Default)]
struct Doomed {
    flows: usize,
    known: HashSet<(FlowTable, FlowKey)>,
    forward: [Vec<FlowKey>; 2],
    reverse: [Vec<FlowKey>; 2],
}

/// Tables that the halves of each way can be in.
const FORWARD: [FlowTable; 2] = [FlowTable::New, FlowTable::Confirmed];
const REVERSE: [FlowTable; 2] = [FlowTable::Confirmed, FlowTable::Claims];

impl Doomed {
    fn has(&self, table: FlowTable, key: &FlowKey) -> bool {
        self.known.contains(&(table, *key))
    }

    fn add(&mut self, half: Found, other: Option<Found>) {
        self.flows += 1;
        for Found { table, key, value } in [Some(half), other].into_iter().flatten() {
            self.known.insert((table, key));
            let forward = value.half == Half::Forward as u8;
            let (tables, keys) = if forward {
                (FORWARD, &mut self.forward)
            } else {
                (REVERSE, &mut self.reverse)
            };
            if let Some(place) = tables.iter().position(|known| *known == table) {
                keys[place].push(key);
            }
        }
    }

    fn delete(&mut self, tables: &FlowTables) -> Result<(), TableError> {
        let forward = FORWARD.into_iter().zip(&self.forward);
        let reverse = REVERSE.into_iter().zip(&self.reverse);
        for (table, keys) in forward.chain(reverse) {
            tables
                .map(table)
                .delete_batch(keys)
                .map_err(|error| TableError {
                    action: "delete from",
                    table,
                    source: error.source,
                })?;
        }
        *self = Self::default();
        Ok(())
    }
}
