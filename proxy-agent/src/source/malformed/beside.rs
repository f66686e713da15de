//! A healthy Service beside what is wrong.

use std::collections::BTreeMap;

use crate::{
    model::Event,
    plan::{ServiceName, ServicePlan},
    planner::{Planner, PlannerConfig},
};

/// A planner, and what it makes of the healthy Service.
pub struct Beside {
    planner: Planner,
    expected: ServicePlan,
}

impl Beside {
    /// With the events that the healthy objects gave.
    pub fn new(healthy: Vec<Event>) -> Self {
        let mut planner = Planner::new(PlannerConfig {
            node_name: "here".to_owned(),
            ..PlannerConfig::default()
        });
        for event in healthy {
            planner.apply(event);
        }
        let expected = planner.plan_all().remove(&good()).expect("a plan");
        assert_eq!(
            expected.targets.values().map(|t| t.backends.len()).max(),
            Some(2)
        );
        Self { planner, expected }
    }

    /// Whatever else there is, the healthy Service is as it was.
    pub fn stays(&mut self, events: Vec<Event>, after: &str) {
        for event in events {
            self.planner.apply(event);
        }
        let mut plans: BTreeMap<_, _> = self.planner.plan_all();
        assert_eq!(
            plans.remove(&good()).as_ref(),
            Some(&self.expected),
            "after {after}"
        );
    }
}

fn good() -> ServiceName {
    ServiceName {
        namespace: "default".to_owned(),
        name: "good".to_owned(),
    }
}
