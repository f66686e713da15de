//! Maps that fail now and then, as chance has it, for tests of what comes after a failure.

use std::io;

use super::{ApplyError, Maps, Op, Snapshot, SnapshotError};

/// Maps around others: each operation fails with a probability, before or after it took effect.
#[derive(Clone, Debug)]
pub struct FaultyMaps<M> {
    inner: M,
    probability: f64,
    state: u64,
}

impl<M> FaultyMaps<M> {
    /// Around `inner`; each operation fails with `probability` (0 to 1), as a generator with this seed decides.
    pub fn new(inner: M, probability: f64, seed: u64) -> Self {
        Self {
            inner,
            probability,
            state: seed,
        }
    }

    /// From here on, another probability.
    pub fn set_probability(&mut self, probability: f64) {
        self.probability = probability;
    }

    /// The maps inside.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// The maps inside.
    pub fn inner_mut(&mut self) -> &mut M {
        &mut self.inner
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014), as a number from 0 to 1.
    fn chance(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f64::from((z ^ (z >> 31)) as u32) / f64::from(u32::MAX)
    }
}

impl<M: Maps> FaultyMaps<M> {
    fn apply_one(&mut self, index: usize, op: &Op) -> Result<(), ApplyError> {
        self.inner
            .apply(std::slice::from_ref(op))
            .map_err(|error| ApplyError { index, ..error })
    }
}

impl<M: Maps> Maps for FaultyMaps<M> {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        for (index, op) in ops.iter().enumerate() {
            if self.chance() < self.probability {
                if self.chance() < 0.5 {
                    self.apply_one(index, op)?;
                }
                return Err(ApplyError {
                    index,
                    kind: op.kind(),
                    source: io::Error::from(io::ErrorKind::OutOfMemory),
                });
            }
            self.apply_one(index, op)?;
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, SnapshotError> {
        self.inner.snapshot()
    }

    fn now(&self) -> u64 {
        self.inner.now()
    }
}
