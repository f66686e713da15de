//! What libraries warn of, by thread.

use std::{cell::RefCell, sync::Once};

use log::{Level, LevelFilter, Log, Metadata, Record};

thread_local! {
    static SEEN: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

struct Collector;

impl Log for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        SEEN.with_borrow_mut(|seen| {
            if let Some(seen) = seen
                && self.enabled(record.metadata())
            {
                seen.push(format!("{}: {}", record.target(), record.args()));
            }
        });
    }

    fn flush(&self) {}
}

/// From now on, warnings of this thread are kept.
pub fn begin() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Collector).expect("no other logger");
        log::set_max_level(LevelFilter::Warn);
    });
    SEEN.set(Some(Vec::new()));
}

/// What was kept since.
pub fn end() -> Vec<String> {
    SEEN.take().unwrap_or_default()
}
