//! `v1.Service`.

use std::fmt::Display;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Endpoint, Slice};
use crate::address::{Family, Pair};
use crate::pod::Pod;
use crate::protocol::Protocol;

/// A Service. Without an address it is headless, as the API has it.
#[derive(Debug, Clone)]
pub struct Service {
    name: String,
    namespace: String,
    ports: Vec<Port>,
    object: Value,
}

#[derive(Debug, Clone)]
struct Port {
    name: String,
    protocol: String,
    number: u16,
    exposed: Option<u16>,
}

impl Service {
    /// A Service in the namespace `default`.
    pub fn new(name: &str) -> Self {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default", "labels": {}, "annotations": {}},
            "spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]},
        });
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            ports: Vec::new(),
            object,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn namespace_name(&self) -> &str {
        &self.namespace
    }

    /// Puts it into a namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self.object["metadata"]["namespace"] = namespace.into();
        self
    }

    /// A ClusterIP of both families.
    #[must_use]
    pub fn cluster_ips(self, addresses: Pair) -> Self {
        self.cluster_ip(addresses.v4).cluster_ip(addresses.v6)
    }

    /// A ClusterIP; called twice for two families.
    #[must_use]
    pub fn cluster_ip(mut self, address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        let spec = &mut self.object["spec"];
        if spec["clusterIP"] == "None" {
            spec["clusterIP"] = address.to_string().into();
            spec["clusterIPs"] = json!([]);
            spec["ipFamilies"] = json!([]);
        }
        push(&mut spec["clusterIPs"], address.to_string());
        push(&mut spec["ipFamilies"], Family::of(address).to_string());
        let several = spec["ipFamilies"]
            .as_array()
            .is_some_and(|families| families.len() > 1);
        spec["ipFamilyPolicy"] = if several {
            "PreferDualStack"
        } else {
            "SingleStack"
        }
        .into();
        self
    }

    /// A port. The protocol is one that hosts here speak, or another that Kubernetes knows (`SCTP`).
    #[must_use]
    pub fn port(mut self, name: &str, protocol: impl Display, number: u16) -> Self {
        self.ports.push(Port {
            name: name.to_owned(),
            protocol: protocol.to_string(),
            number,
            exposed: None,
        });
        self
    }

    /// The same number for TCP and UDP, as ports `tcp` and `udp`.
    #[must_use]
    pub fn both(self, number: u16) -> Self {
        self.port("tcp", Protocol::Tcp, number)
            .port("udp", Protocol::Udp, number)
    }

    /// The node port of every port added so far that has none, and the type NodePort. (TCP and UDP may share a number.)
    #[must_use]
    pub fn node_port(mut self, number: u16) -> Self {
        for port in self.ports.iter_mut().filter(|port| port.exposed.is_none()) {
            port.exposed = Some(number);
        }
        if self.object["spec"]["type"] == "ClusterIP" {
            self.object["spec"]["type"] = "NodePort".into();
        }
        self
    }

    /// A LoadBalancer IP, and the type LoadBalancer.
    #[must_use]
    pub fn load_balancer(mut self, address: impl Into<IpAddr>) -> Self {
        self.object["spec"]["type"] = "LoadBalancer".into();
        let ingress = json!({"ip": address.into(), "ipMode": "VIP"});
        push(
            &mut self.object["status"]["loadBalancer"]["ingress"],
            ingress,
        );
        self
    }

    /// An external IP.
    #[must_use]
    pub fn external_ip(mut self, address: impl Into<IpAddr>) -> Self {
        push(
            &mut self.object["spec"]["externalIPs"],
            address.into().to_string(),
        );
        self
    }

    /// `externalTrafficPolicy: Local`.
    #[must_use]
    pub fn external_local(self) -> Self {
        self.spec("externalTrafficPolicy", "Local")
    }

    /// `healthCheckNodePort`, which a load balancer with `externalTrafficPolicy: Local` has.
    #[must_use]
    pub fn health_check(self, port: u16) -> Self {
        self.spec("healthCheckNodePort", port)
    }

    /// `internalTrafficPolicy: Local`.
    #[must_use]
    pub fn internal_local(self) -> Self {
        self.spec("internalTrafficPolicy", "Local")
    }

    /// `sessionAffinity: ClientIP`.
    #[must_use]
    pub fn affinity(self, seconds: u32) -> Self {
        self.spec("sessionAffinity", "ClientIP").spec(
            "sessionAffinityConfig",
            json!({"clientIP": {"timeoutSeconds": seconds}}),
        )
    }

    /// `loadBalancerSourceRanges`.
    #[must_use]
    pub fn source_ranges<const N: usize>(self, ranges: [&str; N]) -> Self {
        self.spec("loadBalancerSourceRanges", json!(ranges.as_slice()))
    }

    /// Any field of the spec.
    #[must_use]
    pub fn spec(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.object["spec"][field] = value.into();
        self
    }

    /// An annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.object["metadata"]["annotations"][name] = value.into();
        self
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.object["metadata"]["labels"][name] = value.into();
        self
    }

    /// `creationTimestamp`, RFC 3339: of two that claim one address the older wins.
    #[must_use]
    pub fn created(mut self, time: &str) -> Self {
        self.object["metadata"]["creationTimestamp"] = time.into();
        self
    }

    /// An empty slice of this Service in which every port of the Service has the number `target`.
    pub fn slice(&self, family: Family, target: u16) -> Slice {
        let slice = Slice::new(&self.namespace, &self.name, family);
        self.ports.iter().fold(slice, |slice, port| {
            slice.port(&port.name, &port.protocol, target)
        })
    }

    /// A slice of this Service with pods as ready endpoints, all listening on `target`.
    pub fn slice_of<'a>(
        &self,
        family: Family,
        target: u16,
        pods: impl IntoIterator<Item = &'a Pod>,
    ) -> Slice {
        let endpoints = pods.into_iter().map(|pod| Endpoint::of(pod, family));
        endpoints.fold(self.slice(family, target), Slice::endpoint)
    }
}

impl From<Service> for Value {
    fn from(mut service: Service) -> Self {
        let ports = service.ports.iter().map(|port| {
            let mut object =
                json!({"name": port.name, "protocol": port.protocol, "port": port.number});
            if let Some(node_port) = port.exposed {
                object["nodePort"] = node_port.into();
            }
            object
        });
        service.object["spec"]["ports"] = ports.collect();
        service.object
    }
}

fn push(list: &mut Value, item: impl Into<Value>) {
    match list.as_array_mut() {
        Some(items) => items.push(item.into()),
        None => *list = json!([item.into()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;

    #[test]
    fn a_dual_stack_load_balancer_has_what_the_api_server_would_fill_in() {
        let service = Service::new("grafana")
            .namespace("monitoring")
            .cluster_ips(address::cluster_ip(3))
            .port("http", Protocol::Tcp, 80)
            .node_port(30080)
            .load_balancer(address::load_balancer(10).v4);
        let object = Value::from(service);
        assert_eq!(object["spec"]["type"], "LoadBalancer");
        assert_eq!(object["spec"]["clusterIP"], "10.96.0.3");
        assert_eq!(
            object["spec"]["clusterIPs"],
            json!(["10.96.0.3", "fd00:10:96::3"])
        );
        assert_eq!(object["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert_eq!(object["spec"]["ports"][0]["nodePort"], 30080);
        assert_eq!(
            object["status"]["loadBalancer"]["ingress"][0]["ip"],
            "203.0.113.10"
        );
    }
}
