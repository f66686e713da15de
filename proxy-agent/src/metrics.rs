//! What the agent counts (semantics H3). Names that begin with `kubeproxy_` mean what they mean in kube-proxy; our own
//! begin with `proxy_`. All are described in docs/metrics.md, which a test compares with what is printed.
//!
//! All are atomic numbers: the agent's loop never waits for a scrape, nor a scrape for the loop.

mod attachments;
mod datapath;
mod kube_proxy;
mod own;
mod process;
mod sample;
mod source;

use prometheus::{
    Encoder as _, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};
use proxy_common::addr::Family;

pub use self::{
    attachments::Attachments,
    datapath::Datapath,
    kube_proxy::{KubeProxy, Policy},
    own::Own,
    process::Process,
    source::Source,
};

/// Values of the label `ip_family`.
pub const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

/// The value of the label `ip_family`.
pub const fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => FAMILIES[0],
        Family::V6 => FAMILIES[1],
    }
}

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Those of kube-proxy.
    pub kube_proxy: KubeProxy,
    /// Our own.
    pub own: Own,
    /// Programs and pins, compared with what should be.
    pub attachments: Attachments,
    /// What the datapath counts.
    pub datapath: Datapath,
    /// When the source of objects was heard.
    pub source: Source,
}

impl Metrics {
    /// The `Content-Type` of [`Metrics::text`].
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// All metrics, at zero; fails only if two have one name, or a name is none.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let factory = Factory(&registry);
        let (kube_proxy, own) = (KubeProxy::new(&factory)?, Own::new(&factory)?);
        let attachments = Attachments::new(&factory)?;
        let datapath = Datapath::new()?;
        registry.register(Box::new(datapath.clone()))?;
        registry.register(Box::new(Process::new()?))?;
        let source = Source::new()?;
        registry.register(Box::new(source.clone()))?;
        Ok(Self {
            registry,
            kube_proxy,
            own,
            attachments,
            datapath,
            source,
        })
    }

    /// Everything, in the text format 0.0.4 of Prometheus.
    pub fn text(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Makes metrics that are registered.
struct Factory<'a>(&'a Registry);

impl Factory<'_> {
    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> prometheus::Result<C> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::new(name, help)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn times(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.register(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(buckets);
        self.register(HistogramVec::new(options, labels)?)
    }
}

#[cfg(test)]
mod tests;
