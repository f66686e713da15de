//! Facts of this process and of the clock.

use std::{ffi::CStr, io, time::Duration};

/// The cookie of this process's network namespace, as BPF programs see it (`SO_NETNS_COOKIE`, Linux 5.14).
pub fn netns_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))
        .or_else(|_| std::net::UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, 0)))?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the socket is open, `cookie` is writable for `len` bytes.
    let result = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// include/uapi/asm-generic/socket.h; the same on all architectures that BPF programs are built for here.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// `MEMBARRIER_CMD_GLOBAL`: `synchronize_rcu`, and with it the end of every BPF program that runs now.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Waits until every BPF program that runs now has ended.
pub fn membarrier() -> io::Result<()> {
    // SAFETY: the command takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Time since boot without suspend, as jiffies count it.
pub fn monotonic() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is writable; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    Duration::new(
        now.tv_sec.cast_unsigned(),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// Lifts the limit on locked memory, which maps and programs count against before Linux 5.11: whatever an earlier run left
/// counts, so that without this a second one could make nothing. Later kernels do not care, and a real lack shows when
/// something is made.
pub fn lift_memlock_limit() {
    use nix::sys::resource::{RLIM_INFINITY, Resource::RLIMIT_MEMLOCK, getrlimit, setrlimit};
    // Without `SYS_RESOURCE`, as far as it goes.
    let lifted = setrlimit(RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).or_else(|_| {
        let (_, most) = getrlimit(RLIMIT_MEMLOCK)?;
        setrlimit(RLIMIT_MEMLOCK, most, most)
    });
    if let Err(error) = lifted {
        tracing::debug!(%error, "could not lift the limit on locked memory");
    }
}

/// The magic number of the file system that an open file is on (`struct statfs`, `f_type`).
pub fn filesystem_magic(fd: impl std::os::fd::AsFd) -> io::Result<i64> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd());
    // SAFETY: the descriptor is open, `stat` is writable.
    let result = unsafe { libc::fstatfs(fd, stat.as_mut_ptr()) };
    if result == 0 {
        // SAFETY: the call succeeded, so it filled the structure.
        Ok(unsafe { stat.assume_init() }.f_type)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The name of a device of this process's network namespace; none where there is no such device.
pub fn device_name(ifindex: u32) -> Option<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: `name` has the size that the call asks for.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    CStr::from_bytes_until_nul(&name)
        .ok()
        .and_then(|name| name.to_str().ok())
        .map(str::to_owned)
}
