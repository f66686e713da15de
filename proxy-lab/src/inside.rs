//! The body of the `lab-host` binary, which runs inside a namespace. It reads [`Request`]s from stdin,
//! handles each in its own thread, and writes [`Reply`]s to stdout. It ends when stdin is closed, unless it
//! was detached, so that no process outlives its lab.

mod balancer;
mod hold;
mod probe;
mod tcp_client;
mod tcp_server;
mod tunnel;
mod udp_client;
mod udp_server;
mod udp_stream;

use std::collections::HashMap;
use std::io::{BufRead as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::protocol::{
    Answer, Command, Exchange, Failure, FailureKind, Hello, Protocol, Reply, Request, Serve,
};
use balancer::Balancer;
use hold::Hold;
use probe::Probe;
use udp_stream::UdpStream;

/// Tells builds of this module and of the protocol apart: a library never talks to a `lab-host` of another build.
pub const FINGERPRINT: u64 = {
    let mut hash = FNV_OFFSET;
    hash = fnv(hash, include_bytes!("protocol.rs"));
    hash = fnv(hash, include_bytes!("protocol/outcome.rs"));
    hash = fnv(hash, include_bytes!("protocol/request.rs"));
    hash = fnv(hash, include_bytes!("inside.rs"));
    hash = fnv(hash, include_bytes!("inside/balancer.rs"));
    hash = fnv(hash, include_bytes!("inside/hold.rs"));
    hash = fnv(hash, include_bytes!("inside/probe.rs"));
    hash = fnv(hash, include_bytes!("inside/tcp_client.rs"));
    hash = fnv(hash, include_bytes!("inside/tcp_server.rs"));
    hash = fnv(hash, include_bytes!("inside/tunnel.rs"));
    hash = fnv(hash, include_bytes!("inside/udp_client.rs"));
    hash = fnv(hash, include_bytes!("inside/udp_server.rs"));
    hash = fnv(hash, include_bytes!("inside/udp_stream.rs"));
    hash = fnv(hash, include_bytes!("tun.rs"));
    fnv(hash, include_bytes!("bin/lab-host.rs"))
};

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

/// The stack of a worker thread: they are many and do little.
const STACK: usize = 256 * 1024;

/// Serves requests until stdin ends.
pub fn run() -> std::io::Result<()> {
    write_line(&Hello {
        fingerprint: FINGERPRINT,
        pid: std::process::id(),
    })?;
    let state = Arc::new(State::default());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let request: Request = serde_json::from_str(&line)?;
        let worker_state = Arc::clone(&state);
        spawn(move || {
            let result = worker_state.execute(request.command);
            // If the library has ended, nobody needs the reply.
            let _ = write_line(&Reply {
                id: request.id,
                result,
            });
        })?;
    }
    while state.detached.load(Ordering::Relaxed) {
        thread::park_timeout(Duration::from_hours(1));
    }
    Ok(())
}

fn write_line(message: &impl serde::Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}

fn spawn(work: impl FnOnce() + Send + 'static) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().stack_size(STACK).spawn(work)
}

/// What lives longer than one command.
#[derive(Default)]
struct State {
    next: AtomicU64,
    detached: AtomicBool,
    servers: Mutex<HashMap<u64, Server>>,
    holds: Mutex<HashMap<u64, Hold>>,
    probes: Mutex<HashMap<u64, Probe>>,
    sockets: Mutex<HashMap<u64, Arc<Socket>>>,
    streams: Mutex<HashMap<u64, UdpStream>>,
    balancers: Mutex<HashMap<u64, Balancer>>,
}

enum Server {
    Tcp(tcp_server::TcpServer),
    Udp(udp_server::UdpServer),
}

