//! All that is not a Service's own: names, addresses, devices, and the reclaiming of what is out of use.

use std::time::Instant;

use super::{Outcome, Programmer, RECLAIM_COUNT, Unplaced, write_each};
use crate::{
    delta::refusal::Reason,
    maps::{Maps, Op},
};

impl<M: Maps> Programmer<M> {
    /// Writes names that are not written; says whether that worked.
    pub(super) fn names(&mut self, outcome: &mut Outcome) -> bool {
        let names = self.delta.name_writes();
        let errors = write_each(&mut self.maps, &mut self.statistics, &names, outcome);
        let failed = |index| errors.iter().any(|error| error.index == index);
        let written = names.into_iter().enumerate();
        let written: Vec<_> = written
            .filter_map(|(index, op)| (!failed(index)).then_some(op))
            .collect();
        self.delta.names_written(&written);
        let worked = errors.is_empty();
        self.statistics.failures += errors.len() as u64;
        outcome.failed.extend(errors);
        worked
    }

    /// Writes node addresses, devices and names that are not as they should be; says whether that worked. What a map has no
    /// room for does not count as a failure: another try would end alike.
    pub(super) fn tables(&mut self, outcome: &mut Outcome) -> bool {
        let named = self.names(outcome);
        let (maps, statistics) = (&mut self.maps, &mut self.statistics);
        let mut write = |ops: &[Op]| write_each(maps, statistics, ops, outcome);
        let name = self.node_name.flush(
            |id, name| {
                name.map_or(Op::DeleteName { id }, |name| Op::PutName {
                    id,
                    name: Box::new(name),
                })
            },
            &mut write,
        );
        let addrs = self.node_addrs.flush(
            |addr, flags| {
                flags.map_or(Op::DeleteNodeAddr { addr }, |flags| Op::PutNodeAddr {
                    addr,
                    flags,
                })
            },
            &mut write,
        );
        let devices = self.devices.flush(
            |ifindex, device| {
                device.map_or(Op::DeleteDevice { ifindex }, |device| Op::PutDevice {
                    ifindex,
                    device,
                })
            },
            &mut write,
        );
        let unplaced = [
            Unplaced::of("META_NAMES", name.unplaced, |id| format!("name {id}")),
            Unplaced::of("NODE_ADDRS", addrs.unplaced, |addr| {
                addr.to_ip().to_string()
            }),
            Unplaced::of("DEVICES", devices.unplaced, |ifindex| {
                format!("device {ifindex}")
            }),
        ];
        outcome.unplaced.extend(unplaced.into_iter().flatten());
        let failed = [name.failed, addrs.failed, devices.failed];
        let failed: Vec<_> = failed.into_iter().flatten().collect();
        let worked = named && failed.is_empty();
        self.statistics.failures += failed.len() as u64;
        outcome.failed.extend(failed);
        worked
    }

    /// Entries that maps have no room for, by map. (Services that were refused are not among them.)
    pub fn unplaced(&self) -> [(&'static str, usize); 3] {
        [
            ("META_NAMES", self.node_name.unplaced()),
            ("NODE_ADDRS", self.node_addrs.unplaced()),
            ("DEVICES", self.devices.unplaced()),
        ]
    }

    pub(super) fn is_reclaimable(&self) -> bool {
        self.reclaiming.is_some() || self.delta.reclaimable() > 0
    }

    pub(super) fn reclaim_is_due(&self, now: Instant) -> bool {
        self.reclaim_at.is_some_and(|at| at <= now) || self.delta.reclaimable() >= RECLAIM_COUNT
    }

    /// Reclaims what is out of use; says whether that worked.
    pub(super) fn reclaim(&mut self, outcome: &mut Outcome) -> bool {
        let mut reclaim = self
            .reclaiming
            .take()
            .unwrap_or_else(|| self.delta.reclaim());
        if let Err(applied) = self.write(&reclaim.ops, outcome) {
            reclaim.ops.drain(..applied);
            self.reclaiming = Some(reclaim);
            return false;
        }
        self.delta.reclaimed(reclaim);
        if self.delta.reclaimable() == 0 {
            self.reclaim_at = None;
        }
        true
    }

    /// Whether Services were refused for want of room, and something was freed since.
    pub(super) fn has_room(&self) -> bool {
        let crowded = self
            .refused
            .values()
            .any(|reason| matches!(reason, Reason::Full(_)));
        crowded && self.delta.usage().is_less_in_part(&self.tried_at)
    }
}
