//! The clock that all processes of the machine share, so that what happens in one can be timed by another.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since some moment before the machine's start (`CLOCK_MONOTONIC`).
pub fn now() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    now.map(Duration::from).expect("every Linux has this clock")
}
