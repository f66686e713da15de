//! What unconnected UDP sockets leave behind: the kernel says nothing when they close.
//!
//! Both tables evict what was not used for long by themselves, but not exactly: room keeps the living from it.

use std::io;

use proxy_common::{
    abi::{
        Pinned,
        socket::{SocketBackend, SocketFrontend, SocketKey},
    },
    flow_timeout::elapsed,
    socket::UDP_IDLE_SECONDS,
};

use super::tables::FlowTables;
use crate::dataplane::{
    open::{MapError, open},
    pin::PinFolder,
    sys::map::Map,
};

/// `SOCKET_BACKENDS` and `SOCKET_FRONTENDS`.
#[derive(Debug)]
pub struct SocketTables {
    pub backends: Map<SocketKey, SocketBackend>,
    frontends: Map<SocketKey, SocketFrontend>,
}

impl SocketTables {
    /// Opens the maps pinned in `pins`.
    pub fn open(pins: &PinFolder) -> Result<Self, MapError> {
        Ok(Self {
            backends: open(pins, Pinned::SOCKET_BACKENDS)?,
            frontends: open(pins, Pinned::SOCKET_FRONTENDS)?,
        })
    }

    /// Removes what a socket keeps of a frontend that it has not sent to for as long as an answer would be known;
    /// says whether it did. What names the frontend to its `recvmsg` goes too, where the backend is still known.
    pub fn collect(
        &self,
        flows: &FlowTables,
        (key, value): &(SocketKey, SocketBackend),
        now: u32,
        hz: u32,
    ) -> io::Result<bool> {
        let is_idle = |value: &SocketBackend| {
            elapsed(now, value.last_used, hz) > UDP_IDLE_SECONDS.saturating_mul(hz)
        };
        if !is_idle(value) || !self.backends.lookup(key)?.as_ref().is_some_and(is_idle) {
            return Ok(false);
        }
        let deleted = self.backends.delete(key)?;
        if let Some(backend) = flows.backend(value.backend, value.generation) {
            let peer = SocketKey {
                addr: backend.addr,
                port: backend.port,
                ..*key
            };
            let frontend = SocketFrontend {
                addr: key.addr,
                port: key.port,
                pad: [0; 6],
            };
            if self.frontends.lookup(&peer)? == Some(frontend) {
                self.frontends.delete(&peer)?;
            }
        }
        Ok(deleted)
    }
}
