//! The prober: a new attempt each interval, whatever became of the one before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{locked, spawn, tcp_client, udp_client};
use crate::protocol::{
    Exchange, FailureKind, ProbeReport, ProbeRequest, Protocol, TcpRequest, UdpRequest,
};

/// Failures that a report keeps.
const KEPT_FAILURES: usize = 1000;

/// A running prober.
pub(super) struct Probe {
    stopped: Arc<AtomicBool>,
    report: Arc<Mutex<ProbeReport>>,
    ticker: JoinHandle<()>,
}

impl Probe {
    /// Starts probing.
    pub(super) fn start(request: ProbeRequest) -> std::io::Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(ProbeReport::default()));
        let (stop, filling) = (Arc::clone(&stopped), Arc::clone(&report));
        let ticker = spawn(move || tick(&request, &stop, &filling))?;
        Ok(Self {
            stopped,
            report,
            ticker,
        })
    }

    /// What was seen so far.
    pub(super) fn report(&self) -> ProbeReport {
        locked(&self.report).clone()
    }

    /// Stops, waits for the attempts under way, and reports.
    pub(super) fn stop(self) -> ProbeReport {
        self.stopped.store(true, Ordering::Relaxed);
        // A panicked ticker has still filled the report.
        let _ = self.ticker.join();
        let report = locked(&self.report);
        report.clone()
    }
}

fn tick(request: &ProbeRequest, stop: &AtomicBool, report: &Arc<Mutex<ProbeReport>>) {
    let start = Instant::now();
    let mut next = start;
    let mut attempts: Vec<JoinHandle<()>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (request, report) = (request.clone(), Arc::clone(report));
        next += request.interval;
        let since = start.elapsed();
        // No thread to be had shows as an attempt that is missing, not as a failure of the network.
        attempts.extend(spawn(move || {
            for exchange in attempt(&request) {
                add(&mut locked(&report), since, exchange);
            }
        }));
        attempts.retain(|attempt| !attempt.is_finished());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    for attempt in attempts {
        // A panicked attempt is missing from the report.
        let _ = attempt.join();
    }
}

fn attempt(request: &ProbeRequest) -> Vec<Exchange> {
    match request.protocol {
        Protocol::Tcp => {
            tcp_client::exchanges(&TcpRequest::to(request.to).timeout(request.timeout))
        }
        Protocol::Udp => {
            udp_client::exchanges(&UdpRequest::to(request.to).timeout(request.timeout))
        }
    }
}

/// Counts an attempt that ended.
pub(super) fn add(report: &mut ProbeReport, since: Duration, exchange: Exchange) {
    report.attempts += 1;
    match exchange.outcome {
        Ok(identity) => {
            report.ok += 1;
            report.slowest = report.slowest.max(exchange.elapsed);
            *report.servers.entry(identity.server).or_default() += 1;
        }
        Err(failure) => {
            match failure.kind {
                FailureKind::Refused => report.refused += 1,
                FailureKind::TimedOut => report.timed_out += 1,
                _ => report.other += 1,
            }
            if report.failures.len() < KEPT_FAILURES {
                report.failures.push((since, failure));
            }
        }
    }
}
