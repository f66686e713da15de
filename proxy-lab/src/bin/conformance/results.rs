//! What a run came to, and its form as a JSON file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use proxy_lab::{LabError, Result};
use serde::{Deserialize, Serialize};

use crate::differences;
use crate::subject::Subject;

/// A case with a subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub case: String,
    pub subject: Subject,
    pub verdict: Verdict,
    pub took: Duration,
    /// What the first attempt saw, where it is the second that passes.
    #[serde(default)]
    pub first: Option<String>,
}

/// What it came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", content = "why", rename_all = "kebab-case")]
pub enum Verdict {
    /// The rule shows.
    Passes,
    /// It does not.
    Differs(String),
    /// The subject could not be asked.
    NotApplicable(String),
    /// The lab or the control plane failed.
    Unknown(String),
}

/// A run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// The kernel's version.
    pub kernel: String,
    /// The API server's version.
    pub kubernetes: String,
    /// How long each subject took.
    pub times: BTreeMap<Subject, Duration>,
    /// By subject and in the order of the cases.
    pub rows: Vec<Row>,
    /// All of it, with the lab's and the control plane's start.
    pub took: Duration,
}

impl Row {
    /// An unlisted difference, or a case that could not be judged.
    pub fn is_unexplained(&self) -> bool {
        match self.verdict {
            Verdict::Differs(_) => differences::reason(&self.case, self.subject).is_none(),
            Verdict::Unknown(_) => true,
            Verdict::Passes | Verdict::NotApplicable(_) => false,
        }
    }

    /// No difference, although the list says that it always occurs.
    pub fn is_stale(&self) -> bool {
        self.verdict == Verdict::Passes && differences::is_certain(&self.case, self.subject)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mark, why) = match &self.verdict {
            Verdict::Passes if self.is_stale() => ("✗", "passes, and a line says that it differs"),
            Verdict::Passes => ("✓", ""),
            Verdict::Differs(why) if self.is_unexplained() => ("✗", why.as_str()),
            Verdict::Differs(why) => ("≠", why.as_str()),
            Verdict::NotApplicable(why) => ("–", why.as_str()),
            Verdict::Unknown(why) => ("?", why.as_str()),
        };
        let seconds = self.took.as_secs_f64();
        write!(
            f,
            "  {mark} {:8} {:5.1} s  {}",
            self.subject.name(),
            seconds,
            self.case
        )?;
        if why.is_empty() {
            Ok(())
        } else {
            write!(f, ": {why}")
        }
    }
}

impl Results {
    /// Whether nothing has to be explained or forgotten.
    pub fn are_good(&self) -> bool {
        !self
            .rows
            .iter()
            .any(|row| row.is_unexplained() || row.is_stale())
    }

    /// In a line for each subject.
    pub fn summary(&self) -> String {
        let judged = Subject::ALL
            .into_iter()
            .filter(|&subject| self.by(subject).next().is_some());
        let line = |subject: Subject| {
            let [mut passes, mut explained, mut failed, mut not_applicable] = [0; 4];
            for row in self.by(subject) {
                *match row.verdict {
                    _ if row.is_unexplained() || row.is_stale() => &mut failed,
                    Verdict::Passes => &mut passes,
                    Verdict::Differs(_) | Verdict::Unknown(_) => &mut explained,
                    Verdict::NotApplicable(_) => &mut not_applicable,
                } += 1;
            }
            format!(
                "{:22} {passes:3} pass, {explained} differ with a reason, {not_applicable} do not apply, {failed} FAIL\n",
                subject.title()
            )
        };
        let lines: String = judged.map(line).collect();
        format!("{lines}in {:.0?}", self.took)
    }

    /// What came of a subject.
    pub fn by(&self, subject: Subject) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.subject == subject)
    }

    /// What a case came to with a subject.
    pub fn of(&self, case: &str, subject: Subject) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.case == case && row.subject == subject)
    }

    /// Takes from an earlier run what this one has not.
    pub fn complete_with(&mut self, earlier: Self) {
        for (subject, took) in earlier.times {
            *self.times.entry(subject).or_default() += took;
        }
        for row in earlier.rows {
            if self.of(&row.case, row.subject).is_none() {
                self.rows.push(row);
            }
        }
        self.took += earlier.took;
    }

    /// From a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(LabError::file("reading", path))?;
        serde_json::from_str(&text).map_err(|error| LabError::file("reading", path)(error.into()))
    }

    /// To a file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|error| LabError::file("writing", path)(error.into()))?;
        std::fs::write(path, text).map_err(LabError::file("writing", path))
    }
}
