//! Metrics that are read elsewhere when they are asked for.

use std::collections::HashMap;

use prometheus::{
    core::Desc,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

/// A family of metrics with one label, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: MetricType,
    pub label: Option<&'static str>,
}

impl Family {
    /// As the registry wants it.
    pub fn describe(&self) -> prometheus::Result<Desc> {
        let labels = self.label.iter().map(ToString::to_string).collect();
        Desc::new(
            self.name.to_owned(),
            self.help.to_owned(),
            labels,
            HashMap::new(),
        )
    }

    /// The family with these values; each with the value of the label, if it has one.
    pub fn of<'a>(&self, values: impl IntoIterator<Item = (&'a str, f64)>) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        let metrics = values
            .into_iter()
            .map(|(label, value)| self.sample(label, value));
        family.set_metric(metrics.collect());
        family
    }

    fn sample(&self, label: &str, value: f64) -> Metric {
        let pair = |name: &str| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(label.to_owned());
            pair
        };
        let mut metric = Metric::from_label(self.label.map(pair).into_iter().collect());
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    }
}
