//! Links: attaching that lives in bpffs, is ordered among others' programs, and is updated in place.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use zerocopy::{FromBytes, IntoBytes};

use super::{Command, address_of_mut, bpf, owned};

/// Where a program can be attached (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum AttachType {
    /// connect(2), IPv4.
    Connect4 = 10,
    /// connect(2), IPv6.
    Connect6 = 11,
    /// sendmsg(2) on UDP, IPv4.
    Sendmsg4 = 14,
    /// sendmsg(2) on UDP, IPv6.
    Sendmsg6 = 15,
    /// recvmsg(2) on UDP, IPv4.
    Recvmsg4 = 19,
    /// recvmsg(2) on UDP, IPv6.
    Recvmsg6 = 20,
    /// getpeername(2), IPv4.
    Getpeername4 = 29,
    /// getpeername(2), IPv6.
    Getpeername6 = 30,
    /// Release of a socket.
    SockRelease = 34,
    /// Frames coming in from a device, before there is an skb.
    Xdp = 37,
    /// Packets coming in from a device.
    TcxIngress = 46,
    /// Packets going out by a device.
    TcxEgress = 47,
}

/// Place in a tcx chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// Where the kernel puts it (cgroup links know no order).
    Unspecified = 0,
    /// Before all others (`BPF_F_BEFORE`).
    First = 8,
    /// After all others (`BPF_F_AFTER`).
    Last = 16,
}

#[derive(Default, FromBytes, IntoBytes)]
#[repr(C)]
struct LinkCreateAttr {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

/// Attaches a program to a cgroup.
pub fn attach_cgroup(
    program: impl AsFd,
    cgroup: impl AsFd,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    create(LinkCreateAttr {
        prog_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        target: cgroup.as_fd().as_raw_fd().cast_unsigned(),
        attach_type: attach_type as u32,
        ..LinkCreateAttr::default()
    })
}

/// Attaches a program to a device of this process's network namespace by tcx (Linux 6.6).
pub fn attach_tcx(
    program: impl AsFd,
    ifindex: u32,
    attach_type: AttachType,
    order: Order,
) -> io::Result<OwnedFd> {
    create(LinkCreateAttr {
        prog_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        target: ifindex,
        attach_type: attach_type as u32,
        flags: order as u32,
        ..LinkCreateAttr::default()
    })
}

/// How an XDP program is run (`XDP_FLAGS_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum XdpFlags {
    /// By the kernel (`XDP_FLAGS_SKB_MODE`).
    Skb = 2,
    /// By the driver (`XDP_FLAGS_DRV_MODE`).
    Driver = 4,
}

/// Attaches an XDP program to a device of this process's network namespace (Linux 5.9). `EBUSY`, `EEXIST`: there is one
/// already. `EOPNOTSUPP`: its driver runs none.
pub fn attach_xdp(program: impl AsFd, ifindex: u32, flags: XdpFlags) -> io::Result<OwnedFd> {
    create(LinkCreateAttr {
        prog_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        target: ifindex,
        attach_type: AttachType::Xdp as u32,
        flags: flags as u32,
        ..LinkCreateAttr::default()
    })
}

fn create(mut attr: LinkCreateAttr) -> io::Result<OwnedFd> {
    // SAFETY: the command reads no memory but `attr`.
    owned(unsafe { bpf(Command::LinkCreate, &mut attr) }?)
}

#[derive(Default, FromBytes, IntoBytes)]
#[repr(C)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Replaces the program of a link; no packet and no call passes between the two.
pub fn update(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link_fd: link.as_fd().as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        ..LinkUpdateAttr::default()
    };
    // SAFETY: the command reads no memory but `attr`.
    unsafe { bpf(Command::LinkUpdate, &mut attr) }.map(drop)
}

/// Detaches a link at once, whoever else holds it.
pub fn detach(link: impl AsFd) -> io::Result<()> {
    let mut attr = link.as_fd().as_raw_fd().cast_unsigned();
    // SAFETY: the command reads no memory but `attr`.
    unsafe { bpf(Command::LinkDetach, &mut attr) }.map(drop)
}

#[derive(Default, FromBytes, IntoBytes)]
#[repr(C)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// One entry of a chain of programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Id of the program.
    pub program: u32,
    /// Id of its link; 0: attached without one.
    pub link: u32,
}

/// The tcx chain of a device of this process's network namespace, in the order in which it runs.
pub fn tcx_chain(ifindex: u32, attach_type: AttachType) -> io::Result<Vec<Attached>> {
    /// `BPF_MPROG_MAX`: the kernel's own limit.
    const MAX: usize = 64;
    let mut programs = [0u32; MAX];
    let mut links = [0u32; MAX];
    let mut attr = QueryAttr {
        target: ifindex,
        attach_type: attach_type as u32,
        prog_ids: address_of_mut(programs.as_mut_bytes()),
        link_ids: address_of_mut(links.as_mut_bytes()),
        count: MAX as u32,
        ..QueryAttr::default()
    };
    // SAFETY: both arrays are writable for `count` numbers.
    unsafe { bpf(Command::ProgQuery, &mut attr) }?;
    let count = attr.count as usize;
    Ok(programs
        .into_iter()
        .zip(links)
        .take(count)
        .map(|(program, link)| Attached { program, link })
        .collect())
}
