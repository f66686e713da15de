//! Handles of running servers.

use std::net::SocketAddr;
use std::time::Duration;

use super::Host;
use crate::error::Result;
use crate::protocol::{Command, Protocol};

/// A running server.
#[derive(Debug)]
pub struct Server<'a> {
    host: &'a Host,
    handle: u64,
    name: String,
    protocol: Protocol,
    address: SocketAddr,
}

impl<'a> Server<'a> {
    pub(super) fn new(
        host: &'a Host,
        handle: u64,
        name: String,
        protocol: Protocol,
        address: SocketAddr,
    ) -> Self {
        Self {
            host,
            handle,
            name,
            protocol,
            address,
        }
    }

    /// The name it gives.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// TCP or UDP.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends listening; connections that it accepted go on.
    pub fn stop(self) -> Result<()> {
        self.end(false)
    }

    /// Ends listening and its connections.
    pub fn stop_and_drop(self) -> Result<()> {
        self.end(true)
    }

    fn end(self, drop_connections: bool) -> Result<()> {
        let command = Command::StopServing {
            server: self.handle,
            drop_connections,
        };
        self.host.ask(command, Duration::ZERO).map(|_| ())
    }
}
