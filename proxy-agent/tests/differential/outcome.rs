//! What a run has met.

use std::{collections::BTreeMap, fmt};

use proxy_common::{abi::counter::Counter, datapath::Verdict};

/// What was seen of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    verdicts: BTreeMap<&'static str, u64>,
    programs: BTreeMap<&'static str, u64>,
    counters: Vec<(Counter, u64)>,
    summed: u64,
    /// Fragments without a transport header that were translated all the same.
    pub later_fragments: u64,
    /// Frames that the kernel takes for no test run.
    unrunnable: u64,
}

impl Outcome {
    /// Notes a frame that became the same on both sides.
    pub fn saw(&mut self, verdict: Verdict, program: &'static str, summed: bool) {
        let kind = match verdict {
            Verdict::Pass => "pass",
            Verdict::Continue => "continue",
            Verdict::Masquerade => "masquerade",
            Verdict::Forward { .. } => "forward",
            Verdict::Bounce => "bounce",
            Verdict::Send { .. } => "send",
            Verdict::Drop(_) => "drop",
        };
        *self.verdicts.entry(kind).or_default() += 1;
        *self.programs.entry(program).or_default() += 1;
        self.summed += u64::from(summed);
    }

    /// Notes a frame that the kernel took for no test run.
    pub const fn saw_refused(&mut self) {
        self.unrunnable += 1;
    }

    /// With the counters at the end.
    pub fn with(mut self, counters: Vec<(Counter, u64)>) -> Self {
        self.counters = counters;
        self
    }

    /// Frames that both sides saw.
    pub fn frames(&self) -> u64 {
        self.verdicts.values().sum()
    }

    /// How often an event was counted, on either side.
    pub fn counted(&self, counter: Counter) -> u64 {
        let found = self.counters.iter().find(|(c, _)| *c == counter);
        found.map_or(0, |(_, n)| *n)
    }

    /// Whether every verdict and every program had its share of the frames.
    pub fn is_varied(&self, frames: u64) -> bool {
        let share = |all: &BTreeMap<_, u64>, kinds| {
            all.len() == kinds && all.values().all(|&n| n >= frames / 1000)
        };
        share(&self.verdicts, 7) && share(&self.programs, 6)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = self.counters.iter();
        let counters: Vec<_> = counters
            .map(|(c, n)| format!("{} {n}", c.label()))
            .collect();
        write!(
            f,
            "{} frames, verdicts {:?}; programs {:?}; with CHECKSUM_COMPLETE {}; later fragments translated {}; refused by the test run {}; counters: {}",
            self.frames(),
            self.verdicts,
            self.programs,
            self.summed,
            self.later_fragments,
            self.unrunnable,
            counters.join(", ")
        )
    }
}
