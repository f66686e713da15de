//! Offloads of a device, as `ethtool -K` switches them. One of the crate's files with `unsafe`: the ioctl takes a
//! pointer within a structure.

use std::io::Error;
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Socket, Type};

use crate::error::{LabError, Result};
use crate::host::Host;

/// What a device can do for the kernel, or the kernel for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// Transmit checksum offload (`tx`). If on, packets carry `CHECKSUM_PARTIAL`; if off, the kernel
    /// computes the checksum before the device.
    TxChecksum,
    /// TCP segmentation (`tso`).
    TcpSegmentation,
    /// Segmentation by the kernel just before the device (`gso`).
    Segmentation,
    /// Merging of received segments (`gro`).
    Receive,
}

impl Offload {
    /// The ethtool command that sets it (linux/ethtool.h).
    fn command(self) -> u32 {
        match self {
            Self::TxChecksum => 0x17,
            Self::TcpSegmentation => 0x1f,
            Self::Segmentation => 0x24,
            Self::Receive => 0x2c,
        }
    }
}

/// `SIOCETHTOOL` (linux/sockios.h).
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

impl Host {
    /// Switches an offload of one of this host's devices.
    pub fn offload(&self, device: &str, offload: Offload, on: bool) -> Result<()> {
        self.netns().run(|| {
            let action = format!("switching {offload:?} of {device} on {}", self.name());
            set(device, offload, on).map_err(LabError::kernel(action))
        })
    }
}

pub(crate) fn set(device: &str, offload: Offload, on: bool) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut value = EthtoolValue {
        command: offload.command(),
        data: u32::from(on),
    };
    let mut name = [0; libc::IFNAMSIZ];
    if device.len() >= name.len() {
        return Err(Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in name.iter_mut().zip(device.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut value).cast(),
        },
    };
    // SAFETY: SIOCETHTOOL reads an ifreq whose data points to an ethtool_value; both live for the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result == 0 {
        Ok(())
    } else {
        Err(Error::last_os_error())
    }
}
