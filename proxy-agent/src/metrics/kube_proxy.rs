//! kube-proxy's metrics: its names, labels and buckets (`pkg/proxy/metrics` of v1.36).

use std::time::Duration;

use jiff::Timestamp;
use prometheus::{
    GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, exponential_buckets,
};
use proxy_common::addr::Family;

use super::{FAMILIES, Factory, family};

const FAMILY: &str = "ip_family";

/// A traffic policy that can leave a Service without endpoints here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// `internalTrafficPolicy`.
    Internal,
    /// `externalTrafficPolicy`.
    External,
}

impl Policy {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Internal, Self::External];

    const fn label(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
        }
    }
}

/// The metrics. One pass of the loop programs both families, so both labels count it.
#[derive(Debug)]
pub struct KubeProxy {
    sync_duration: HistogramVec,
    full_sync_duration: HistogramVec,
    partial_sync_duration: HistogramVec,
    last_sync: GaugeVec,
    last_queued: GaugeVec,
    network_programming: HistogramVec,
    no_local_endpoints: IntGaugeVec,
    /// Changes of slices that the agent received.
    pub endpoint_changes: IntCounter,
    /// Of these, those that the maps do not show yet.
    pub endpoint_changes_pending: IntGauge,
    /// Changes of Services that the agent received.
    pub service_changes: IntCounter,
    /// Of these, those that the maps do not show yet.
    pub service_changes_pending: IntGauge,
    healthz: IntCounterVec,
    livez: IntCounterVec,
}

impl KubeProxy {
    pub(super) fn new(factory: &Factory<'_>) -> prometheus::Result<Self> {
        let sync_buckets = exponential_buckets(0.001, 2.0, 15)?;
        let syncs = |name, help| factory.histograms(name, help, &[FAMILY], sync_buckets.clone());
        let metrics = Self {
            sync_duration: syncs(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "Duration of programming changes into the maps, in seconds.",
            )?,
            full_sync_duration: syncs(
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "Duration of programming all Services after the start, in seconds.",
            )?,
            partial_sync_duration: syncs(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "Duration of programming single Services, in seconds.",
            )?,
            last_sync: factory.times(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "Last time at which the maps were as planned, in seconds since 1970.",
                &[FAMILY],
            )?,
            last_queued: factory.times(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "Last time at which a change was queued for programming, in seconds since 1970.",
                &[FAMILY],
            )?,
            network_programming: factory.histograms(
                "kubeproxy_network_programming_duration_seconds",
                "Time from the change that triggered the update of endpoints (as annotated in the EndpointSlice) until the maps contain the update, in seconds.",
                &[FAMILY],
                network_programming_buckets(),
            )?,
            no_local_endpoints: factory.gauges(
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "Service ports that have a traffic policy of Local, and endpoints, but none on this node.",
                &["traffic_policy", FAMILY],
            )?,
            endpoint_changes: factory.counter(
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                "Changes of EndpointSlices that the agent received.",
            )?,
            endpoint_changes_pending: factory.gauge(
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "Changes of EndpointSlices that are not programmed yet.",
            )?,
            service_changes: factory.counter(
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "Changes of Services that the agent received.",
            )?,
            service_changes_pending: factory.gauge(
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "Changes of Services that are not programmed yet.",
            )?,
            healthz: factory.counters(
                "kubeproxy_proxy_healthz_total",
                "Responses of /healthz, by HTTP status.",
                &["code"],
            )?,
            livez: factory.counters(
                "kubeproxy_proxy_livez_total",
                "Responses of /livez, by HTTP status.",
                &["code"],
            )?,
        };
        metrics.show_all();
        Ok(metrics)
    }

    /// Shows events that have not happened yet as 0, instead of omitting them.
    fn show_all(&self) {
        for label in FAMILIES {
            for histogram in [
                &self.sync_duration,
                &self.full_sync_duration,
                &self.partial_sync_duration,
                &self.network_programming,
            ] {
                histogram.with_label_values(&[label]);
            }
            for gauge in [&self.last_sync, &self.last_queued] {
                gauge.with_label_values(&[label]);
            }
            for policy in Policy::ALL {
                self.no_local_endpoints
                    .with_label_values(&[policy.label(), label]);
            }
        }
        for code in [true, false] {
            self.healthz.with_label_values(&[status(code)]);
            self.livez.with_label_values(&[status(code)]);
        }
    }

    /// Something is to be programmed.
    pub fn queued(&self, time: Timestamp) {
        set_time(&self.last_queued, time);
    }

    /// The maps are as planned.
    pub fn synced(&self, time: Timestamp) {
        set_time(&self.last_sync, time);
        self.endpoint_changes_pending.set(0);
        self.service_changes_pending.set(0);
    }

    /// What changed, or everything, was handed to the maps.
    pub fn observe_sync(&self, full: bool, took: Duration) {
        let kind = if full {
            &self.full_sync_duration
        } else {
            &self.partial_sync_duration
        };
        for histogram in [&self.sync_duration, kind] {
            for label in FAMILIES {
                histogram
                    .with_label_values(&[label])
                    .observe(took.as_secs_f64());
            }
        }
    }

    /// A change of endpoints reached the maps.
    pub fn observe_network_programming(&self, of: Family, took: Duration) {
        self.network_programming
            .with_label_values(&[family(of)])
            .observe(took.as_secs_f64());
    }

    /// How many Service ports a policy leaves without endpoints here.
    pub fn set_no_local_endpoints(&self, policy: Policy, of: Family, count: usize) {
        self.no_local_endpoints
            .with_label_values(&[policy.label(), family(of)])
            .set(count.try_into().unwrap_or(i64::MAX));
    }

    /// `/healthz` was answered.
    pub fn answered_healthz(&self, ok: bool) {
        self.healthz.with_label_values(&[status(ok)]).inc();
    }

    /// `/livez` was answered.
    pub fn answered_livez(&self, ok: bool) {
        self.livez.with_label_values(&[status(ok)]).inc();
    }
}

const fn status(ok: bool) -> &'static str {
    if ok { "200" } else { "503" }
}

fn set_time(gauge: &GaugeVec, time: Timestamp) {
    for label in FAMILIES {
        gauge
            .with_label_values(&[label])
            .set(time.as_duration().as_secs_f64());
    }
}

/// 0.25 s, 0.5 s, every second up to a minute, every five up to two, every thirty up to five.
fn network_programming_buckets() -> Vec<f64> {
    let seconds = (1..60)
        .chain((60..120).step_by(5))
        .chain((120..=300).step_by(30));
    [0.25, 0.5]
        .into_iter()
        .chain(seconds.map(f64::from))
        .collect()
}
