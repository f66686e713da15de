//! Operations that belong together.

use std::collections::{BTreeSet, HashMap};

use proxy_common::abi::{frontend::FrontendKey, target::BackendState};

use super::{draft::Gone, resources::Retired};
use crate::{maps::Op, plan::ServiceName};

/// What has to be written for one Service, or for several among which a frontend changes hands. Groups are independent
/// of each other: one may wait for a retry while others are applied.
#[derive(Debug, Default)]
pub struct Group {
    /// The Services.
    pub services: BTreeSet<ServiceName>,
    /// Operations, in a safe order.
    pub ops: Vec<Op>,
    /// Backends that are gone when they are applied.
    pub gone: Vec<Gone>,
    /// What is out of use when they are applied.
    pub(super) retired: Retired,
}

impl Group {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.retired.len() == 0
    }

    /// The same with its operations in order.
    pub(super) fn ordered(mut self) -> Self {
        self.ops.sort_by_key(step);
        self
    }

    /// Keys of `FRONTENDS` that the operations write or delete.
    pub fn frontends(&self) -> impl Iterator<Item = &FrontendKey> {
        self.ops.iter().filter_map(|op| match op {
            Op::PutFrontend { key, .. } | Op::DeleteFrontend { key } => Some(key),
            _ => None,
        })
    }
}

/// The step of an update that an operation belongs to. Operations of one step may be applied in any order.
///
/// Frontends that go are deleted before targets change, so that none shows a list that was never meant for it.
fn step(op: &Op) -> u8 {
    match op {
        Op::PutName { .. } => 0,
        Op::PutBackend { .. }
        | Op::SetBackendMeta { .. }
        | Op::SetWeight { .. }
        | Op::SetSince { .. } => 1,
        // One that serves again does so before any list names it.
        Op::FlipBackend { word, .. } if word.state() == BackendState::Serving => 1,
        Op::PutRange { .. } => 2,
        Op::WriteSlots { .. } => 3,
        Op::PutTarget { .. } => 4,
        Op::DeleteFrontend { .. } => 5,
        Op::FlipTarget { .. }
        | Op::SetLists { .. }
        | Op::SetAffinity { .. }
        | Op::SetSlowStart { .. }
        | Op::SetTargetFlags { .. }
        | Op::SetRanges { .. } => 6,
        Op::PutFrontend { .. } => 7,
        Op::FlipBackend { .. } => 8,
        Op::AwaitReaders => 9,
        Op::ClearTarget { .. }
        | Op::ClearBackend { .. }
        | Op::DeleteRange { .. }
        | Op::DeleteName { .. } => 10,
        Op::PutNodeAddr { .. } | Op::PutDevice { .. } => 11,
        Op::DeleteNodeAddr { .. } | Op::DeleteDevice { .. } => 12,
    }
}

/// Takes the operations of several groups as one sequence, step by step, so that each kind is written in one batch; and
/// for each operation, the index of its group. [`put_back`] returns what was not applied.
pub fn merge(groups: &mut [Group]) -> (Vec<Op>, Vec<usize>) {
    let mut tagged: Vec<(u8, usize, Op)> = groups
        .iter_mut()
        .enumerate()
        .flat_map(|(index, group)| {
            let ops = std::mem::take(&mut group.ops);
            ops.into_iter().map(move |op| (step(&op), index, op))
        })
        .collect();
    tagged.sort_by_key(|(step, ..)| *step);
    tagged.into_iter().map(|(_, index, op)| (op, index)).unzip()
}

/// Returns the operations of a merged sequence, from the first that was not applied on, to their groups.
pub fn put_back(groups: &mut [Group], ops: Vec<Op>, owners: &[usize], applied: usize) {
    for (op, &owner) in ops.into_iter().zip(owners).skip(applied) {
        groups[owner].ops.push(op);
    }
}

/// For each of several drafts, the number of its group: drafts that touch the same frontend are in one.
pub(super) fn linked(
    touches: impl Iterator<Item = impl Iterator<Item = FrontendKey>>,
) -> Vec<usize> {
    let mut parents: Vec<usize> = Vec::new();
    let mut first: HashMap<FrontendKey, usize> = HashMap::new();
    for (index, keys) in touches.enumerate() {
        parents.push(index);
        for key in keys {
            let other = *first.entry(key).or_insert(index);
            let (a, b) = (root(&parents, other), root(&parents, index));
            parents[a.max(b)] = a.min(b);
        }
    }
    (0..parents.len())
        .map(|index| root(&parents, index))
        .collect()
}

fn root(parents: &[usize], mut index: usize) -> usize {
    while parents[index] != index {
        index = parents[index];
    }
    index
}
