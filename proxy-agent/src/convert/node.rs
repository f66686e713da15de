//! Nodes.

use k8s_openapi::api::core::v1;

use super::{Converted, Reporter, address::parse_host};
use crate::model::{Node, ObjectRef};

/// Set before a node is drained and deleted, so that load balancers take it out in time (semantics H2).
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Converts a Node.
pub fn node(object: &v1::Node) -> Converted<Node> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let mut reporter = Reporter::new(ObjectRef::plain("Node", &name));
    let zone = object
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(ZONE_LABEL))
        .filter(|zone| !zone.is_empty())
        .cloned();
    let mut addresses = Vec::new();
    let listed = object
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten());
    for kind in ["InternalIP", "ExternalIP"] {
        for entry in listed.clone().filter(|entry| entry.type_ == kind) {
            match parse_host(&entry.address) {
                Ok(ip) if !addresses.contains(&ip) => addresses.push(ip),
                Ok(_) => {}
                Err(error) => reporter.report(format!(
                    "status.addresses: {:?} {error}; it is left out",
                    entry.address
                )),
            }
        }
    }
    let mut taints = object
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    let leaving = object.metadata.deletion_timestamp.is_some()
        || taints.any(|taint| taint.key == LEAVING_TAINT);
    reporter.finish(Node {
        name,
        zone,
        addresses,
        leaving,
    })
}
