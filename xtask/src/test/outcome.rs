//! What a test binary printed, in one line.

use std::fmt;

/// How a test that skips itself begins the line with its reason.
const SKIPPED: &str = "skipped: ";

/// The counts of a run, and what skipped itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    passed: usize,
    ignored: usize,
    /// The reasons, each once.
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
            } else if let Some(reason) = line.trim().strip_prefix(SKIPPED)
                && !outcome.skipped.iter().any(|known| known == reason)
            {
                outcome.skipped.push(reason.to_owned());
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

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tests", self.passed)?;
        if self.ignored > 0 {
            write!(f, ", {} ignored", self.ignored)?;
        }
        if !self.skipped.is_empty() {
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
            "test result: ok. 12 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.03s",
        ]
        .map(str::to_owned);
        let outcome = Outcome::of(&output);
        assert_eq!(
            outcome,
            Outcome {
                passed: 12,
                ignored: 2,
                skipped: vec!["needs root".to_owned()]
            }
        );
        assert_eq!(outcome.to_string(), "12 tests, 2 ignored, some skipped");
    }
}
