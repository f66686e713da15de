//! The messages, as `include/uapi/linux/{netlink,sock_diag,inet_diag}.h` lay them out. Plain bytes: no `unsafe` here.

use proxy_common::{
    abi::protocol,
    addr::{Addr, Family},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, network_endian::U16};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// States of sockets (`include/net/tcp_states.h`). A UDP socket is in the first or in `TCP_CLOSE`; of TCP's, what is left out has
/// no peer, or ends by itself.
const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_SENT: u32 = 2;
const TCP_FIN_WAIT1: u32 = 4;
const TCP_FIN_WAIT2: u32 = 5;
const TCP_CLOSE_WAIT: u32 = 8;

/// The protocols whose sockets can be aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP.
    Tcp = protocol::TCP,
    /// UDP.
    Udp = protocol::UDP,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    const fn connected_states(self) -> u32 {
        match self {
            Self::Udp => 1 << TCP_ESTABLISHED,
            Self::Tcp => {
                1 << TCP_ESTABLISHED
                    | 1 << TCP_SYN_SENT
                    | 1 << TCP_FIN_WAIT1
                    | 1 << TCP_FIN_WAIT2
                    | 1 << TCP_CLOSE_WAIT
            }
        }
    }
}

/// `struct nlmsghdr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    len: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_sockid`: addresses and ports in network order, IPv4 in the first four bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Id {
    source_port: U16,
    destination_port: U16,
    source: [u8; 16],
    destination: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2` with its header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Request {
    header: Header,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: Id,
}
const _: () = assert!(size_of::<Request>() == 72);

/// `struct inet_diag_msg`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Listed {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: Id,
    expires: u32,
    receive_queue: u32,
    send_queue: u32,
    uid: u32,
    inode: u32,
}
const _: () = assert!(size_of::<Listed>() == 72);

/// The request for all connected sockets of a protocol and family.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct Dump(Request);

/// The request to abort one.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct Destroy(Request);

impl Dump {
    pub fn connected(protocol: Protocol, family: Family) -> Self {
        let number = match family {
            Family::V4 => AF_INET,
            Family::V6 => AF_INET6,
        };
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut request = request(SOCK_DIAG_BY_FAMILY, flags, protocol, number);
        request.states = protocol.connected_states();
        Self(request)
    }
}

impl Destroy {
    pub fn of(protocol: Protocol, socket: &Connected) -> Self {
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut request = request(SOCK_DESTROY, flags, protocol, socket.family);
        request.states = u32::MAX;
        request.id = socket.id;
        Self(request)
    }
}

fn request(kind: u16, flags: u16, protocol: Protocol, family: u8) -> Request {
    Request {
        header: Header {
            len: size_of::<Request>() as u32,
            kind,
            flags,
            ..Header::default()
        },
        family,
        protocol: protocol as u8,
        extensions: 0,
        pad: 0,
        states: 0,
        id: Id::default(),
    }
}

/// A connected socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    family: u8,
    id: Id,
}

impl Connected {
    /// Its cookie, as BPF programs see it.
    pub fn cookie(&self) -> u64 {
        u64::from(self.id.cookie[1]) << 32 | u64::from(self.id.cookie[0])
    }

    /// Its peer's address; IPv4 mapped.
    pub fn peer(&self) -> Addr {
        let octets = self.id.destination;
        if self.family == AF_INET {
            Addr::v4([octets[0], octets[1], octets[2], octets[3]])
        } else {
            Addr::from_octets(octets)
        }
    }

    /// Its peer's port.
    pub fn peer_port(&self) -> U16 {
        self.id.destination_port
    }
}

/// What the kernel answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// One of a list.
    Socket(Connected),
    /// The end of a list, or what came of a request: 0, or an error number.
    End(i32),
}

/// The messages of one read; what is cut off or of another kind is passed over.
pub fn replies(mut bytes: &[u8]) -> impl Iterator<Item = Reply> {
    std::iter::from_fn(move || {
        loop {
            let (header, _) = Header::read_from_prefix(bytes).ok()?;
            let message = bytes.get(..header.len as usize)?;
            let body = message.get(size_of::<Header>()..)?;
            // NLMSG_ALIGN; the last message of a read may be without its padding.
            let whole = message.len().next_multiple_of(4).min(bytes.len());
            bytes = &bytes[whole..];
            if let Some(reply) = reply(header.kind, body) {
                return Some(reply);
            }
        }
    })
}

fn reply(kind: u16, body: &[u8]) -> Option<Reply> {
    match kind {
        SOCK_DIAG_BY_FAMILY => {
            let (listed, _) = Listed::read_from_prefix(body).ok()?;
            Some(Reply::Socket(Connected {
                family: listed.family,
                id: listed.id,
            }))
        }
        // Both begin with an error number, negated; the end of a list may be without.
        NLMSG_DONE | NLMSG_ERROR => {
            let errno = i32::read_from_prefix(body).map_or(0, |(errno, _)| errno);
            Some(Reply::End(errno.saturating_neg().max(0)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
