//! Programs and pins: the findings of the comparison with the kernel.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};

use super::Factory;
use crate::dataplane::audit::{Findings, Kind};

/// The metrics.
#[derive(Debug)]
pub struct Attachments {
    repaired: IntCounterVec,
    missing: IntGaugeVec,
    displaced: IntGauge,
}

impl Attachments {
    pub(super) fn new(factory: &Factory<'_>) -> prometheus::Result<Self> {
        let metrics = Self {
            repaired: factory.counters(
                "proxy_attachments_repaired_total",
                "Repairs of programs and pins that another process removed or changed.",
                &["kind"],
            )?,
            missing: factory.gauges(
                "proxy_attachments_missing",
                "Programs and pins that the agent could not attach, pin or remove at the last attempt.",
                &["kind"],
            )?,
            displaced: factory.gauge(
                "proxy_attachments_displaced",
                "Devices on which another component's tcx program runs before ours at ingress or after ours at egress.",
            )?,
        };
        metrics.set(&Findings::default());
        Ok(metrics)
    }

    /// The latest findings.
    pub fn set(&self, findings: &Findings) {
        for kind in Kind::ALL {
            let label = [kind.label()];
            let repairs = findings.repairs.iter().filter(|repair| repair.kind == kind);
            self.repaired
                .with_label_values(&label)
                .inc_by(repairs.count() as u64);
            let failures = findings.failures.iter();
            let failures = failures.filter(|failure| failure.kind == kind).count();
            self.missing
                .with_label_values(&label)
                .set(failures.try_into().unwrap_or(i64::MAX));
        }
        let displaced = findings.displaced.len();
        self.displaced.set(displaced.try_into().unwrap_or(i64::MAX));
    }
}
