//! Socket options that no crate provides.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

/// Makes a listening TCP socket return a connection from accept(2) only when data has arrived on it, or after this number of
/// seconds (`TCP_DEFER_ACCEPT`).
pub fn defer_accept(socket: impl AsFd, seconds: libc::c_int) -> io::Result<()> {
    // SAFETY: the socket is open, the value is readable and of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            std::ptr::from_ref(&seconds).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
