//! A host: a network namespace with a `lab-host` process in it, be it a node, a pod or the workstation.

mod balancer;
mod inner;
mod process;
mod server;
mod udp_stream;

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::address::{Family, Pair};
use crate::command;
use crate::error::{LabError, Result};
use crate::netns::Netns;
use crate::protocol::{
    Answer, Command, Exchange, ProbeReport, ProbeRequest, Protocol, TcpRequest, Tunnel, UdpRequest,
};
pub use balancer::Balancer;
use process::Process;
pub use server::Server;
pub use udp_stream::UdpStream;

/// A host. Its methods block, and may be called from several threads at once.
#[derive(Debug)]
pub struct Host {
    name: String,
    addresses: Pair,
    netns: Netns,
    cgroup: PathBuf,
    process: Process,
}

impl Host {
    /// Starts the process of a namespace that is already wired.
    pub(crate) fn start(
        name: &str,
        addresses: Pair,
        netns: Netns,
        cgroup: PathBuf,
    ) -> Result<Self> {
        let process = Process::start(name, netns.path(), &cgroup)?;
        Ok(Self {
            name: name.to_owned(),
            addresses,
            netns,
            cgroup,
            process,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its addresses: in the LAN, or the pod's.
    pub fn addresses(&self) -> Pair {
        self.addresses
    }

    /// Its address of a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        self.addresses.of(family)
    }

    /// Its address of a family with a port.
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The cgroup of the host's process.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Serves a port with TCP and UDP over both families, under the host's name.
    pub fn serve(&self, port: u16) -> Result<Vec<Server<'_>>> {
        let mut servers = Vec::new();
        for protocol in Protocol::ALL {
            for family in Family::ALL {
                servers.push(self.server(protocol, family, port)?);
            }
        }
        Ok(servers)
    }

    /// Serves a port with one protocol over one family, under the host's name.
    pub fn server(&self, protocol: Protocol, family: Family, port: u16) -> Result<Server<'_>> {
        let any: IpAddr = match family {
            Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        self.serve_as(crate::protocol::Serve {
            name: self.name.clone(),
            protocol,
            address: SocketAddr::new(any, port),
            delay: Duration::ZERO,
            silent: false,
        })
    }

    /// Starts a server of any kind. It runs until [`Server::stop`] or the host's end; dropping the handle changes nothing.
    pub fn serve_as(&self, serve: crate::protocol::Serve) -> Result<Server<'_>> {
        let (name, protocol) = (serve.name.clone(), serve.protocol);
        match self.ask(Command::Serve(serve), Duration::ZERO)? {
            Answer::Serving { server, address } => {
                Ok(Server::new(self, server, name, protocol, address))
            }
            other => Err(self.unexpected(&other)),
        }
    }

    /// One TCP connection.
    pub fn tcp(&self, to: SocketAddr) -> Result<Exchange> {
        self.single(self.tcp_all(TcpRequest::to(to))?)
    }

    /// TCP connections, one after the other.
    pub fn tcp_all(&self, request: TcpRequest) -> Result<Vec<Exchange>> {
        let patience = total(request.timeout, request.times);
        self.exchanges(Command::Tcp(request), patience)
    }

    /// One UDP datagram from an unconnected socket.
    pub fn udp(&self, to: SocketAddr) -> Result<Exchange> {
        self.single(self.udp_all(UdpRequest::to(to))?)
    }

    /// UDP datagrams, one after the other.
    pub fn udp_all(&self, request: UdpRequest) -> Result<Vec<Exchange>> {
        let patience = total(request.timeout, request.times);
        self.exchanges(Command::Udp(request), patience)
    }

    /// One request of either protocol.
    pub fn request(&self, protocol: Protocol, to: SocketAddr) -> Result<Exchange> {
        match protocol {
            Protocol::Tcp => self.tcp(to),
            Protocol::Udp => self.udp(to),
        }
    }

    /// Opens TCP connections and keeps them open.
    pub fn hold(&self, request: TcpRequest) -> Result<Hold<'_>> {
        let patience = total(request.timeout, request.times);
        match self.ask(Command::HoldOpen { request }, patience)? {
            Answer::Held { hold, opened } => Ok(Hold {
                host: self,
                handle: hold,
                opened,
            }),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Starts a prober.
    pub fn probe(&self, request: ProbeRequest) -> Result<Probe<'_>> {
        let timeout = request.timeout;
        self.started(Command::ProbeStart(request))
            .map(|handle| Probe {
                host: self,
                handle,
                timeout,
            })
    }

