//! Sockets as netlink knows them (`sock_diag(7)`): those of one network namespace are listed, and aborted.

mod message;

use std::io;

use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use proxy_common::addr::Family;
use zerocopy::IntoBytes as _;

pub use message::{Connected, Protocol};
use message::{Destroy, Dump, Reply, replies};

/// What the kernel fills at most for one read of a list (`netlink_dump`).
const BUFFER: usize = 32 * 1024;

/// A netlink socket of the network namespace in which it was opened.
#[derive(Debug)]
pub struct SockDiag {
    socket: Socket,
    buffer: Vec<u8>,
}

impl SockDiag {
    /// Opens one in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Socket::new(NETLINK_SOCK_DIAG)?,
            buffer: vec![0; BUFFER],
        })
    }

    /// The connected sockets of a protocol and family that `wanted` picks. `ENOENT`: this kernel has no `udp_diag`, or no
    /// `tcp_diag`.
    pub fn connected(
        &mut self,
        protocol: Protocol,
        family: Family,
        mut wanted: impl FnMut(&Connected) -> bool,
    ) -> io::Result<Vec<Connected>> {
        let mut found = Vec::new();
        self.send(Dump::connected(protocol, family).as_bytes())?;
        loop {
            for reply in replies(self.receive()?) {
                match reply {
                    Reply::Socket(socket) if wanted(&socket) => found.push(socket),
                    Reply::Socket(_) => {}
                    Reply::End(0) => return Ok(found),
                    Reply::End(errno) => return Err(io::Error::from_raw_os_error(errno)),
                }
            }
        }
    }

    /// Ends a socket's connection with `ECONNABORTED`; TCP's peer is told. Says whether it was still the one that was listed,
    /// with the same peer. `EOPNOTSUPP`: this kernel is built without `CONFIG_INET_DIAG_DESTROY`.
    pub fn abort(&mut self, protocol: Protocol, socket: &Connected) -> io::Result<bool> {
        self.send(Destroy::of(protocol, socket).as_bytes())?;
        loop {
            for reply in replies(self.receive()?) {
                match reply {
                    Reply::End(0) => return Ok(true),
                    Reply::End(libc::ENOENT) => return Ok(false),
                    Reply::End(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    Reply::Socket(_) => {}
                }
            }
        }
    }

    fn send(&self, request: &[u8]) -> io::Result<()> {
        self.socket.send(request, 0).map(drop)
    }

    fn receive(&mut self) -> io::Result<&[u8]> {
        let received = loop {
            match self.socket.recv(&mut self.buffer.as_mut_slice(), 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        Ok(&self.buffer[..received.min(self.buffer.len())])
    }
}
