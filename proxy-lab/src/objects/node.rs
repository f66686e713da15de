//! `v1.Node`.

use serde_json::{Value, json};

use crate::address::Family;
use crate::node::Node;

/// A node's object: its addresses, pod ranges and labels.
#[derive(Debug, Clone)]
pub struct NodeObject(Value);

impl NodeObject {
    /// The object of a lab's node.
    pub fn of(node: &Node) -> Self {
        let addresses =
            Family::ALL.map(|family| json!({"type": "InternalIP", "address": node.ip(family)}));
        let ranges = Family::ALL.map(|family| node.pod_range(family));
        Self(json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name(), "labels": {"kubernetes.io/hostname": node.name()}},
            "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
            "status": {"addresses": addresses},
        }))
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][name] = value.into();
        self
    }

    /// A taint, with the effect `NoSchedule`.
    #[must_use]
    pub fn taint(mut self, key: &str) -> Self {
        self.0["spec"]["taints"] = json!([{"key": key, "effect": "NoSchedule"}]);
        self
    }

    /// Its zone.
    #[must_use]
    pub fn zone(self, zone: &str) -> Self {
        self.label("topology.kubernetes.io/zone", zone)
    }
}

impl From<NodeObject> for Value {
    fn from(object: NodeObject) -> Self {
        object.0
    }
}
