//! What is out of use, on its way to be free.

use super::resources::Retired;
use crate::maps::Op;

/// Operations that clear what is out of use, after a grace period.
#[derive(Debug, Default)]
pub struct Reclaim {
    /// The operations; those that are applied may be taken out.
    pub ops: Vec<Op>,
    pub(super) retired: Retired,
}

impl Reclaim {
    pub(super) fn new(retired: Retired) -> Self {
        let mut ops = Vec::with_capacity(1 + retired.len());
        if retired.len() > 0 {
            ops.push(Op::AwaitReaders);
        }
        ops.extend(retired.targets.iter().map(|&id| Op::ClearTarget { id }));
        let backends = retired.backends.iter();
        ops.extend(backends.map(|&(id, generation)| Op::ClearBackend { id, generation }));
        ops.extend(retired.ranges.iter().map(|&key| Op::DeleteRange { key }));
        ops.extend(retired.buried.iter().map(|&id| Op::DeleteName { id }));
        Self { ops, retired }
    }
}
