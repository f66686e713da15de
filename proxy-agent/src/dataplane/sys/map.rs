//! Contents of maps, typed: the sizes of key and value are checked once, when the map is opened.
//!
//! Hash maps and arrays have batches since Linux 5.6, longest-prefix tries since 5.15: what has none is done one
//! element at a time.

mod walk;

pub use walk::{Position, Walk};

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Command, ENOTSUPP, address_of, address_of_mut, bpf, object};

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

/// Why a batch ended early.
#[derive(Debug)]
pub struct BatchError {
    /// Elements done before it.
    pub done: usize,
    /// What the kernel said of the next one.
    pub source: io::Error,
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

/// Whether a hash map of any shape has an element.
pub fn has_elements(fd: impl AsFd) -> io::Result<bool> {
    let info: object::MapInfo = object::info(&fd)?;
    let mut first = vec![0; info.key_size as usize];
    let mut attr = ElementAttr {
        map_fd: fd.as_fd().as_raw_fd().cast_unsigned(),
        value: address_of_mut(&mut first),
        ..ElementAttr::default()
    };
    // SAFETY: `first` has the size of the map's keys; a key at 0 asks for the first.
    match unsafe { bpf(Command::MapGetNextKey, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Elements asked for at once when a map is walked.
const CHUNK: usize = 4096;

impl<K: Plain, V: Plain> Map<K, V> {
    /// Takes a map; fails where its keys or values have other sizes.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let info: object::MapInfo = object::info(&fd)?;
        if info.key_size as usize != size_of::<K>() || info.value_size as usize != size_of::<V>() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "its keys have {} and its values {} bytes, expected {} and {}",
                    info.key_size,
                    info.value_size,
                    size_of::<K>(),
                    size_of::<V>()
                ),
            ));
        }
        Ok(Self {
            fd,
            entries: info.max_entries,
            shape: PhantomData,
        })
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
        // SAFETY: key and value have the sizes that `new` checked (a per-CPU map is never opened as this type).
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
        // SAFETY: key and value have the sizes that `new` checked; the kernel only reads them.
        unsafe { bpf(Command::MapUpdate, &mut attr) }.map(drop)
    }

    /// Deletes one element; false if there was none.
    pub fn delete(&self, key: &K) -> io::Result<bool> {
        let mut attr = ElementAttr {
            map_fd: self.raw_fd(),
            key: address_of(key.as_bytes()),
            ..ElementAttr::default()
        };
        // SAFETY: the key has the size that `new` checked; the kernel only reads it.
        match unsafe { bpf(Command::MapDelete, &mut attr) } {
            Ok(_) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes elements in order, creating or replacing each.
    pub fn update_batch(&self, keys: &[K], values: &[V]) -> Result<(), BatchError> {
        let len = keys.len().min(values.len());
        let (keys, values) = (&keys[..len], &values[..len]);
        let mut done = 0;
        while done < len {
            let mut attr = BatchAttr {
                keys: address_of(keys[done..].as_bytes()),
                values: address_of(values[done..].as_bytes()),
                count: u32::try_from(len - done).unwrap_or(u32::MAX),
                map_fd: self.raw_fd(),
                ..BatchAttr::default()
            };
            // SAFETY: both arrays hold `count` elements of the sizes that `new` checked; the kernel reads them.
            let result = unsafe { bpf(Command::MapUpdateBatch, &mut attr) };
            if !matches!(&result, Err(error) if has_no_batch(error)) {
                done += (attr.count as usize).min(len - done);
            }
            match result {
                Err(error) if has_no_batch(&error) => {
                    self.update(&keys[done], &values[done], Update::Any)
                        .map_err(|source| BatchError { done, source })?;
                    done += 1;
                }
                Err(source) if source.kind() != io::ErrorKind::Interrupted => {
                    return Err(BatchError { done, source });
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Deletes elements in order; what is not there is passed over. Gives how many were there.
    pub fn delete_batch(&self, keys: &[K]) -> Result<usize, BatchError> {
        let (mut done, mut deleted) = (0, 0);
        while done < keys.len() {
            let mut attr = BatchAttr {
                keys: address_of(keys[done..].as_bytes()),
                count: u32::try_from(keys.len() - done).unwrap_or(u32::MAX),
                map_fd: self.raw_fd(),
                ..BatchAttr::default()
            };
            // SAFETY: the array holds `count` keys of the size that `new` checked; the kernel reads it.
            let result = unsafe { bpf(Command::MapDeleteBatch, &mut attr) };
            if !matches!(&result, Err(error) if has_no_batch(error)) {
                let count = (attr.count as usize).min(keys.len() - done);
                (done, deleted) = (done + count, deleted + count);
            }
            match result {
                Err(error) if has_no_batch(&error) => {
                    let was_there = self
                        .delete(&keys[done])
                        .map_err(|source| BatchError { done, source })?;
                    (done, deleted) = (done + 1, deleted + usize::from(was_there));
                }
                Err(source) if is_absent(&source) => done += 1,
                Err(source) if source.kind() != io::ErrorKind::Interrupted => {
                    return Err(BatchError { done, source });
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(deleted)
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
        // SAFETY: both keys have the size that `new` checked; a key at 0 asks for the first.
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

/// A per-CPU array of counters.
#[derive(Debug)]
pub struct CounterMap {
    fd: OwnedFd,
    cpus: usize,
}

impl CounterMap {
    /// Takes a per-CPU array of `u64`.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let info: object::MapInfo = object::info(&fd)?;
        if info.key_size != 4 || info.value_size != 8 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not an array of 64-bit counters",
            ));
        }
        Ok(Self {
            fd,
            cpus: aya::util::nr_cpus().map_err(|(_, error)| error)?,
        })
    }

    /// The sum over all CPUs; 0 of a counter that the map, which an earlier version made, has no room for.
    pub fn sum(&self, index: u32) -> io::Result<u64> {
        let mut values = vec![0u64; self.cpus];
        let mut attr = ElementAttr {
            map_fd: self.fd.as_raw_fd().cast_unsigned(),
            key: address_of(index.as_bytes()),
            value: address_of_mut(values.as_mut_bytes()),
            ..ElementAttr::default()
        };
        // SAFETY: the kernel writes 8 bytes for each possible CPU, which is what `values` has room for.
        match unsafe { bpf(Command::MapLookup, &mut attr) } {
            Err(error) if is_absent(&error) => return Ok(0),
            looked => looked?,
        };
        Ok(values.iter().fold(0, |sum, n| sum.wrapping_add(*n)))
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

fn has_no_batch(error: &io::Error) -> bool {
    error.raw_os_error() == Some(ENOTSUPP)
}
