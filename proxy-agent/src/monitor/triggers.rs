//! From what made endpoints change to the maps: the network programming latency
//! (<https://github.com/kubernetes/community/blob/master/sig-scalability/slos/network_programming_latency.md>).

use std::collections::BTreeMap;

use jiff::Timestamp;
use proxy_common::addr::Family;

use crate::{plan::ServiceName, planner::Trigger};

/// Changes that the maps do not show yet.
#[derive(Debug)]
pub(super) struct Triggers {
    /// What happened before, nobody waited for here. In nanoseconds since 1970, as all.
    since: i128,
    waiting: BTreeMap<ServiceName, Vec<(Family, i128)>>,
}

impl Triggers {
    pub fn new(start: Timestamp) -> Self {
        Self {
            since: start.as_nanosecond(),
            waiting: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, triggers: Vec<Trigger>) {
        let late = triggers
            .into_iter()
            .filter(|trigger| trigger.at > self.since);
        for Trigger {
            service,
            family,
            at,
        } in late
        {
            self.waiting.entry(service).or_default().push((family, at));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes those of the Services that are programmed.
    pub fn take_done(&mut self, is_done: impl Fn(&ServiceName) -> bool) -> Vec<(Family, i128)> {
        self.waiting
            .extract_if(.., |service, _| is_done(service))
            .flat_map(|(_, triggers)| triggers)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn h3_a_change_counts_when_its_service_is_programmed_and_once() {
        let start = Timestamp::from_second(100).unwrap();
        let second = |n: i128| n * 1_000_000_000;
        let mut triggers = Triggers::new(start);
        let trigger = |service: &str, at| Trigger {
            service: name(service),
            family: Family::V4,
            at: second(at),
        };
        triggers.add(vec![
            trigger("old", 99),
            trigger("a", 101),
            trigger("a", 102),
            trigger("stuck", 103),
        ]);
        let not_stuck = |service: &ServiceName| service.name != "stuck";
        let done =
            |ats: &[i128]| -> Vec<_> { ats.iter().map(|at| (Family::V4, second(*at))).collect() };
        assert_eq!(triggers.take_done(not_stuck), done(&[101, 102]));
        assert_eq!(triggers.take_done(not_stuck), []);
        assert!(!triggers.is_empty());
        assert_eq!(triggers.take_done(|_| true), done(&[103]));
        assert!(triggers.is_empty());
    }
}
