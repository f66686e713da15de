//! `discovery.k8s.io/v1.EndpointSlice`.

use std::fmt::Display;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::address::Family;
use crate::host::Host;
use crate::pod::Pod;

/// An EndpointSlice.
#[derive(Debug, Clone)]
pub struct Slice(Value);

impl Slice {
    /// An empty slice of a Service, named SERVICE-v4 or SERVICE-v6.
    pub fn new(namespace: &str, service: &str, family: Family) -> Self {
        let suffix = if family == Family::V4 { "v4" } else { "v6" };
        Self(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-{suffix}"),
                "namespace": namespace,
                "labels": {"kubernetes.io/service-name": service},
                "annotations": {},
            },
            "addressType": family.to_string(),
            "ports": [],
            "endpoints": [],
        }))
    }

    /// Another name, for a Service with several slices.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.0["metadata"]["name"] = name.into();
        self
    }

    /// A port: the name is the Service port's, the number is where the endpoints listen.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: impl Display, number: u16) -> Self {
        let port = json!({"name": name, "protocol": protocol.to_string(), "port": number});
        self.0["ports"]
            .as_array_mut()
            .expect("made as an array")
            .push(port);
        self
    }

    /// An endpoint.
    #[must_use]
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.0["endpoints"]
            .as_array_mut()
            .expect("made as an array")
            .push(endpoint.0);
        self
    }

    /// Endpoints.
    #[must_use]
    pub fn endpoints(self, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        endpoints.into_iter().fold(self, Self::endpoint)
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][name] = value.into();
        self
    }

    /// An annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.0["metadata"]["annotations"][name] = value.into();
        self
    }
}

impl From<Slice> for Value {
    fn from(slice: Slice) -> Self {
        slice.0
    }
}

/// An endpoint of a slice.
#[derive(Debug, Clone)]
pub struct Endpoint(Value);

impl Endpoint {
    /// A ready endpoint with this address, and no node.
    pub fn at(address: impl Into<IpAddr>) -> Self {
        Self(json!({
            "addresses": [address.into()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
        }))
    }

    /// A pod, ready, with its node.
    pub fn of(pod: &Pod, family: Family) -> Self {
        Self::at(pod.ip(family)).on(pod.node())
    }

    /// A pod in its node's network (`hostNetwork`), ready, with its node.
    pub fn host_network(node: &Host, family: Family) -> Self {
        Self::at(node.ip(family)).on(node.name())
    }

    /// Its node.
    #[must_use]
    pub fn on(self, node: &str) -> Self {
        self.field("nodeName", node)
    }

    /// Its zone.
    #[must_use]
    pub fn zone(self, zone: &str) -> Self {
        self.field("zone", zone)
    }

    /// Not ready, not serving.
    #[must_use]
    pub fn not_ready(self) -> Self {
        self.field(
            "conditions",
            json!({"ready": false, "serving": false, "terminating": false}),
        )
    }

    /// Terminating, and still serving or not.
    #[must_use]
    pub fn terminating(self, serving: bool) -> Self {
        self.field(
            "conditions",
            json!({"ready": false, "serving": serving, "terminating": true}),
        )
    }

    /// Topology hints: zones for which it is.
    #[must_use]
    pub fn for_zones<const N: usize>(mut self, zones: [&str; N]) -> Self {
        self.0["hints"]["forZones"] = zones.map(|zone| json!({"name": zone})).to_vec().into();
        self
    }

    /// Topology hints: nodes for which it is.
    #[must_use]
    pub fn for_nodes<const N: usize>(mut self, nodes: [&str; N]) -> Self {
        self.0["hints"]["forNodes"] = nodes.map(|node| json!({"name": node})).to_vec().into();
        self
    }

    fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0[name] = value.into();
        self
    }
}
