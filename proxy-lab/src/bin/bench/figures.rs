//! Numbers as they are printed.

use std::time::Duration;

/// Durations of one thing done many times.
pub struct Times(Vec<Duration>);

impl Times {
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The smallest time that this share of all, in percent, does not exceed (nearest rank).
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    pub fn most(&self) -> Duration {
        self.percentile(100)
    }
}

pub fn milliseconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1000.0)
}

/// Bytes as MB.
#[expect(clippy::cast_precision_loss, reason = "megabytes without a digit")]
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The processor time that a process's threads have used.
pub fn cpu_time(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let used = threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| {
            // sched(7): time on the processor in ns, time in wait, time slices.
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
    Duration::from_nanos(used.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let times = Times::new((1..=200).map(Duration::from_millis).collect());
        assert_eq!(times.percentile(50), Duration::from_millis(100));
        assert_eq!(times.percentile(99), Duration::from_millis(198));
        assert_eq!(times.most(), Duration::from_millis(200));
        assert_eq!(milliseconds(times.percentile(1)), "2.0");
    }
}
