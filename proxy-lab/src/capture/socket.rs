//! The packet socket (packet(7)). One of the crate's files with `unsafe`: the standard wrappers know neither its
//! address nor its auxiliary data.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use super::Checksum;

/// Bytes that may wait to be read; more than any test sends at once.
const QUEUE: usize = 32 * 1024 * 1024;

/// `TP_STATUS_CSUMNOTREADY`, `TP_STATUS_VLAN_VALID` and `TP_STATUS_CSUM_VALID` (`linux/if_packet.h`).
const NOT_READY: u32 = 1 << 3;
const TAGGED: u32 = 1 << 4;
const VALID: u32 = 1 << 7;

/// A socket that sees the frames of one device.
pub(super) struct PacketSocket(OwnedFd);

/// What comes with a frame.
pub(super) struct Received {
    /// Bytes in the buffer.
    pub(super) length: usize,
    /// The frame was leaving.
    pub(super) outgoing: bool,
    /// The state of its checksum.
    pub(super) checksum: Checksum,
    /// The VLAN tag, which the kernel takes out of the bytes.
    pub(super) tag: Option<u16>,
}

impl PacketSocket {
    /// In the network namespace of the calling thread, and of that namespace ever after.
    pub(super) fn open(device: &str, patience: Duration) -> Result<Self> {
        // Without a protocol it sees nothing until it is bound.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_read_timeout(Some(patience))?;
        setsockopt(&socket, sockopt::RcvBufForce, &QUEUE)?;
        let index = nix::net::if_::if_nametoindex(device)?;
        let socket = Self(socket.into());
        socket.ask_for_auxiliary_data()?;
        socket.bind(index)?;
        Ok(socket)
    }

    fn ask_for_auxiliary_data(&self) -> Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the pointer and the length are those of `on`, which lives for the call.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_AUXDATA,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(Error::last_os_error())
        }
    }

    fn bind(&self, index: libc::c_uint) -> Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::c_ushort,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the pointer and the length are those of `address`, which lives for the call.
        let result = unsafe {
            libc::bind(
                self.0.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(Error::last_os_error())
        }
    }

    /// The next frame; `None` if there was none for a while.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Result<Option<Received>> {
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let mut address = libc::sockaddr_ll {
            sll_family: 0,
            sll_protocol: 0,
            sll_ifindex: 0,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // Aligned for the headers that the kernel writes.
        let mut control = [0_u64; 16];
        // SAFETY: an all-zero msghdr is a valid empty one.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = size_of_val(&address) as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer in `message` is to a local or to `buffer`, with its true length.
        let length = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        let Ok(length) = usize::try_from(length) else {
            let error = Error::last_os_error();
            return match error.kind() {
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            };
        };
        let (checksum, tag) = state(&message);
        Ok(Some(Received {
            length: length.min(buffer.len()),
            outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
            checksum,
            tag,
        }))
    }

    /// Sends a frame as it is, from the Ethernet header on.
    pub(super) fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = nix::sys::socket::send(self.0.as_raw_fd(), frame, MsgFlags::empty())?;
        if sent == frame.len() {
            Ok(())
        } else {
            Err(Error::other("a part of the frame was sent"))
        }
    }

    /// Frames that found the queue full, since the last call.
    pub(super) fn missed(&self) -> Result<u32> {
        let mut statistics = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut length = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the pointers are to locals, `length` is the size of the first.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        if result == 0 {
            Ok(statistics.tp_drops)
        } else {
            Err(Error::last_os_error())
        }
    }
}

/// The checksum's state and the VLAN tag from the auxiliary data of a received message.
fn state(message: &libc::msghdr) -> (Checksum, Option<u16>) {
    // SAFETY: `message` was filled by recvmsg and its control buffer still lives in the caller.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return headers within the control buffer, or null.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if level == libc::SOL_PACKET && kind == libc::PACKET_AUXDATA {
            // SAFETY: the kernel wrote a tpacket_auxdata after this header.
            let auxiliary = unsafe {
                libc::CMSG_DATA(header)
                    .cast::<libc::tpacket_auxdata>()
                    .read_unaligned()
            };
            let checksum = if auxiliary.tp_status & NOT_READY != 0 {
                Checksum::Partial
            } else if auxiliary.tp_status & VALID != 0 {
                Checksum::Verified
            } else {
                Checksum::Unknown
            };
            let tagged = auxiliary.tp_status & TAGGED != 0;
            return (checksum, tagged.then_some(auxiliary.tp_vlan_tci));
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    (Checksum::Unknown, None)
}
