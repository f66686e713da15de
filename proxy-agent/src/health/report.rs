//! The answer of `/healthz` and `/livez`, with kube-proxy's fields.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::metrics::FAMILIES;

/// The JSON body. Times are RFC 3339, in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// When the maps were as planned last; now, if all is well (as kube-proxy says it, for old readers).
    last_updated: String,
    current_time: String,
    /// Whether the node will stay; in `/healthz` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    /// By family of addresses. One loop programs both, so they say the same.
    status: BTreeMap<&'static str, FamilyReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyReport {
    last_updated: String,
    healthy: bool,
}

impl Report {
    pub(super) fn new(
        healthy: bool,
        node_eligible: Option<bool>,
        updated: Timestamp,
        now: Timestamp,
    ) -> Self {
        let ok = healthy && node_eligible != Some(false);
        let family = FamilyReport {
            last_updated: updated.to_string(),
            healthy,
        };
        Self {
            last_updated: if ok { now } else { updated }.to_string(),
            current_time: now.to_string(),
            node_eligible,
            healthy,
            status: FAMILIES.map(|label| (label, family.clone())).into(),
        }
    }

    /// Whether the status is 200; else it is 503.
    pub fn is_ok(&self) -> bool {
        self.healthy && self.node_eligible != Some(false)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(healthy: bool, node_eligible: Option<bool>) -> serde_json::Value {
        let time = |second| Timestamp::from_second(second).unwrap();
        let report = Report::new(healthy, node_eligible, time(0), time(10));
        serde_json::to_value(report).unwrap()
    }

    #[test]
    fn h2_the_fields_are_kube_proxys() {
        let (then, now) = ("1970-01-01T00:00:00Z", "1970-01-01T00:00:10Z");
        let family = json!({"lastUpdated": then, "healthy": true});
        assert_eq!(
            report(true, Some(true)),
            json!({
                "lastUpdated": now,
                "currentTime": now,
                "nodeEligible": true,
                "healthy": true,
                "status": {"IPv4": family, "IPv6": family},
            })
        );
        assert!(report(true, None).get("nodeEligible").is_none());
    }

    #[test]
    fn h2_what_is_not_well_says_since_when() {
        assert_eq!(
            report(false, Some(true))["lastUpdated"],
            "1970-01-01T00:00:00Z"
        );
        assert_eq!(
            report(true, Some(false))["lastUpdated"],
            "1970-01-01T00:00:00Z"
        );
        assert_eq!(report(false, None)["status"]["IPv4"]["healthy"], false);
    }
}
