//! Delays the next change of an expensive Service. So a Service that is expensive and changes all the time leaves most of
//! the loop's time to other Services. Changes during the delay are handled together.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::plan::{ServiceName, ServicePlan};

/// The rest of a Service per backend. Planning and programming a backend takes about 4 µs, so a single Service takes at
/// most about a fifth of the loop's time.
const FOR_EACH_BACKEND: Duration = Duration::from_micros(20);

/// A Service with fewer backends than this never rests.
const FEW_BACKENDS: usize = 500;

/// The Services that rest.
#[derive(Debug, Default)]
pub struct Pace {
    until: BTreeMap<ServiceName, Instant>,
}

impl Pace {
    /// Records that changes of Services, with these numbers of backends, were programmed now.
    pub fn note(&mut self, changes: impl IntoIterator<Item = (ServiceName, usize)>, now: Instant) {
        self.until.retain(|_, until| *until > now);
        for (service, backends) in changes {
            if backends >= FEW_BACKENDS {
                let factor = u32::try_from(backends).unwrap_or(u32::MAX);
                let rest = FOR_EACH_BACKEND.saturating_mul(factor);
                self.until.insert(service, now + rest);
            }
        }
    }

    /// Whether a Service rests.
    pub fn rests(&self, service: &ServiceName, now: Instant) -> bool {
        self.until.get(service).is_some_and(|until| *until > now)
    }

    /// When the next rest ends.
    pub fn next(&self) -> Option<Instant> {
        self.until.values().min().copied()
    }
}

/// The backends of all lists of a plan.
pub fn backends(plan: &ServicePlan) -> usize {
    let listed = plan.targets.values().map(|target| target.backends.len());
    let others = plan.draining.values().chain(plan.not_serving.values());
    listed.sum::<usize>() + others.map(Vec::len).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName {
            namespace: "default".into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_service_rests_as_long_as_it_is_expensive() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let after = |millis| start + Duration::from_millis(millis);
        let sizes = [("small", 100), ("big", 8_000), ("huge", 500_000)];
        pace.note(sizes.map(|(service, n)| (name(service), n)), start);
        assert!(!pace.rests(&name("small"), start));
        assert!(pace.rests(&name("big"), after(159)) && !pace.rests(&name("big"), after(160)));
        assert!(pace.rests(&name("huge"), after(9_999)));
        assert_eq!(pace.next(), Some(after(160)));
        pace.note([], after(200));
        assert_eq!(pace.next(), Some(after(10_000)));
        pace.note([], after(10_000));
        assert_eq!(pace.next(), None);
    }
}
