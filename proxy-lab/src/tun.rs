//! Opening a tun device. The ioctl takes its own structure, so this file needs `unsafe`.

use std::fs::File;
use std::io::Error;
use std::os::fd::AsRawFd as _;

nix::ioctl_write_ptr_bad!(
    /// `TUNSETIFF` (`linux/if_tun.h`).
    tunsetiff,
    libc::TUNSETIFF,
    libc::ifreq
);

/// Opens a tun device (without the four bytes of packet information) of the calling thread's network namespace: each read
/// gives a packet that the kernel sends by it, each write hands one in.
pub(crate) fn open(device: &str) -> std::io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut name = [0; libc::IFNAMSIZ];
    if device.len() >= name.len() {
        return Err(Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in name.iter_mut().zip(device.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short,
        },
    };
    // SAFETY: TUNSETIFF reads an ifreq, which lives for the call.
    unsafe { tunsetiff(file.as_raw_fd(), &raw const request) }?;
    Ok(file)
}
