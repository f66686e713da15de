//! Balancers of a host.

use std::time::Duration;

use super::Host;
use crate::error::Result;
use crate::protocol::{Answer, BalanceReport, BalanceRequest, Command};

/// A running balancer.
#[derive(Debug)]
pub struct Balancer<'a> {
    host: &'a Host,
    handle: u64,
    timeout: Duration,
}

impl Host {
    /// Starts a balancer and its clients.
    pub fn balance(&self, request: BalanceRequest) -> Result<Balancer<'_>> {
        let timeout = request.timeout;
        let handle = self.started(Command::BalanceStart(request))?;
        Ok(Balancer {
            host: self,
            handle,
            timeout,
        })
    }
}

impl Balancer<'_> {
    /// What it saw so far.
    pub fn report(&self) -> Result<BalanceReport> {
        let balancer = self.handle;
        self.fetch(Command::BalanceReport { balancer })
    }

    /// Stops it, waits for the connections under way, and reports.
    pub fn stop(self) -> Result<BalanceReport> {
        let balancer = self.handle;
        self.fetch(Command::BalanceStop { balancer })
    }

    fn fetch(&self, command: Command) -> Result<BalanceReport> {
        match self.host.ask(command, self.timeout)? {
            Answer::Balanced(report) => Ok(report),
            other => Err(self.host.unexpected(&other)),
        }
    }
}
