//! The only way to open a map: its kind, sizes and flags are compared with its [`TypedSpec`] before anything is read or written.
//!
//! The kernel takes the sizes of keys and values from the map, not from the caller. With a map of another shape, it would write
//! beyond a buffer.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use proxy_common::abi::{MapKind, MapSpec, TypedSpec};

use super::{
    super::{
        Command, address_of_mut, bpf,
        object::{self, MapInfo},
    },
    ElementAttr, is_absent,
};

/// Why a map was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not the map that was expected.
    #[error("it has another shape ({found}) than expected ({expected})")]
    OtherShape {
        /// What is there.
        found: String,
        /// What was expected.
        expected: String,
    },
}

/// Flags that forbid programs to write or to read: `BPF_F_RDONLY_PROG`, `BPF_F_WRONLY_PROG`. (The access of system calls depends
/// on each descriptor.)
const RESTRICTED: u32 = 1 << 7 | 1 << 8;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// `enum bpf_map_type`.
const fn kernel_kind(kind: MapKind) -> u32 {
    match kind {
        MapKind::Hash => 1,
        MapKind::Array | MapKind::MappedArray => 2,
        MapKind::PerCpuArray => 6,
        MapKind::LruHash => 9,
        MapKind::LpmTrie => 11,
    }
}

/// A map that has the kind `S`, keys `K` and values `V`.
#[derive(Debug)]
pub struct Checked<S, K, V> {
    fd: OwnedFd,
    entries: u32,
    types: PhantomData<(S, K, V)>,
}

impl<S, K, V> Checked<S, K, V> {
    /// Opens the map pinned at a path.
    pub fn open(path: &Path, expected: TypedSpec<S, K, V>) -> Result<Self, OpenError> {
        Self::new(object::open(path)?, expected)
    }

    /// Takes a descriptor.
    pub fn new(fd: OwnedFd, expected: TypedSpec<S, K, V>) -> Result<Self, OpenError> {
        let entries = check(&fd, &expected.spec)?;
        Ok(Self {
            fd,
            entries,
            types: PhantomData,
        })
    }

    pub(super) fn into_parts(self) -> (OwnedFd, u32) {
        (self.fd, self.entries)
    }
}

/// Compares the map of a descriptor with its specification, and returns the map's capacity. Any capacity is accepted: it may
/// change without a new ABI version, and a pinned map keeps the capacity with which it was created.
fn check(fd: &OwnedFd, expected: &MapSpec) -> Result<u32, OpenError> {
    let other_shape = |found: String| OpenError::OtherShape {
        found,
        expected: shape_of(expected),
    };
    if !is_map(fd) {
        return Err(other_shape("a program or a link, not a map".to_owned()));
    }
    let info: MapInfo = object::info(fd)?;
    if fits(&info, expected) {
        Ok(info.max_entries)
    } else {
        Err(other_shape(shape(
            info.kind,
            info.key_size as usize,
            info.value_size as usize,
            info.flags,
        )))
    }
}

/// Whether the hash map pinned at a path has an element. Keys may have any size, because the map may be another version's.
pub fn has_elements(path: &Path) -> io::Result<bool> {
    let fd = object::open(path)?;
    if !is_map(&fd) {
        return Ok(false);
    }
    let info: MapInfo = object::info(&fd)?;
    let mut first = vec![0; info.key_size as usize];
    let mut attr = ElementAttr {
        map_fd: fd.as_raw_fd().cast_unsigned(),
        value: address_of_mut(&mut first),
        ..ElementAttr::default()
    };
    // SAFETY: `first` has the size of the map's keys. A null key asks for the first key.
    match unsafe { bpf(Command::MapGetNextKey, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Compares the map pinned at a path with its specification, and returns its capacity.
pub fn capacity(path: &Path, expected: &MapSpec) -> Result<u32, OpenError> {
    check(&object::open(path)?, expected)
}

/// A pin may be of a program or a link, whose information has other fields. For these, the kernel fails commands for maps with
/// `EINVAL`. For a map, it proceeds and fails to read the key, which is not mapped.
fn is_map(fd: &OwnedFd) -> bool {
    let mut attr = ElementAttr {
        map_fd: fd.as_raw_fd().cast_unsigned(),
        ..ElementAttr::default()
    };
    // SAFETY: key and value are at address 0, which is not mapped: the kernel can neither read nor write there.
    let result = unsafe { bpf(Command::MapLookup, &mut attr) };
    !matches!(result, Err(error) if error.raw_os_error() == Some(libc::EINVAL))
}

fn fits(info: &MapInfo, expected: &MapSpec) -> bool {
    let needed = needed_flags(expected.kind);
    info.kind == kernel_kind(expected.kind)
        && info.key_size as usize == expected.key
        && info.value_size as usize == expected.value
        && info.flags & (needed | RESTRICTED) == needed
}

const fn needed_flags(kind: MapKind) -> u32 {
    match kind {
        MapKind::MappedArray => MMAPABLE,
        _ => 0,
    }
}

fn shape_of(spec: &MapSpec) -> String {
    let kind = kernel_kind(spec.kind);
    shape(kind, spec.key, spec.value, needed_flags(spec.kind))
}

fn shape(kind: u32, key: usize, value: usize, flags: u32) -> String {
    let flags = flags & (MMAPABLE | RESTRICTED);
    format!("type {kind}, key {key} bytes, value {value} bytes, flags {flags:#x}")
}

#[cfg(test)]
mod tests {
    use proxy_common::abi::MAPS;

    use super::*;

    fn info(spec: &MapSpec) -> MapInfo {
        MapInfo {
            kind: kernel_kind(spec.kind),
            id: 7,
            key_size: spec.key as u32,
            value_size: spec.value as u32,
            max_entries: spec.entries,
            flags: needed_flags(spec.kind),
        }
    }

    #[test]
    fn a_map_of_another_shape_does_not_fit() {
        for spec in MAPS {
            let right = info(spec);
            assert!(fits(&right, spec), "{}", spec.name);
            // Another capacity, and flags that change nothing for its users (BPF_F_NO_PREALLOC, BPF_F_NUMA_NODE).
            let other = MapInfo {
                max_entries: 1,
                flags: right.flags | 1 | 4,
                ..right
            };
            assert!(fits(&other, spec), "{}", spec.name);
            let changes: [fn(&mut MapInfo); 7] = [
                |info| info.kind += 1,
                |info| info.kind = if info.kind == 2 { 6 } else { 2 },
                |info| info.key_size += 4,
                |info| info.value_size += 8,
                |info| info.value_size -= 1,
                |info| info.flags |= 1 << 7,
                |info| info.flags |= 1 << 8,
            ];
            for (index, change) in changes.iter().enumerate() {
                let mut other = right;
                change(&mut other);
                assert!(!fits(&other, spec), "{} {index}", spec.name);
            }
            let unmapped = MapInfo { flags: 0, ..right };
            assert_eq!(
                fits(&unmapped, spec),
                spec.kind != MapKind::MappedArray,
                "{}",
                spec.name
            );
        }
    }
}
