//! All that is not a Service's own: names, addresses, devices, and the reclaiming of what is out of use.

use std::time::Instant;

use super::{Outcome, Programmer, RECLAIM_COUNT, write};
use crate::{
    delta::refusal::Reason,
    maps::{Maps, Op},
};

impl<M: Maps> Programmer<M> {
    /// Writes names that are not written; says whether that worked.
    pub(super) fn names(&mut self, outcome: &mut Outcome) -> bool {
        let names = self.delta.name_writes();
        let result = self.write(&names, outcome);
        let applied = result.err().unwrap_or(names.len());
        self.delta.names_written(&names[..applied]);
        result.is_ok()
    }

    /// Writes node addresses, devices and names that are not as they should be; says whether that worked.
    pub(super) fn tables(&mut self, outcome: &mut Outcome) -> bool {
        let named = self.names(outcome);
        let (maps, statistics) = (&mut self.maps, &mut self.statistics);
        let name = self.node_name.flush(
            |id, name| {
                name.map_or(Op::DeleteName { id }, |name| Op::PutName {
                    id,
                    name: Box::new(name),
                })
            },
            |ops| write(maps, statistics, ops, outcome),
        );
        let addrs = self.node_addrs.flush(
            |addr, flags| {
                flags.map_or(Op::DeleteNodeAddr { addr }, |flags| Op::PutNodeAddr {
                    addr,
                    flags,
                })
            },
            |ops| write(maps, statistics, ops, outcome),
        );
        let devices = self.devices.flush(
            |ifindex, device| {
                device.map_or(Op::DeleteDevice { ifindex }, |device| Op::PutDevice {
                    ifindex,
                    device,
                })
            },
            |ops| write(maps, statistics, ops, outcome),
        );
        let worked = named && name.is_ok() && addrs.is_ok() && devices.is_ok();
        outcome
            .failed
            .extend([name, addrs, devices].into_iter().filter_map(Result::err));
        worked
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
