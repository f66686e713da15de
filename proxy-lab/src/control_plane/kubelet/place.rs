//! Which node a pod goes to: what the scheduler decides, as far as tests need it.

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

/// Whether a pod may run on a node: its node selector, the node that its affinity names (as a DaemonSet does), taints.
pub(super) fn fits(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let labels = node.metadata.labels.as_ref();
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value));
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let facts = node.spec.as_ref();
    let taints = facts
        .and_then(|facts| facts.taints.as_deref())
        .unwrap_or_default();
    let tolerated = taints
        .iter()
        .filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute")
        .all(|taint| {
            tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
        });
    let named = named_nodes(pod);
    let wanted = named.is_empty()
        || named
            .iter()
            .any(|name| Some(*name) == node.metadata.name.as_deref());
    let cordoned = facts.and_then(|facts| facts.unschedulable).unwrap_or(false);
    selected && tolerated && wanted && !cordoned
}

/// The nodes that the required affinity names by `matchFields`.
fn named_nodes(pod: &Pod) -> Vec<&str> {
    let affinity = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| {
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let terms = required
        .into_iter()
        .flat_map(|selector| &selector.node_selector_terms);
    let fields = terms.flat_map(|term| term.match_fields.iter().flatten());
    fields
        .filter(|field| field.key == "metadata.name" && field.operator == "In")
        .flat_map(|field| field.values.iter().flatten())
        .map(String::as_str)
        .collect()
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = match toleration.key.as_deref() {
        None | Some("") => exists,
        Some(key) => {
            key == taint.key && (exists || toleration.value.as_deref() == taint.value.as_deref())
        }
    };
    let effect = toleration.effect.as_deref().unwrap_or_default();
    key && (effect.is_empty() || effect == taint.effect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, taints: &Value) -> Node {
        let labels = json!({"kubernetes.io/hostname": name});
        serde_json::from_value(
            json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}}),
        )
        .expect("is a Node")
    }

    fn pod(spec: &Value) -> Pod {
        let mut spec = spec.clone();
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"spec": spec})).expect("is a Pod")
    }

    #[test]
    fn taints_keep_pods_away_that_do_not_tolerate_them() {
        let tainted = node(
            "a",
            &json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]),
        );
        assert!(!fits(&pod(&json!({})), &tainted));
        assert!(fits(&pod(&json!({})), &node("b", &json!([]))));
        let soft = node("c", &json!([{"key": "k", "effect": "PreferNoSchedule"}]));
        assert!(fits(&pod(&json!({})), &soft));
        for (toleration, expected) in [
            (json!({"operator": "Exists"}), true),
            (
                json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}),
                true,
            ),
            (
                json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}),
                false,
            ),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "l", "operator": "Exists"}), false),
        ] {
            let pod = pod(&json!({"tolerations": [toleration]}));
            assert_eq!(fits(&pod, &tainted), expected, "{toleration}");
        }
    }

    #[test]
    fn selectors_and_daemon_sets_choose_their_node() {
        let nodes = ["a", "b"].map(|name| node(name, &json!([])));
        let fitting = |spec: Value| {
            let pod = pod(&spec);
            nodes.each_ref().map(|node| fits(&pod, node))
        };
        assert_eq!(
            fitting(json!({"nodeSelector": {"kubernetes.io/hostname": "b"}})),
            [false, true]
        );
        let field = json!({"key": "metadata.name", "operator": "In", "values": ["a"]});
        let terms = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
        let affinity =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
        assert_eq!(fitting(json!({"affinity": affinity})), [true, false]);
    }
}
