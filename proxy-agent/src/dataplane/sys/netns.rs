//! Network namespaces other than this process's own.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Moves the calling thread, and no other, into a network namespace; sockets that it opens are of that from then on.
/// Needs `CAP_SYS_ADMIN`.
pub fn enter(namespace: impl AsFd) -> io::Result<()> {
    let fd = namespace.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the call takes no pointers.
    let result = unsafe { libc::setns(fd, libc::CLONE_NEWNET) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
