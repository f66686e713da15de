//! UDP streams of a host.

use std::time::Duration;

use super::Host;
use crate::error::Result;
use crate::protocol::{Answer, Command, UdpStreamReport, UdpStreamRequest};

/// A running UDP stream.
#[derive(Debug)]
pub struct UdpStream<'a> {
    host: &'a Host,
    handle: u64,
}

impl Host {
    /// Starts a UDP stream: one socket that goes on sending.
    pub fn udp_stream(&self, request: UdpStreamRequest) -> Result<UdpStream<'_>> {
        self.started(Command::UdpStreamStart(request))
            .map(|handle| UdpStream { host: self, handle })
    }
}

impl UdpStream<'_> {
    /// What it saw so far.
    pub fn report(&self) -> Result<UdpStreamReport> {
        self.fetch(false)
    }

    /// Stops it, and reports.
    pub fn stop(self) -> Result<UdpStreamReport> {
        self.fetch(true)
    }

    fn fetch(&self, stop: bool) -> Result<UdpStreamReport> {
        let command = Command::UdpStreamReport {
            stream: self.handle,
            stop,
        };
        match self.host.ask(command, Duration::ZERO)? {
            Answer::Streamed(report) => Ok(report),
            other => Err(self.host.unexpected(&other)),
        }
    }
}