impl State {
    fn handle(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn execute(&self, command: Command) -> Result<Answer, String> {
        match command {
            Command::Serve(serve) => self.serve(serve),
            Command::StopServing {
                server,
                drop_connections,
            } => {
                match taken(&self.servers, server)? {
                    Server::Tcp(server) => server.stop(drop_connections),
                    Server::Udp(server) => server.stop(),
                }
                Ok(Answer::Done)
            }
            Command::Tcp(request) => Ok(Answer::Exchanges(tcp_client::exchanges(&request))),
            Command::Udp(request) => Ok(Answer::Exchanges(udp_client::exchanges(&request))),
            Command::HoldOpen { request } => {
                let (connections, opened) = Hold::open(&request);
                let hold = self.handle();
                locked(&self.holds).insert(hold, connections);
                Ok(Answer::Held { hold, opened })
            }
            Command::HoldCheck { hold, timeout } => {
                let mut holds = locked(&self.holds);
                let held = holds.get_mut(&hold).ok_or_else(|| unknown(hold))?;
                Ok(Answer::Exchanges(held.check(timeout)))
            }
            Command::HoldClose { hold } => taken(&self.holds, hold).map(|_| Answer::Done),
            Command::ProbeStart(request) => {
                let handle = self.handle();
                let probe =
                    Probe::start(request).map_err(|error| format!("starting a prober: {error}"))?;
                locked(&self.probes).insert(handle, probe);
                Ok(Answer::Started { handle })
            }
            Command::ProbeReport { probe, stop: true } => {
                Ok(Answer::Probed(taken(&self.probes, probe)?.stop()))
            }
            Command::ProbeReport { probe, stop: false } => {
                let probes = locked(&self.probes);
                Ok(Answer::Probed(
                    probes.get(&probe).ok_or_else(|| unknown(probe))?.report(),
                ))
            }
            Command::UdpOpen { bind, connect } => {
                let socket = udp_client::open(bind, connect)
                    .map_err(|error| format!("opening a UDP socket: {error}"))?;
                let handle = self.handle();
                locked(&self.sockets).insert(handle, Arc::new(socket));
                Ok(Answer::Started { handle })
            }
            Command::UdpExchange {
                socket,
                to,
                timeout,
            } => {
                let socket = locked(&self.sockets)
                    .get(&socket)
                    .cloned()
                    .ok_or_else(|| unknown(socket))?;
                Ok(Answer::Exchanges(vec![udp_client::exchange(
                    &socket, to, 0, timeout,
                )]))
            }
            Command::UdpClose { socket } => taken(&self.sockets, socket).map(|_| Answer::Done),
            Command::UdpStreamStart(request) => {
                let handle = self.handle();
                let stream = UdpStream::start(request)
                    .map_err(|error| format!("starting a UDP stream: {error}"))?;
                locked(&self.streams).insert(handle, stream);
                Ok(Answer::Started { handle })
            }
            Command::UdpStreamReport { stream, stop: true } => {
                Ok(Answer::Streamed(taken(&self.streams, stream)?.stop()))
            }
            Command::UdpStreamReport {
                stream,
                stop: false,
            } => {
                let streams = locked(&self.streams);
                Ok(Answer::Streamed(
                    streams
                        .get(&stream)
                        .ok_or_else(|| unknown(stream))?
                        .report(),
                ))
            }
            Command::BalanceStart(request) => {
                let handle = self.handle();
                let balancer = Balancer::start(request)
                    .map_err(|error| format!("starting a balancer: {error}"))?;
                locked(&self.balancers).insert(handle, balancer);
                Ok(Answer::Started { handle })
            }
            Command::BalanceStop { balancer } => {
                let balancer = taken(&self.balancers, balancer)?;
                Ok(Answer::Balanced(balancer.stop()))
            }
            Command::BalanceReport { balancer } => {
                let balancers = locked(&self.balancers);
                let running = balancers.get(&balancer).ok_or_else(|| unknown(balancer))?;
                Ok(Answer::Balanced(running.report()))
            }
            Command::Tunnel(tunnel) => {
                let device = tunnel.device.clone();
                tunnel::start(tunnel)
                    .map_err(|error| format!("carrying packets of {device}: {error}"))?;
                Ok(Answer::Done)
            }
            Command::Detach => {
                // Who reads the owner's stderr must see its end when the owner ends.
                std::fs::File::options()
                    .write(true)
                    .open("/dev/null")
                    .and_then(|null| Ok(nix::unistd::dup2_stderr(null)?))
                    .map_err(|error| format!("leaving stderr: {error}"))?;
                self.detached.store(true, Ordering::Relaxed);
                Ok(Answer::Done)
            }
        }
    }

    fn serve(&self, serve: Serve) -> Result<Answer, String> {
        let text = format!("{} {}", serve.address, serve.protocol);
        let failed = |error: std::io::Error| format!("listening on {text}: {error}");
        let (running, address) = match serve.protocol {
            Protocol::Tcp => {
                let (server, address) = tcp_server::TcpServer::start(serve).map_err(failed)?;
                (Server::Tcp(server), address)
            }
            Protocol::Udp => {
                let (server, address) = udp_server::UdpServer::start(serve).map_err(failed)?;
                (Server::Udp(server), address)
            }
        };
        let server = self.handle();
        locked(&self.servers).insert(server, running);
        Ok(Answer::Serving { server, address })
    }
}

/// Locks, also after another worker's panic: each table is consistent between statements.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn taken<T>(table: &Mutex<HashMap<u64, T>>, handle: u64) -> Result<T, String> {
    locked(table).remove(&handle).ok_or_else(|| unknown(handle))
}

fn unknown(handle: u64) -> String {
    format!("nothing has the handle {handle}")
}

/// A socket of an address's family, IPv6 alone if it is one, bound to it.
fn bound(kind: Type, address: std::net::SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

fn failure(stage: &str, error: &std::io::Error) -> Failure {
    let kind = match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => FailureKind::Refused,
        Some(libc::ETIMEDOUT | libc::EAGAIN | libc::EINPROGRESS) => FailureKind::TimedOut,
        Some(libc::ECONNRESET | libc::EPIPE) => FailureKind::Reset,
        Some(libc::ECONNABORTED) => FailureKind::Aborted,
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => FailureKind::Unreachable,
        Some(_) => FailureKind::Other,
        None => match error.kind() {
            std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => FailureKind::TimedOut,
            std::io::ErrorKind::UnexpectedEof => FailureKind::Reset,
            _ => FailureKind::Other,
        },
    };
    let message = if kind == FailureKind::TimedOut {
        "timed out".to_owned()
    } else {
        error.to_string()
    };
    Failure {
        stage: stage.to_owned(),
        kind,
        errno: error.raw_os_error(),
        message,
    }
}

fn failed(stage: &str, error: &std::io::Error, elapsed: Duration) -> Exchange {
    Exchange {
        outcome: Err(failure(stage, error)),
        elapsed,
        local: None,
        peer: None,
    }
}
