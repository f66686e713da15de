//! The cases, by theme.

mod affinity;
mod connections;
mod dual_stack;
mod endpoints;
mod external_ips;
mod health;
mod lifecycle;
mod load_balancer;
mod node_ports;
mod policies;
mod rejection;
mod service_types;
mod source_addresses;
mod stale_flows;
mod termination;
mod topology;
mod wire;

use crate::case::Case;

/// All of them.
pub fn all() -> impl Iterator<Item = Case> {
    [
        service_types::CASES,
        dual_stack::CASES,
        external_ips::CASES,
        endpoints::CASES,
        termination::CASES,
        topology::CASES,
        policies::CASES,
        rejection::CASES,
        node_ports::CASES,
        connections::CASES,
        wire::CASES,
        affinity::CASES,
        source_addresses::CASES,
        load_balancer::CASES,
        stale_flows::CASES,
        lifecycle::CASES,
        health::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// The one of a name.
pub fn named(name: &str) -> Option<Case> {
    all().find(|case| case.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{differences, rules};

    #[test]
    fn names_are_unique_and_rules_are_known() {
        let names: BTreeSet<_> = all().map(|case| case.name).collect();
        assert_eq!(names.len(), all().count(), "a name is there twice");
        for case in all() {
            assert!(
                rules::ALL.iter().any(|(rule, _)| *rule == case.rule),
                "{} has no such rule: {}",
                case.name,
                case.rule
            );
            assert!(!case.name.contains([',', '|', ' ']), "{}", case.name);
        }
        for difference in differences::ALWAYS.iter().chain(differences::SOMETIMES) {
            assert!(
                names.contains(difference.case),
                "{} is no case",
                difference.case
            );
        }
    }
}
