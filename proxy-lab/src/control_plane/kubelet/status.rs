//! The status of a pod, and when it must be written again.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::address::Pair;

/// `"false"` makes a running pod unready, as a readiness probe that fails.
pub const READY: &str = "proxy-lab/ready";
/// How long the pod goes on serving after it was asked to end, in seconds: a program that ends before its grace period.
pub const EXITS_AFTER: &str = "proxy-lab/exits-after";

/// The status of a pod that runs.
pub(super) fn running(pod: &Pod, own: Pair, node: Pair) -> Value {
    let now = Timestamp::now().to_string();
    let ready = annotation(pod, READY) != Some("false");
    let conditions = [
        "PodScheduled",
        "Initialized",
        "PodReadyToStartContainers",
        "ContainersReady",
        "Ready",
    ]
    .map(|kind| {
        let status = if ready || !kind.ends_with("Ready") {
            "True"
        } else {
            "False"
        };
        let before = condition(pod, kind).filter(|condition| condition.status == status);
        let since = before.and_then(|condition| condition.last_transition_time.as_ref());
        let since = since.map_or_else(|| now.clone(), |time| time.0.to_string());
        json!({"type": kind, "status": status, "lastTransitionTime": since})
    });
    let started = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref());
    let started = started.map_or_else(|| now.clone(), |time| time.0.to_string());
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| {
        json!({
            "name": container.name, "image": container.image.as_deref().unwrap_or("none"), "imageID": "none",
            "ready": ready, "started": true, "restartCount": 0, "state": {"running": {"startedAt": started}},
        })
    });
    json!({
        "phase": "Running",
        "hostIP": node.v4, "hostIPs": [{"ip": node.v4}, {"ip": node.v6}],
        "podIP": own.v4, "podIPs": [{"ip": own.v4}, {"ip": own.v6}],
        "startTime": started,
        "conditions": conditions,
        "containerStatuses": containers.collect::<Vec<_>>(),
    })
}

/// The status of a pod whose containers died and are not restarted.
pub(super) fn failed() -> Value {
    let now = Timestamp::now().to_string();
    let unready = ["ContainersReady", "Ready"].map(|kind| {
        json!({"type": kind, "status": "False", "reason": "PodFailed", "lastTransitionTime": now})
    });
    json!({
        "phase": "Failed", "reason": "Crashed", "message": "killed by the lab",
        "conditions": unready,
    })
}

/// Whether `wanted` differs from the pod's status in phase, address or a condition.
pub(super) fn differs(pod: &Pod, wanted: &Value) -> bool {
    let Some(status) = &pod.status else {
        return true;
    };
    let conditions = wanted["conditions"].as_array();
    status.phase.as_deref() != wanted["phase"].as_str()
        || status.pod_ip.as_deref() != wanted["podIP"].as_str()
        || conditions.into_iter().flatten().any(|wanted| {
            let now = wanted["type"]
                .as_str()
                .and_then(|kind| condition(pod, kind));
            now.map(|condition| condition.status.as_str()) != wanted["status"].as_str()
        })
}

/// Whether it has run to its end, well or not.
pub(super) fn is_over(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

pub(super) fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    Some(pod.metadata.annotations.as_ref()?.get(name)?.as_str())
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;

    fn pod(annotations: &Value, status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "annotations": annotations},
            "spec": {"containers": [{"name": "c"}]},
            "status": status,
        }))
        .expect("is a Pod")
    }

    fn said_of(pod: &Pod) -> Value {
        running(pod, address::pod(1, 0), address::node(1))
    }

    #[test]
    fn nothing_is_said_twice() {
        let fresh = pod(&json!({}), &json!({"phase": "Pending"}));
        let status = said_of(&fresh);
        assert!(differs(&fresh, &status));
        let known = pod(&json!({}), &status);
        assert!(!differs(&known, &said_of(&known)));
        assert_eq!(said_of(&known), status, "times of what did not change stay");
    }

    #[test]
    fn the_annotation_makes_it_unready_and_ready_again() {
        let known = pod(&json!({}), &said_of(&pod(&json!({}), &json!({}))));
        let unready = pod(
            &json!({READY: "false"}),
            &serde_json::to_value(&known.status).expect("is JSON"),
        );
        let status = said_of(&unready);
        assert!(differs(&unready, &status));
        assert_eq!(
            status["conditions"][4],
            json!({"type": "Ready", "status": "False", "lastTransitionTime": status["conditions"][4]["lastTransitionTime"]})
        );
        assert_eq!(status["containerStatuses"][0]["ready"], false);
        assert_eq!(status["phase"], "Running");
    }
}
