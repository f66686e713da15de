//! What the API server must have before tests begin: its namespaces, and the lab's nodes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::Api as Resource;
use serde_json::{Value, json};

use super::api::{Api, in_time};
use crate::error::Result;
use crate::node::Node;
use crate::objects::NodeObject;

/// The role of the control plane's node, by label and by taint.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Whether the API server is ready, with the namespaces and the Service that it makes by itself.
pub(super) fn api_is_ready(api: &Api) -> bool {
    api.run(|client| async move { in_time(ready(client)).await.unwrap_or(false) })
}

async fn ready(client: Client) -> kube::Result<bool> {
    let request = http_get("/readyz")?;
    if client.request_text(request).await? != "ok" {
        return Ok(false);
    }
    let namespaces: Resource<Namespace> = Resource::all(client.clone());
    for name in ["default", "kube-system"] {
        if namespaces.get_opt(name).await?.is_none() {
            return Ok(false);
        }
    }
    let services: Resource<Service> = Resource::namespaced(client, "default");
    Ok(services.get_opt("kubernetes").await?.is_some())
}

fn http_get(path: &str) -> kube::Result<http::Request<Vec<u8>>> {
    http::Request::get(path)
        .body(Vec::new())
        .map_err(kube::Error::HttpError)
}

/// Registers nodes, ready. Pods go to the first, the control plane's own, only if they tolerate its taint.
pub(super) fn register(api: &Api, nodes: &[Node], zones: &BTreeMap<String, String>) -> Result<()> {
    for (index, node) in nodes.iter().enumerate() {
        let mut object = NodeObject::of(node).label("kubernetes.io/os", "linux");
        if let Some(zone) = zones.get(node.name()) {
            object = object.zone(zone);
        }
        if index == 0 {
            object = object.label(CONTROL_PLANE, "");
        }
        let mut object = Value::from(object);
        if index == 0 {
            object["spec"]["taints"] = json!([{"key": CONTROL_PLANE, "effect": "NoSchedule"}]);
        }
        let now = Timestamp::now().to_string();
        object["status"]["conditions"] = json!([{
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "a node of the lab",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }]);
        let room = json!({"cpu": "8", "memory": "32Gi", "pods": "200"});
        object["status"]["capacity"] = room.clone();
        object["status"]["allocatable"] = room;
        api.put(object)?;
    }
    Ok(())
}
