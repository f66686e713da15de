//! Contents of maps, typed. A map is opened by its [`TypedSpec`], and checked against it ([`Checked`]).
//!
//! Hash maps and arrays have batches since Linux 5.6, longest-prefix tries since 5.15. Maps without batches are written one
//! element at a time.
//!
//! A batch that fails may not say how far it came: the kernel leaves `count` as it was where it fails early (`EPERM` of a frozen
//! map, `ENOMEM`, `ENOTSUPP`), and `count` was the number of all elements. So an error says nothing about any element of the
//! batch. They are all written again, one at a time, each with a result of its own.

mod batch;
mod checked;
mod counters;
mod walk;

pub use batch::BatchError;
pub use checked::{Checked, OpenError, capacity, has_elements};
pub use counters::CounterMap;
pub use walk::{Position, Walk};

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use proxy_common::abi::{TypedSpec, kind::OneValue};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Command, ENOTSUPP, address_of, address_of_mut, bpf};

/// What keys and values are made of: plain bytes without padding.
pub trait Plain: FromBytes + IntoBytes + Immutable + Copy {}
impl<T: FromBytes + IntoBytes + Immutable + Copy> Plain for T {}

/// A map whose keys are `K` and whose values are `V`.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: OwnedFd,
    entries: u32,
    shape: PhantomData<fn(K) -> V>,
}

/// Whether an update may create or replace an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Update {
    /// Either (`BPF_ANY`).
    Any = 0,
    /// Only create (`BPF_NOEXIST`).
    Create = 1,
    /// Only replace (`BPF_EXIST`).
    Replace = 2,
}

#[derive(Default, FromBytes, IntoBytes)]
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(Default, FromBytes, IntoBytes)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Elements asked for at once when a map is walked.
const CHUNK: usize = 4096;

impl<K: Plain, V: Plain> Map<K, V> {
    /// Takes a map.
    pub fn new<S: OneValue>(map: Checked<S, K, V>) -> Self {
        let (fd, entries) = map.into_parts();
        Self {
            fd,
            entries,
            shape: PhantomData,
        }
    }

    /// Opens a pinned map.
    pub fn open<S: OneValue>(path: &Path, expected: TypedSpec<S, K, V>) -> Result<Self, OpenError> {
        Checked::open(path, expected).map(Self::new)
    }

    /// Capacity in entries.
    pub const fn capacity(&self) -> u32 {
        self.entries
    }

    fn raw_fd(&self) -> u32 {
        self.fd.as_raw_fd().cast_unsigned()
    }

    /// The value of a key.
    pub fn lookup(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::new_zeroed();
        let mut attr = ElementAttr {
            map_fd: self.raw_fd(),
            key: address_of(key.as_bytes()),
            value: address_of_mut(value.as_mut_bytes()),
            ..ElementAttr::default()
        };
        // SAFETY: key and value have the sizes that were checked, and the map has one value for a key.
        match unsafe { bpf(Command::MapLookup, &mut attr) } {
            Ok(_) => Ok(Some(value)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one element.
    pub fn update(&self, key: &K, value: &V, mode: Update) -> io::Result<()> {
        let mut attr = ElementAttr {
            map_fd: self.raw_fd(),
            key: address_of(key.as_bytes()),
            value: address_of(value.as_bytes()),
            flags: mode as u64,
            ..ElementAttr::default()
        };
        // SAFETY: key and value have the sizes that were checked; the kernel only reads them.
        unsafe { bpf(Command::MapUpdate, &mut attr) }.map(drop)
    }

    /// Deletes one element; false if there was none.
    pub fn delete(&self, key: &K) -> io::Result<bool> {
        let mut attr = ElementAttr {
            map_fd: self.raw_fd(),
            key: address_of(key.as_bytes()),
            ..ElementAttr::default()
        };
        // SAFETY: the key has the size that was checked; the kernel only reads it.
        match unsafe { bpf(Command::MapDelete, &mut attr) } {
            Ok(_) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Begins a walk over all elements.
    pub const fn walk(&self) -> Walk<'_, K, V> {
        self.resume(Position::start(CHUNK))
    }

    /// Goes on with a walk over this map that was left.
    pub const fn resume(&self, position: Position<K>) -> Walk<'_, K, V> {
        Walk::new(self, position)
    }

    /// The key after a key, in the kernel's order; of none, or of one that is gone, the first.
    fn next_key(&self, after: Option<&K>) -> io::Result<Option<K>> {
        let mut next = K::new_zeroed();
        let mut attr = ElementAttr {
            map_fd: self.raw_fd(),
            key: after.map_or(0, |key| address_of(key.as_bytes())),
            value: address_of_mut(next.as_mut_bytes()),
            ..ElementAttr::default()
        };
        // SAFETY: both keys have the size that was checked; a key at 0 asks for the first.
        match unsafe { bpf(Command::MapGetNextKey, &mut attr) } {
            Ok(_) => Ok(Some(next)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All elements, in no order. What changes meanwhile may be missed or seen twice.
    pub fn entries(&self) -> io::Result<Vec<(K, V)>> {
        let mut all = Vec::new();
        let mut walk = self.walk();
        while let Some(chunk) = walk.next_chunk()? {
            all.extend(chunk);
        }
        Ok(all)
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

fn has_no_batch(error: &io::Error) -> bool {
    error.raw_os_error() == Some(ENOTSUPP)
}
