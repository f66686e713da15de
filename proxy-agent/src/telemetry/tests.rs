//! The log's output for any input.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use super::*;

/// Collects the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log lines of `say`.
fn logged(json: bool, say: impl FnOnce()) -> String {
    let log = Log::default();
    let writer = log.clone();
    let dispatch = dispatch(EnvFilter::new("trace"), json, move || writer.clone());
    tracing::dispatcher::with_default(&dispatch, say);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// Malicious names.
const HOSTILE: &str = "web\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}31m\u{202e}\u{7f}\0";

fn say_all(text: &str) {
    tracing::warn!("of {text}");
    tracing::warn!(text, "a string");
    tracing::warn!(object = %text, "displayed");
    tracing::warn!(object = ?text, "debugged");
    let error = io::Error::other(text.to_owned());
    tracing::warn!(error = &error as &dyn std::error::Error, "an error");
    let span = tracing::info_span!("span", text);
    span.in_scope(|| tracing::warn!("in a span"));
}

#[test]
fn no_text_forges_a_line_or_reaches_the_terminal() {
    for json in [false, true] {
        let log = logged(json, || say_all(HOSTILE));
        assert_eq!(log.lines().count(), 6, "{log:?}");
        let unsafe_ones = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!log.contains(unsafe_ones), "{log:?}");
        assert!(log.lines().all(|line| line.contains("forged")), "{log:?}");
    }
}

#[test]
fn no_text_makes_a_long_line() {
    let text = "\u{1b}".repeat(250_000);
    for json in [false, true] {
        let log = logged(json, || say_all(&text));
        for line in log.lines() {
            assert!(line.len() < 3 * LONGEST, "{}", line.len());
            assert!(line.contains("bytes left out"), "{line}");
            if json {
                serde_json::from_str::<serde_json::Value>(line).unwrap();
            }
        }
    }
}

#[test]
fn lines_in_order_are_as_they_were() {
    let log = logged(false, || {
        tracing::info!(node = "w1", count = 3, object = %"Service default/web", "said");
    });
    assert!(
        log.ends_with("INFO said node=\"w1\" count=3 object=Service default/web\n"),
        "{log:?}"
    );
    let log = logged(true, || tracing::info!(count = 3, "größe"));
    let value: serde_json::Value = serde_json::from_str(&log).unwrap();
    assert_eq!(
        value["fields"],
        serde_json::json!({"message": "größe", "count": 3})
    );
    assert_eq!(value["level"], "INFO");
}
