//! The agent's own process, under the names that every Prometheus client library gives them.

use std::fs;

use jiff::Timestamp;
use nix::sys::resource::{UsageWho, getrusage};
use prometheus::{
    core::{Collector, Desc},
    proto::{MetricFamily, MetricType},
};

use super::sample::Family;
use crate::descriptors;

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        help,
        kind: MetricType::GAUGE,
        label: None,
    }
}

const CPU: Family = Family {
    kind: MetricType::COUNTER,
    ..gauge(
        "process_cpu_seconds_total",
        "CPU time, user and system, in seconds.",
    )
};
const RESIDENT: Family = gauge("process_resident_memory_bytes", "Resident memory in bytes.");
const VIRTUAL: Family = gauge("process_virtual_memory_bytes", "Virtual memory in bytes.");
const THREADS: Family = gauge("process_threads", "Threads.");
const FILES: Family = gauge("process_open_fds", "Open file descriptors.");
const MOST_FILES: Family = gauge("process_max_fds", "Limit of open file descriptors.");
const STARTED: Family = gauge(
    "process_start_time_seconds",
    "Start time of the process, in seconds since 1970.",
);

/// Reads `getrusage` and `/proc/self` for each scrape. Omits values that can't be read.
#[derive(Clone, Debug)]
pub struct Process {
    started: Timestamp,
    descriptions: Vec<Desc>,
}

impl Process {
    pub(super) fn new() -> prometheus::Result<Self> {
        let families = [CPU, RESIDENT, VIRTUAL, THREADS, FILES, MOST_FILES, STARTED];
        let descriptions = families.iter().map(Family::describe);
        Ok(Self {
            started: Timestamp::now(),
            descriptions: descriptions.collect::<prometheus::Result<_>>()?,
        })
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let values = [
            (CPU, cpu_seconds()),
            (RESIDENT, field(&status, "VmRSS:").map(bytes)),
            (VIRTUAL, field(&status, "VmSize:").map(bytes)),
            (THREADS, field(&status, "Threads:")),
            (FILES, open_files()),
            (
                MOST_FILES,
                u32::try_from(descriptors::limit()).ok().map(f64::from),
            ),
            (STARTED, Some(self.started.as_duration().as_secs_f64())),
        ];
        let known = values
            .iter()
            .filter_map(|(family, value)| Some(family.of([("", (*value)?)])));
        known.collect()
    }
}

fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "all numbers are f64 in the text format"
    )]
    let seconds = [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
        .sum();
    Some(seconds)
}

/// The number in a line of `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn bytes(kibibytes: f64) -> f64 {
    kibibytes * 1024.0
}

fn open_files() -> Option<f64> {
    // One of them is the folder's own.
    let count = fs::read_dir("/proc/self/fd")
        .ok()?
        .count()
        .saturating_sub(1);
    u32::try_from(count).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_measured() {
        let process = Process::new().unwrap();
        let families = process.collect();
        assert_eq!(families.len(), process.desc().len());
        for family in &families {
            let metric = &family.get_metric()[0];
            let value = if family.get_field_type() == MetricType::COUNTER {
                metric.get_counter().get_value()
            } else {
                metric.get_gauge().get_value()
            };
            assert!(value > 0.0, "{}", family.name());
        }
    }

    #[test]
    fn a_line_that_is_missing_is_no_number() {
        assert_eq!(field("VmRSS:\t  42 kB\n", "VmRSS:"), Some(42.0));
        assert_eq!(field("VmRSS:\t  42 kB\n", "VmSize:"), None);
    }
}
