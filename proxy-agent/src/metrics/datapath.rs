//! The counters of the datapath: the sums of `COUNTERS` over all CPUs (semantics P6), read for each scrape. They increase
//! even while no agent runs.

use std::sync::{Arc, OnceLock};

use prometheus::{
    core::{Collector, Desc},
    proto::{MetricFamily, MetricType},
};
use proxy_common::abi::counter::Counter;

use super::sample::Family;
use crate::{dataplane::sys::map::CounterMap, telemetry::chain};

const DROPS: Family = Family {
    name: "proxy_drops_total",
    help: "Packets that were dropped on purpose, and connects and sends of sockets that were denied.",
    kind: MetricType::COUNTER,
    label: Some("reason"),
};
const EVENTS: Family = Family {
    name: "proxy_datapath_events_total",
    help: "Other events that the datapath counts.",
    kind: MetricType::COUNTER,
    label: Some("event"),
};

/// The counters of the datapath; without a map, all are 0.
#[derive(Clone, Debug)]
pub struct Datapath {
    counters: Arc<OnceLock<CounterMap>>,
    descriptions: Vec<Desc>,
}

impl Datapath {
    pub(super) fn new() -> prometheus::Result<Self> {
        Ok(Self {
            counters: Arc::default(),
            descriptions: vec![DROPS.describe()?, EVENTS.describe()?],
        })
    }

    /// Where the counters are. The first call counts: there is one such map.
    pub fn watch(&self, counters: CounterMap) {
        self.counters.set(counters).ok();
    }
}

impl Collector for Datapath {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "all numbers are f64 in the text format"
    )]
    fn collect(&self) -> Vec<MetricFamily> {
        let mut drops = Vec::new();
        let mut events = Vec::new();
        for &counter in Counter::ALL {
            let map = self.counters.get();
            let value = match map.map_or(Ok(0), |map| map.sum(counter as u32)) {
                Ok(value) => value as f64,
                Err(error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "the counters of the datapath can't be read"
                    );
                    return Vec::new();
                }
            };
            match counter.drop_reason() {
                Some(reason) => drops.push((reason, value)),
                None => events.push((counter.label(), value)),
            }
        }
        vec![DROPS.of(drops), EVENTS.of(events)]
    }
}
