//! One UDP socket that goes on sending, and who answers it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::tcp_client::{parse, question};
use super::udp_client::open;
use super::{failure, locked, spawn};
use crate::clock;
use crate::protocol::{
    Failure, FailureKind, UdpStreamReport, UdpStreamRequest, UdpTurn, unspecified_like,
};

/// A running stream.
pub(super) struct UdpStream {
    stopped: Arc<AtomicBool>,
    report: Arc<Mutex<UdpStreamReport>>,
    thread: JoinHandle<()>,
}

impl UdpStream {
    /// Starts sending in a new thread.
    pub(super) fn start(request: UdpStreamRequest) -> std::io::Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(UdpStreamReport::default()));
        let sender = Sender {
            request,
            report: Arc::clone(&report),
        };
        let stop = Arc::clone(&stopped);
        let thread = spawn(move || sender.run(&stop))?;
        Ok(Self {
            stopped,
            report,
            thread,
        })
    }

    /// What was seen so far.
    pub(super) fn report(&self) -> UdpStreamReport {
        locked(&self.report).clone()
    }

    /// Stops, and reports.
    pub(super) fn stop(self) -> UdpStreamReport {
        self.stopped.store(true, Ordering::Relaxed);
        // A panicked sender has still filled the report.
        let _ = self.thread.join();
        locked(&self.report).clone()
    }
}

struct Sender {
    request: UdpStreamRequest,
    report: Arc<Mutex<UdpStreamReport>>,
}

impl Sender {
    fn run(&self, stop: &AtomicBool) {
        let mut socket = None;
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            // What a busy machine kept from being sent is not made up for.
            next = Instant::now().max(next + self.request.interval);
            socket = socket.or_else(|| self.open());
            if socket
                .as_ref()
                .is_some_and(|socket| !self.ask(socket, next))
            {
                socket = None;
            }
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    fn open(&self) -> Option<Socket> {
        let to = self.request.to;
        let any = SocketAddr::new(unspecified_like(to), 0);
        match open(any, self.request.connected.then_some(to)) {
            Ok(socket) => {
                locked(&self.report).opened += 1;
                Some(socket)
            }
            Err(error) => {
                self.note(Err(failure("connect", &error)));
                None
            }
        }
    }

    /// Sends a question, and hears answers until the next is due. Says whether the socket is still of use.
    fn ask(&self, socket: &Socket, next: Instant) -> bool {
        let to = self.request.to;
        let sent = if self.request.connected {
            socket.send(&question(0))
        } else {
            socket.send_to(&question(0), &to.into())
        };
        if let Err(error) = sent {
            self.note(Err(failure("send", &error)));
            return has_peer(&error);
        }
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if left < Duration::from_millis(1) {
                return true;
            }
            match hear(socket, left) {
                Ok(server) => {
                    locked(&self.report).answers += 1;
                    self.note(Ok(server));
                }
                Err((failure, _)) if failure.kind == FailureKind::TimedOut => return true,
                Err((failure, useful)) => {
                    self.note(Err(failure));
                    return useful;
                }
            }
        }
    }

    fn note(&self, what: Result<String, Failure>) {
        let mut report = locked(&self.report);
        if report.turns.last().is_none_or(|last| last.what != what) {
            let at = clock::now();
            report.turns.push(UdpTurn { at, what });
        }
    }
}

/// The name of the server that answers; or a failure, and whether the socket is still of use.
fn hear(socket: &Socket, patience: Duration) -> Result<String, (Failure, bool)> {
    let failed = |error: std::io::Error| (failure("read", &error), has_peer(&error));
    socket.set_read_timeout(Some(patience)).map_err(failed)?;
    let mut buffer = [0; 2048];
    let length = std::io::Read::read(&mut &*socket, &mut buffer).map_err(failed)?;
    let identity = parse(&buffer[..length]).map_err(|failure| (failure, true))?;
    Ok(identity.server)
}

/// Whether a connected socket may still have its peer after this error: an ICMP error takes nothing from it.
fn has_peer(error: &std::io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(libc::ECONNABORTED | libc::EDESTADDRREQ | libc::ENOTCONN)
    )
}
