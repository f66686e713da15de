//! How long a backend is new: a duration, in the annotation of a Service and in the flag.

use k8s_openapi::jiff::SignedDuration;

/// The longest there is: what the maps have room for is a bit more.
const LONGEST: u16 = 18 * 60 * 60;

/// Not such a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration of whole seconds up to 18h (30s, 2m; 0s: none)")]
pub struct SlowStartError(String);

/// Seconds; 0: a backend is never new.
pub fn seconds(text: &str) -> Result<u16, SlowStartError> {
    let duration = text.trim().parse::<SignedDuration>().ok();
    duration
        .filter(|duration| duration.subsec_nanos() == 0)
        .and_then(|duration| u16::try_from(duration.as_secs()).ok())
        .filter(|seconds| *seconds <= LONGEST)
        .ok_or_else(|| SlowStartError(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_slow_start_is_a_duration_of_whole_seconds_or_none() {
        for (text, expected) in [
            ("30s", 30),
            (" 2m ", 120),
            ("1m30s", 90),
            ("18h", LONGEST),
            ("0s", 0),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text:?}");
        }
        for text in [
            "",
            "30",
            "soon",
            "-30s",
            "1.5s",
            "500ms",
            "18h1s",
            "30s-1s",
            "1e400s",
            "s",
            "99999999999999999999h",
        ] {
            assert_eq!(seconds(text), Err(SlowStartError(text.to_owned())));
        }
    }
}
