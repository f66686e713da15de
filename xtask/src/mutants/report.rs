//! The parts of the conformance suite's JSON report that we read.

use std::{fmt, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// The results of a run.
#[derive(Debug, Deserialize)]
pub struct Report {
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    case: String,
    subject: String,
    verdict: Verdict,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "verdict", content = "why", rename_all = "kebab-case")]
enum Verdict {
    Passes,
    Differs(String),
    NotApplicable(String),
    Unknown(String),
}

/// A case that did not pass, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// The case, with its subject.
    pub case: String,
    /// In the case's words.
    pub why: &'a str,
}

impl Report {
    /// Reads the file that `conformance --report` writes.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file)
            .with_context(|| format!("could not read {}", file.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is no report of the suite", file.display()))
    }

    /// The cases in which the agent deviates from the rule.
    pub fn differ(&self) -> impl Iterator<Item = Failure<'_>> {
        self.rows.iter().filter_map(|row| match &row.verdict {
            Verdict::Differs(why) => Some(row.failure(why)),
            _ => None,
        })
    }

    /// The cases that came to nothing: the lab or the control plane failed.
    pub fn unknown(&self) -> impl Iterator<Item = Failure<'_>> {
        self.rows.iter().filter_map(|row| match &row.verdict {
            Verdict::Unknown(why) => Some(row.failure(why)),
            _ => None,
        })
    }

    /// The cases that passed, by parts of their names, with one of these subjects.
    pub fn passed(&self, patterns: &[String], subjects: &[String]) -> Vec<String> {
        let rows = self.rows.iter().filter(|row| {
            row.verdict == Verdict::Passes
                && subjects.contains(&row.subject)
                && patterns.iter().any(|pattern| row.case.contains(pattern))
        });
        rows.map(Row::name).collect()
    }
}

impl Row {
    fn name(&self) -> String {
        format!("{} ({})", self.case, self.subject)
    }

    fn failure<'a>(&self, why: &'a str) -> Failure<'a> {
        let case = self.name();
        Failure { case, why }
    }
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_apart_by_case_and_subject() {
        let text = r#"{"kernel": "6", "took": 3, "rows": [
            {"case": "hints", "subject": "sockets", "verdict": {"verdict": "passes"}, "took": {"secs": 1, "nanos": 0}},
            {"case": "hints", "subject": "packets", "verdict": {"verdict": "differs", "why": "no"}},
            {"case": "other", "subject": "sockets", "verdict": {"verdict": "not-applicable", "why": "no SCTP"}},
            {"case": "pods", "subject": "sockets", "verdict": {"verdict": "unknown", "why": "no pod runs"}}
        ]}"#;
        let report: Report = serde_json::from_str(text).expect("is a report");
        let differ: Vec<_> = report.differ().map(|failure| failure.to_string()).collect();
        assert_eq!(differ, ["hints (packets): no"]);
        let unknown: Vec<_> = report
            .unknown()
            .map(|failure| failure.to_string())
            .collect();
        assert_eq!(unknown, ["pods (sockets): no pod runs"]);
        let words = |words: &[&str]| {
            words
                .iter()
                .map(|&word| word.to_owned())
                .collect::<Vec<_>>()
        };
        let passed =
            |cases: &[&str], subjects: &[&str]| report.passed(&words(cases), &words(subjects));
        assert_eq!(
            passed(&["int", "oth"], &["sockets", "packets"]),
            ["hints (sockets)"]
        );
        assert!(passed(&["hints"], &["packets"]).is_empty());
        assert!(passed(&["other"], &["sockets"]).is_empty());
    }
}
