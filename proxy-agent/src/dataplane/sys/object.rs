//! Pins, and what the kernel says of an object behind a descriptor.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Command, address_of, address_of_mut, bpf, owned};

#[derive(Default, FromBytes, IntoBytes)]
#[repr(C)]
struct PinAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Pins an object under a path of a bpf file system.
pub fn pin(fd: impl AsFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = PinAttr {
        pathname: address_of(path.as_bytes_with_nul()),
        bpf_fd: fd.as_fd().as_raw_fd().cast_unsigned(),
        file_flags: 0,
    };
    // SAFETY: `pathname` is a terminated string that lives until after the call.
    unsafe { bpf(Command::ObjPin, &mut attr) }.map(drop)
}

/// Opens a pinned object.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = PinAttr {
        pathname: address_of(path.as_bytes_with_nul()),
        ..PinAttr::default()
    };
    // SAFETY: `pathname` is a terminated string that lives until after the call.
    owned(unsafe { bpf(Command::ObjGet, &mut attr) }?)
}

/// Takes from all system calls the right to write a map, for good. Only tests want that.
pub fn freeze(map: impl AsFd) -> io::Result<()> {
    let mut attr = map.as_fd().as_raw_fd().cast_unsigned();
    // SAFETY: the command reads no memory but `attr`.
    unsafe { bpf(Command::MapFreeze, &mut attr) }.map(drop)
}

/// `struct bpf_map_info`, its first fields.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct MapInfo {
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// Id in the kernel.
    pub id: u32,
    /// Size of a key in bytes.
    pub key_size: u32,
    /// Size of a value in bytes.
    pub value_size: u32,
    /// Capacity in entries.
    pub max_entries: u32,
    /// Flags that it was made with.
    pub flags: u32,
}

/// `struct bpf_link_info`, as far as tcx, XDP and cgroup links fill it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct LinkInfo {
    /// `enum bpf_link_type`.
    pub kind: u32,
    /// Id in the kernel.
    pub id: u32,
    /// Id of the program.
    pub program: u32,
    /// Zero.
    pub pad: u32,
    /// tcx: ifindex (low half; 0 once the device is gone) and attach type; XDP: ifindex likewise; cgroup: id of the cgroup.
    pub detail: u64,
    /// cgroup: attach type.
    pub attach_type: u32,
    /// Zero.
    pub pad2: u32,
}

impl LinkInfo {
    /// A tcx or XDP link's device; 0 once that is gone.
    pub const fn ifindex(&self) -> u32 {
        self.detail as u32
    }
}

/// `struct bpf_prog_info`, its first fields.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ProgramInfo {
    /// `enum bpf_prog_type`.
    pub kind: u32,
    /// Id in the kernel.
    pub id: u32,
    /// SHA-1 of the instructions, truncated.
    pub tag: [u8; 8],
    /// Bytes of machine code.
    pub jited_len: u32,
    /// Bytes of translated instructions.
    pub xlated_len: u32,
}

#[derive(FromBytes, IntoBytes)]
#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// Reads what the kernel says of an object; `T` must be the information of that kind of object.
pub fn info<T: Default + FromBytes + IntoBytes>(fd: impl AsFd) -> io::Result<T> {
    let mut info = T::default();
    let mut attr = InfoAttr {
        bpf_fd: fd.as_fd().as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
        info: address_of_mut(info.as_mut_bytes()),
    };
    // SAFETY: `info` is writable for `info_len` bytes, and all its pointers-as-numbers are zero.
    unsafe { bpf(Command::ObjGetInfo, &mut attr) }?;
    Ok(info)
}
