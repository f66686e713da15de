//! Per-CPU counters.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use proxy_common::abi::{TypedSpec, kind::PerCpuArray};
use zerocopy::IntoBytes as _;

use super::{
    super::{Command, address_of, address_of_mut, bpf},
    Checked, ElementAttr, OpenError, is_absent,
};

/// A per-CPU array of counters.
#[derive(Debug)]
pub struct CounterMap {
    fd: OwnedFd,
    cpus: usize,
}

impl CounterMap {
    /// Opens a pinned map.
    pub fn open(
        path: &Path,
        expected: TypedSpec<PerCpuArray, u32, u64>,
    ) -> Result<Self, OpenError> {
        let (fd, _) = Checked::open(path, expected)?.into_parts();
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        Ok(Self { fd, cpus })
    }

    /// The sum over all CPUs. A map of an earlier version may have no room for a counter; the sum is then 0.
    pub fn sum(&self, index: u32) -> io::Result<u64> {
        let mut values = vec![0u64; self.cpus];
        let mut attr = ElementAttr {
            map_fd: self.fd.as_raw_fd().cast_unsigned(),
            key: address_of(index.as_bytes()),
            value: address_of_mut(values.as_mut_bytes()),
            ..ElementAttr::default()
        };
        // SAFETY: the map was checked to be a per-CPU array of 8-byte values: the kernel writes 8 bytes for each possible CPU,
        // and `values` has room for these.
        match unsafe { bpf(Command::MapLookup, &mut attr) } {
            Err(error) if is_absent(&error) => return Ok(0),
            looked => looked?,
        };
        Ok(values.iter().fold(0, |sum, n| sum.wrapping_add(*n)))
    }
}
