//! What a test binary printed, in one line.

use std::fmt;

/// How a test that skips itself begins the line with its reason.
const SKIPPED: &str = "skipped: ";

/// The counts of a run, and what was not run.
#[derive(Debug, Default)]
pub struct Outcome {
    pub passed: usize,
    ignored: usize,
    /// Why a test skipped itself or is ignored, each reason once.
    pub skipped: Vec<String>,
}

impl Outcome {
    /// Reads what Rust's test harness prints.
    pub fn of(output: &[String]) -> Self {
        let mut outcome = Self::default();
        for line in output {
            if let Some(counts) = line.strip_prefix("test result: ") {
                outcome.passed += count(counts, "passed");
                outcome.ignored += count(counts, "ignored");
            } else if let Some(reason) = not_run(line)
                && !outcome.skipped.contains(&reason)
            {
                outcome.skipped.push(reason);
            }
        }
        outcome
    }
}

/// `5` of `ok. 5 passed; 0 failed; …` for `passed`.
fn count(counts: &str, what: &str) -> usize {
    counts
        .split([';', '.'])
        .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
        .unwrap_or(0)
}

/// The reason in a test's own line, or `x (why)` of the harness's `test x ... ignored, why`.
fn not_run(line: &str) -> Option<String> {
    if let Some(reason) = line.trim().strip_prefix(SKIPPED) {
        return Some(reason.to_owned());
    }
    let (test, reason) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    let reason = reason.strip_prefix(", ").unwrap_or("no reason given");
    Some(format!("{test} ({reason})"))
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tests", self.passed)?;
        if self.ignored > 0 {
            write!(f, ", {} ignored", self.ignored)?;
        }
        if self.skipped.len() > self.ignored {
            write!(f, ", some skipped")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_reasons_are_read() {
        let output = [
            "skipped: needs root",
            "skipped: needs root",
            "test slow ... ignored, takes a while",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.03s",
        ]
        .map(str::to_owned);
        let outcome = Outcome::of(&output);
        assert_eq!((outcome.passed, outcome.ignored), (12, 1));
        assert_eq!(outcome.skipped, ["needs root", "slow (takes a while)"]);
        assert_eq!(outcome.to_string(), "12 tests, 1 ignored, some skipped");
    }
}
