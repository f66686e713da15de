//! The system calls of the data plane: bpf(2) and its neighbours, as safe functions over owned descriptors.
//!
//! aya loads the object; links and map contents go through these, because one uniform form serves what aya 0.14
//! has (hash maps one element at a time) and what it has not: batches, mapped arrays, `BPF_LINK_UPDATE` of cgroup
//! links, link and chain queries. Layouts are those of `union bpf_attr` in include/uapi/linux/bpf.h.

pub mod link;
pub mod map;
pub mod mapping;
pub mod netns;
pub mod object;
pub mod process;
pub mod program;
pub mod sock_diag;
pub mod socket;

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use zerocopy::{FromBytes, IntoBytes};

/// The commands of bpf(2) that are used (`enum bpf_cmd`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
enum Command {
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapGetNextKey = 4,
    ProgLoad = 5,
    ObjPin = 6,
    ObjGet = 7,
    ProgTestRun = 10,
    ObjGetInfo = 15,
    ProgQuery = 16,
    MapFreeze = 22,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// Calls bpf(2).
///
/// # Safety
/// Every address in `attr` must be 0 or point to memory that the command may read or write, of the size that the
/// command and the descriptors in `attr` imply, and that outlives the call.
unsafe fn bpf<A: IntoBytes + FromBytes>(command: Command, attr: &mut A) -> io::Result<i64> {
    // SAFETY: `attr` is a live, exclusively borrowed buffer of the size given; what it points to is the caller's
    // promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Owns the descriptor that a command returned.
fn owned(fd: i64) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The address of a buffer as the kernel takes it.
fn address_of(bytes: &[u8]) -> u64 {
    bytes.as_ptr().addr() as u64
}

/// The address of a buffer that the kernel writes.
fn address_of_mut(bytes: &mut [u8]) -> u64 {
    bytes.as_mut_ptr().expose_provenance() as u64
}

/// The kernel's own `ENOTSUPP`, which reaches user space from some commands.
const ENOTSUPP: i32 = 524;

/// Whether an error says that this kernel has no such command or flag.
pub fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS | ENOTSUPP)
    )
}
