//! A balancer with its clients: nodes are asked whether they take connections, and those that do get them in turns.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::probe::add;
use super::{failed, locked, spawn, tcp_client};
use crate::http;
use crate::protocol::{BalanceReport, BalanceRequest, TcpRequest};

/// Clients that connect side by side: one that waits holds up none of the others.
const CLIENTS: u32 = 32;
/// When a SYN that was lost is sent again (RFC 6298 §2.1).
const RETRANSMISSION: Duration = Duration::from_secs(1);

/// A running balancer.
pub(super) struct Balancer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    request: BalanceRequest,
    start: Instant,
    stopped: AtomicBool,
    /// Which nodes take connections.
    taking: Vec<AtomicBool>,
    turn: AtomicUsize,
    report: Mutex<BalanceReport>,
}

impl Balancer {
    /// Asks every node once, then starts.
    pub(super) fn start(request: BalanceRequest) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            taking: request
                .nodes
                .iter()
                .map(|_| AtomicBool::new(false))
                .collect(),
            start: Instant::now(),
            stopped: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            report: Mutex::default(),
            request,
        });
        let mut threads = Vec::new();
        for node in 0..shared.request.nodes.len() {
            shared.check(node);
            let checking = Arc::clone(&shared);
            threads.push(spawn(move || {
                while !checking.is_stopped() {
                    thread::sleep(checking.request.check_interval);
                    checking.check(node);
                }
            })?);
        }
        for client in 0..CLIENTS {
            let connecting = Arc::clone(&shared);
            threads.push(spawn(move || connecting.connect(client))?);
        }
        Ok(Self { shared, threads })
    }

    /// What was seen so far.
    pub(super) fn report(&self) -> BalanceReport {
        locked(&self.shared.report).clone()
    }

    /// Stops, waits for pending connections, and reports.
    pub(super) fn stop(self) -> BalanceReport {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // What a panicked thread has seen is in the report.
            let _ = thread.join();
        }
        locked(&self.shared.report).clone()
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn check(&self, node: usize) {
        let answer = http::get(self.request.nodes[node].check, "/healthz");
        let takes = answer.is_ok_and(|answer| answer.status == 200);
        if self.taking[node].swap(takes, Ordering::Relaxed) != takes {
            let turn = (self.start.elapsed(), node, takes);
            locked(&self.report).turns.push(turn);
        }
    }

    /// One client's share of the connections. A client that was held up leaves out what it has missed.
    fn connect(&self, client: u32) {
        let interval = Duration::from_secs(1) / self.request.rate.max(1);
        let mut next = self.start + interval * client;
        while !self.is_stopped() {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next = Instant::now().max(next + interval * CLIENTS);
            let since = self.start.elapsed();
            let exchange = match self.next_node() {
                Some(node) => {
                    let to = self.request.nodes[node].to;
                    let request = TcpRequest::to(to).timeout(self.request.timeout);
                    tcp_client::one(&request).1
                }
                None => failed(
                    "balance",
                    &std::io::Error::other("no node takes connections"),
                    Duration::ZERO,
                ),
            };
            let mut report = locked(&self.report);
            report.late +=
                u64::from(exchange.outcome.is_ok() && exchange.elapsed >= RETRANSMISSION);
            add(&mut report.connections, since, exchange);
        }
    }

    fn next_node(&self) -> Option<usize> {
        let nodes = self.taking.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        (0..nodes)
            .map(|more| (first + more) % nodes)
            .find(|node| self.taking[*node].load(Ordering::Relaxed))
    }
}
