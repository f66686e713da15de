//! A case: a rule of a Service, and how it shows in traffic.

use proxy_lab::LabError;

use crate::ground::Ground;

/// What a case comes to.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Why a case does not pass.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The subject does something else.
    #[error("{0}")]
    Differs(String),
    /// The case does not apply to the subject.
    #[error("{0}")]
    NotApplicable(String),
    /// The lab, or the control plane, could not do its part: nothing is known of the subject.
    #[error("{}", .0.chain())]
    Lab(#[from] LabError),
}

impl Failure {
    /// A difference, in words.
    pub fn differs(what: impl Into<String>) -> Self {
        Self::Differs(what.into())
    }

    /// Replaces the description of a difference by a more detailed one. Leaves other outcomes as they
    /// are.
    #[must_use]
    pub fn in_words(self, words: impl FnOnce() -> String) -> Self {
        match self {
            Self::Differs(_) => Self::Differs(words()),
            other => other,
        }
    }
}

/// A difference in these words, unless it is as it should be.
pub fn ensure(is_so: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if is_so {
        Ok(())
    } else {
        Err(Failure::Differs(otherwise()))
    }
}

/// A case of the suite.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The rule that it shows.
    pub rule: &'static str,
    /// Its name, unique, for people and for `--cases`.
    pub name: &'static str,
    /// The tests of Kubernetes' own end-to-end suite that the case covers, see [`crate::upstream`].
    pub upstream: &'static [&'static str],
    /// It disturbs what other cases stand on, and runs alone.
    pub exclusive: bool,
    /// Shows it.
    pub run: fn(&Ground<'_>) -> Outcome,
}

impl Case {
    /// A case that may run beside others.
    pub const fn new(
        rule: &'static str,
        name: &'static str,
        upstream: &'static [&'static str],
        run: fn(&Ground<'_>) -> Outcome,
    ) -> Self {
        Self {
            rule,
            name,
            upstream,
            exclusive: false,
            run,
        }
    }

    /// The same, alone.
    #[must_use]
    pub const fn alone(self) -> Self {
        Self {
            exclusive: true,
            ..self
        }
    }
}
