//! If a lab cannot be built, tests print the reason and end.

use crate::cgroup;
use crate::error::LabError;

/// Why a lab cannot be built here, if so: tests that get `Some` print it and end.
pub fn skip_reason() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some(LabError::NotRoot.to_string());
    }
    cgroup::root().err().map(|error| error.to_string())
}

/// Says whether a test must end because no lab can be built here, and prints why.
pub fn skipped() -> bool {
    let reason = skip_reason();
    if let Some(reason) = &reason {
        eprintln!("skipped: {reason}");
    }
    reason.is_some()
}
