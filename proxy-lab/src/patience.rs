//! Waiting for what must come to pass.

use std::thread;
use std::time::{Duration, Instant};

use crate::error::{LabError, Result};

/// Time between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// Polls until the answer is yes, and returns how long that took. `what` describes the condition in the
/// error.
pub fn eventually(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if ask()? {
            return Ok(start.elapsed());
        }
        if start.elapsed() > within {
            return Err(LabError::NotInTime {
                what: what.to_owned(),
                within,
            });
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_yes_counts_and_a_no_ends() {
        let mut asked = 0;
        let mut third = || {
            asked += 1;
            Ok(asked == 3)
        };
        eventually("the third question", Duration::from_secs(5), &mut third).expect("happens");
        let never = eventually("nothing", Duration::ZERO, || Ok(false));
        assert!(matches!(never, Err(LabError::NotInTime { .. })));
    }
}
