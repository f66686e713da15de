//! What the kernel says of a device's XDP, by netlink: what its driver can, and which program is on it.

use std::io;

use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_GENERIC, NETLINK_ROUTE},
};
use rtnetlink::packet_core::NlasIterator;

/// `struct nlmsghdr`, `genlmsghdr` and `ifinfomsg`, in bytes.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const LINK_HEADER: usize = 16;

const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;

// include/uapi/linux/genetlink.h
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

// include/uapi/linux/netdev.h
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

// include/uapi/linux/rtnetlink.h, if_link.h
const RTM_GETLINK: u16 = 18;
const IFLA_XDP: u16 = 43;
/// `IFLA_XDP_PROG_ID`, and those of the driver, the kernel and the hardware; the first is missing where there are several.
const IFLA_XDP_PROG_IDS: [u16; 4] = [4, 5, 6, 7];

/// What a driver can (`enum netdev_xdp_act`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Programs run in the driver, and may send a frame back out of its device.
    pub const BASIC: Self = Self(1);
    /// Takes frames from programs on other devices.
    pub const TRANSMIT: Self = Self(4);

    /// Whether it can all of `other`.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What the driver of a device of this network namespace can; none where the kernel does not say (before 6.3).
pub fn features(ifindex: u32) -> io::Result<Option<Features>> {
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let family = match ask(
        NETLINK_GENERIC,
        GENL_ID_CTRL,
        &generic(CTRL_CMD_GETFAMILY, &name),
    ) {
        Ok(reply) => find(&reply, GENERIC_HEADER, CTRL_ATTR_FAMILY_ID)?,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(family) = family.and_then(|id| Some(u16::from_ne_bytes(id.try_into().ok()?))) else {
        return Ok(None);
    };
    let device = attribute(NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes());
    let reply = ask(
        NETLINK_GENERIC,
        family,
        &generic(NETDEV_CMD_DEV_GET, &device),
    )?;
    let found = find(&reply, GENERIC_HEADER, NETDEV_A_DEV_XDP_FEATURES)?;
    Ok(found.and_then(|bits| Some(Features(u64::from_ne_bytes(bits.try_into().ok()?)))))
}

/// Ids of the XDP programs on a device of this network namespace. A device with offload may have two, one in the driver
/// and one in the hardware.
pub fn programs_on(ifindex: u32) -> io::Result<Vec<u32>> {
    let mut link = [0; LINK_HEADER];
    link[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let reply = ask(NETLINK_ROUTE, RTM_GETLINK, &link)?;
    let Some(xdp) = find(&reply, LINK_HEADER, IFLA_XDP)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for kind in IFLA_XDP_PROG_IDS {
        let id = find(&xdp, 0, kind)?;
        found.extend(id.and_then(|id| Some(u32::from_ne_bytes(id.try_into().ok()?))));
    }
    Ok(found)
}

/// The first of them.
pub fn program_on(ifindex: u32) -> io::Result<Option<u32>> {
    Ok(programs_on(ifindex)?.first().copied())
}

/// A request whose answer is one message: that message without its header.
fn ask(protocol: isize, kind: u16, payload: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(HEADER + payload.len()).map_err(io::Error::other)?;
    let mut request = len.to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port.
    request.extend([0; 8]);
    request.extend_from_slice(payload);

    let socket = Socket::new(protocol)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request, 0)?;
    let (reply, _) = socket.recv_from_full()?;
    let kind = reply.get(4..6).map(|kind| [kind[0], kind[1]]);
    let Some(kind) = kind.map(u16::from_ne_bytes) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    if kind == NLMSG_ERROR {
        let errno = reply.get(HEADER..HEADER + 4).unwrap_or(&[0; 4]);
        let errno = errno.try_into().map_or(0, i32::from_ne_bytes);
        return Err(io::Error::from_raw_os_error(errno.wrapping_neg()));
    }
    Ok(reply.get(HEADER..).unwrap_or_default().to_vec())
}

fn generic(command: u8, attributes: &[u8]) -> Vec<u8> {
    let mut message = vec![command, 1, 0, 0];
    message.extend_from_slice(attributes);
    message
}

/// One attribute, padded to four bytes (`struct nlattr`).
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of an attribute that comes after `skip` bytes.
fn find(message: &[u8], skip: usize, kind: u16) -> io::Result<Option<Vec<u8>>> {
    let attributes = message.get(skip..).unwrap_or_default();
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.map_err(io::Error::other)?;
        if attribute.kind() == kind {
            return Ok(Some(attribute.value().to_vec()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again() {
        let mut message = vec![9; 4];
        message.extend(attribute(2, b"netdev\0"));
        message.extend(attribute(3, &7u32.to_ne_bytes()));
        assert_eq!(message.len(), 4 + 12 + 8);
        assert_eq!(
            find(&message, 4, 2).expect("well formed"),
            Some(b"netdev\0".to_vec())
        );
        assert_eq!(
            find(&message, 4, 3).expect("well formed"),
            Some(7u32.to_ne_bytes().to_vec())
        );
        assert_eq!(find(&message, 4, 4).expect("well formed"), None);
    }

    #[test]
    fn the_loopback_has_no_xdp() {
        // Asked of the kernel that is there; no rights are needed.
        let features = features(1).expect("an answer");
        assert!(
            features.is_none_or(|features| !features.has(Features::BASIC)),
            "{features:?}"
        );
        assert_eq!(program_on(1).expect("an answer"), None);
        assert!(program_on(0x7fff_ffff).is_err(), "there is no such device");
    }
}
