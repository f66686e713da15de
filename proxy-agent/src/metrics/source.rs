//! When the source of objects was last heard, read when it is asked for.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use jiff::Timestamp;
use prometheus::{
    GaugeVec, IntCounterVec, IntGauge, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::source::{kube::KINDS, pulse::Pulse};

/// The source's metrics; without a source, it has never been heard.
#[derive(Clone, Debug)]
pub struct Source {
    pulse: Arc<OnceLock<Arc<Pulse>>>,
    synced: IntGauge,
    contact: GaugeVec,
    age: GaugeVec,
    restarts: IntCounterVec,
}

impl Source {
    pub(super) fn new() -> prometheus::Result<Self> {
        let gauges = |name: &str, help: &str| GaugeVec::new(Opts::new(name, help), &["kind"]);
        let source = Self {
            pulse: Arc::default(),
            synced: IntGauge::new(
                "proxy_source_synced",
                "1 while all objects are known, and the source was heard in the last three minutes.",
            )?,
            contact: gauges(
                "proxy_source_last_contact_timestamp_seconds",
                "When the source last said something about a kind of objects, be it that nothing changed.",
            )?,
            age: gauges(
                "proxy_source_last_contact_age_seconds",
                "How long ago that was; since the start, if it never was.",
            )?,
            restarts: IntCounterVec::new(
                Opts::new(
                    "proxy_source_restarts_total",
                    "Lists and watches that ended and were begun again.",
                ),
                &["kind", "reason"],
            )?,
        };
        source.show(&Pulse::new(&KINDS));
        Ok(source)
    }

    /// The source. The first call counts: there is one.
    pub fn watch(&self, pulse: Arc<Pulse>) {
        if self.pulse.set(pulse).is_ok() {
            self.contact.reset();
            self.age.reset();
            self.restarts.reset();
        }
    }

    fn show(&self, pulse: &Pulse) {
        let (now, time) = (Instant::now(), Timestamp::now().as_duration().as_secs_f64());
        self.synced.set(pulse.is_current(now).into());
        for (kind, age) in pulse.ages(now) {
            let at = age.map_or(0.0, |age| time - age.as_secs_f64());
            self.contact.with_label_values(&[kind]).set(at);
            let age = age.unwrap_or_else(|| pulse.running(now));
            self.age.with_label_values(&[kind]).set(age.as_secs_f64());
        }
        for (kind, why, count) in pulse.restarts() {
            let counter = self.restarts.with_label_values(&[kind, why.label()]);
            super::own::raise(&counter, count);
        }
    }
}

impl Collector for Source {
    fn desc(&self) -> Vec<&Desc> {
        let (synced, contact) = (self.synced.desc(), self.contact.desc());
        let rest = self.age.desc().into_iter().chain(self.restarts.desc());
        synced.into_iter().chain(contact).chain(rest).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(pulse) = self.pulse.get() {
            self.show(pulse);
        }
        let (synced, contact) = (self.synced.collect(), self.contact.collect());
        let rest = self
            .age
            .collect()
            .into_iter()
            .chain(self.restarts.collect());
        synced.into_iter().chain(contact).chain(rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::pulse::Restart;

    #[test]
    fn what_the_source_last_said_is_shown() {
        let source = Source::new().unwrap();
        let synced = |source: &Source| {
            source.collect();
            source.synced.get()
        };
        assert_eq!(synced(&source), 0);
        let pulse = Arc::new(Pulse::new(&["a"]));
        source.watch(Arc::clone(&pulse));
        assert_eq!(synced(&source), 0);
        pulse.listed("a");
        pulse.heard("a", Instant::now());
        pulse.restarted("a", Restart::Gone);
        assert_eq!(synced(&source), 1);
        assert!(source.contact.with_label_values(&["a"]).get() > 1e9);
        assert!(source.age.with_label_values(&["a"]).get() < 60.0);
        let gone = source.restarts.with_label_values(&["a", "gone"]);
        assert_eq!(gone.get(), 1);
    }
}