    /// Opens a UDP socket that is used again and again.
    pub fn udp_socket(
        &self,
        bind: SocketAddr,
        connect: Option<SocketAddr>,
    ) -> Result<UdpSocket<'_>> {
        self.started(Command::UdpOpen { bind, connect })
            .map(|socket| UdpSocket { host: self, socket })
    }

    /// Carries packets between a tun device and other hosts, until the host's end.
    pub(crate) fn tunnel(&self, tunnel: Tunnel) -> Result<()> {
        self.ask(Command::Tunnel(tunnel), Duration::ZERO).map(drop)
    }

    /// Runs a command in the network namespace, and returns what it wrote to stdout.
    pub fn exec<I, S>(&self, words: I) -> Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = command::words(words)?;
        self.netns.run(move || command::output(&mut command))
    }

    /// Writes sysctls (`net.ipv4.ip_forward` = `1`), in order.
    pub fn sysctl<'a>(&self, settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<()> {
        self.netns.sysctl(settings)
    }

    /// A command line that enters the host's network namespace from a shell.
    pub fn enter_line(&self) -> String {
        format!("nsenter --net={}", self.netns.path().display())
    }

    /// Kills the host's process, like a crash: its servers end, and their accepted connections are
    /// reset.
    pub fn crash(&self) -> Result<()> {
        self.process.kill()
    }

    /// Lets the process live on when the lab's owner ends.
    pub(crate) fn detach(&self) -> Result<()> {
        self.process.detach()
    }

    /// Ends the process, and with it all that it serves. It answers nothing any more.
    pub(crate) fn end(&self) {
        self.process.end();
    }

    fn ask(&self, command: Command, patience: Duration) -> Result<Answer> {
        self.process.ask(command, patience)
    }

    fn exchanges(&self, command: Command, patience: Duration) -> Result<Vec<Exchange>> {
        match self.ask(command, patience)? {
            Answer::Exchanges(exchanges) => Ok(exchanges),
            other => Err(self.unexpected(&other)),
        }
    }

    fn single(&self, exchanges: Vec<Exchange>) -> Result<Exchange> {
        exchanges
            .into_iter()
            .next()
            .ok_or_else(|| LabError::HostProcess {
                host: self.name.clone(),
                problem: "answered without a result".to_owned(),
            })
    }

    fn started(&self, command: Command) -> Result<u64> {
        match self.ask(command, Duration::ZERO)? {
            Answer::Started { handle } => Ok(handle),
            other => Err(self.unexpected(&other)),
        }
    }

    fn unexpected(&self, answer: &Answer) -> LabError {
        LabError::HostProcess {
            host: self.name.clone(),
            problem: format!("gave an answer to another question: {answer:?}"),
        }
    }
}

fn total(timeout: Duration, times: usize) -> Duration {
    timeout.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX))
}

/// TCP connections that are kept open.
#[derive(Debug)]
pub struct Hold<'a> {
    host: &'a Host,
    handle: u64,
    /// The first exchange over each; those that failed are not held.
    pub opened: Vec<Exchange>,
}

impl Hold<'_> {
    /// Asks over each held connection; a failure is a connection that was lost.
    pub fn check(&self, timeout: Duration) -> Result<Vec<Exchange>> {
        self.host.exchanges(
            Command::HoldCheck {
                hold: self.handle,
                timeout,
            },
            timeout,
        )
    }

    /// Closes them.
    pub fn close(self) -> Result<()> {
        self.host
            .ask(Command::HoldClose { hold: self.handle }, Duration::ZERO)
            .map(|_| ())
    }
}

/// A running prober.
#[derive(Debug)]
pub struct Probe<'a> {
    host: &'a Host,
    handle: u64,
    timeout: Duration,
}

impl Probe<'_> {
    /// What it saw so far.
    pub fn report(&self) -> Result<ProbeReport> {
        self.fetch(false)
    }

    /// Stops it, waits for the attempts under way, and reports.
    pub fn stop(self) -> Result<ProbeReport> {
        self.fetch(true)
    }

    fn fetch(&self, stop: bool) -> Result<ProbeReport> {
        match self.host.ask(
            Command::ProbeReport {
                probe: self.handle,
                stop,
            },
            self.timeout,
        )? {
            Answer::Probed(report) => Ok(report),
            other => Err(self.host.unexpected(&other)),
        }
    }
}

/// An open UDP socket.
#[derive(Debug)]
pub struct UdpSocket<'a> {
    host: &'a Host,
    socket: u64,
}

impl UdpSocket<'_> {
    /// Sends one datagram and waits for the answer; `to` is `None` on a connected socket.
    pub fn exchange(&self, to: Option<SocketAddr>, timeout: Duration) -> Result<Exchange> {
        let command = Command::UdpExchange {
            socket: self.socket,
            to,
            timeout,
        };
        self.host.single(self.host.exchanges(command, timeout)?)
    }

    /// Closes it.
    pub fn close(self) -> Result<()> {
        self.host
            .ask(
                Command::UdpClose {
                    socket: self.socket,
                },
                Duration::ZERO,
            )
            .map(|_| ())
    }
}
