//! What was written, how often it failed, how long it took.

use std::{collections::BTreeMap, time::Duration};

use crate::maps::{Op, OpKind};

/// Counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Operations applied, by kind.
    pub ops: BTreeMap<OpKind, u64>,
    /// Calls of the maps.
    pub calls: u64,
    /// Calls that failed and are tried again. An entry of a table that a map has no room for is no failure.
    pub failures: u64,
    /// Time spent in all calls.
    pub time: Duration,
    /// Time spent in the last call.
    pub last: Duration,
}

impl Statistics {
    /// Operations applied, of all kinds.
    pub fn total(&self) -> u64 {
        self.ops.values().sum()
    }

    pub(super) fn note(&mut self, applied: &[Op], time: Duration) {
        for op in applied {
            *self.ops.entry(op.kind()).or_default() += 1;
        }
        self.calls += 1;
        self.time += time;
        self.last = time;
    }
}
