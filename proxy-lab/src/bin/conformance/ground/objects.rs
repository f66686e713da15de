//! Pods that serve, and Services.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod as PodObject, Service as ServiceObject};
use kube::api::{Api as Resource, DeleteParams, ListParams};
use proxy_lab::control_plane::kubelet::READY;
use proxy_lab::{Family, LabError, Pod, Result};
use serde_json::{Value, json};

use super::{Ground, until_prepared};

/// The port of Services.
pub const PORT: u16 = 80;
/// The port that pods serve on, TCP and UDP, under their own names.
pub const TARGET: u16 = 8080;

/// A pod of the case that serves.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its name, which it answers with; no other case has one of this name.
    pub name: String,
    /// The lab's pod.
    pub pod: Arc<Pod>,
}

impl std::ops::Deref for Server {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        &self.pod
    }
}

/// A Service as the API server has it.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The whole object.
    pub object: Value,
}

impl Service {
    /// Its `ClusterIP`s.
    pub fn cluster_ips(&self) -> Vec<IpAddr> {
        let ips = self.object["spec"]["clusterIPs"].as_array();
        let ips = ips.into_iter().flatten().filter_map(Value::as_str);
        ips.filter_map(|ip| ip.parse().ok()).collect()
    }

    /// Where a family's ClusterIP is reached, at a port of the Service. Panics if it has none of that family: the case
    /// has asked for one.
    #[track_caller]
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        let mut ips = self.cluster_ips().into_iter();
        let ip = ips.find(|ip| Family::of(*ip) == family);
        let ip = ip.unwrap_or_else(|| panic!("Service {} has no {family} ClusterIP", self.name));
        SocketAddr::new(ip, port)
    }

    /// Its first ClusterIP at [`PORT`].
    #[track_caller]
    pub fn vip(&self) -> SocketAddr {
        let ips = self.cluster_ips();
        let ip = ips.first().copied();
        SocketAddr::new(ip.expect("the case has asked for a ClusterIP"), PORT)
    }

    /// The node port of its first port. Panics if the Service has none.
    #[track_caller]
    pub fn node_port(&self) -> u16 {
        self.node_port_of(0)
    }

    /// The node port of the port at `index`.
    #[track_caller]
    pub fn node_port_of(&self, index: usize) -> u16 {
        let port = self.object["spec"]["ports"][index]["nodePort"].as_u64();
        let port = port.and_then(|port| u16::try_from(port).ok());
        port.expect("the case has asked for a node port")
    }
}

/// What is TCP and UDP at [`PORT`], to [`TARGET`].
pub fn both_ports() -> Value {
    json!([
        {"name": "tcp", "port": PORT, "targetPort": TARGET},
        {"name": "udp", "port": PORT, "targetPort": TARGET, "protocol": "UDP"},
    ])
}

impl Ground<'_> {
    /// Makes ready pods with the label `app=web`: each a name and its node.
    pub fn servers<const N: usize>(&self, pods: [(&str, &str); N]) -> Result<[Server; N]> {
        for (name, node) in pods {
            self.make_pod(name, node, &json!({}))?;
        }
        let started: Result<Vec<_>> = pods.iter().map(|(name, _)| self.running(name)).collect();
        Ok(started?
            .try_into()
            .unwrap_or_else(|_| unreachable!("as many as pods")))
    }

    /// Makes a pod like those of [`Self::servers`], with these fields merged into its object, and waits until it runs.
    pub fn server_with(&self, name: &str, node: &str, fields: &Value) -> Result<Server> {
        self.make_pod(name, node, fields)?;
        self.running(name)
    }

    /// Asks for a pod. The names of pods are those of the case with its namespace behind.
    fn make_pod(&self, name: &str, node: &str, fields: &Value) -> Result<()> {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.pod_name(name), "namespace": self.space, "labels": {"app": "web"}},
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "web", "image": "none", "ports": [
                    {"containerPort": TARGET}, {"containerPort": TARGET, "protocol": "UDP"},
                ]}],
            },
        });
        merge(&mut pod, fields);
        self.api().put(pod)
    }

    /// The name of the case's pod in the API.
    pub fn pod_name(&self, name: &str) -> String {
        format!("{name}-{}", self.space)
    }

    fn running(&self, name: &str) -> Result<Server> {
        let name = self.pod_name(name);
        let mut found = None;
        until_prepared(&format!("pod {name} runs"), || {
            let object = self.api().get(self.reference("v1", "Pod", &name))?;
            let phase = object.unwrap_or_default()["status"]["phase"].clone();
            found = self.cluster.pod(&self.space, &name);
            Ok(phase == "Running" && found.is_some())
        })?;
        let gone = || LabError::Topology(format!("pod {name} is gone"));
        found
            .map(|pod| Server {
                name: name.clone(),
                pod,
            })
            .ok_or_else(gone)
    }

    /// Makes a pod unready, or ready again.
    pub fn set_ready(&self, server: &Server, ready: bool) -> Result<()> {
        let value = if ready { Value::Null } else { json!("false") };
        self.patch(
            "v1",
            "Pod",
            &server.name,
            json!({"metadata": {"annotations": {READY: value}}}),
        )
    }

    /// Deletes a pod. It ends at once, or serves until the end of its grace period.
    pub fn delete_pod(&self, server: &Server) -> Result<()> {
        self.delete("v1", "Pod", &server.name)
    }

    /// Ends a pod whatever its grace period.
    pub fn delete_pod_now(&self, server: &Server) -> Result<()> {
        self.api()
            .delete_now(self.reference("v1", "Pod", &server.name))
    }

    /// Creates a Service with ports [`PORT`] for TCP and UDP, and the pods with the label `app=web` as
    /// endpoints. `spec` can override both.
    pub fn service(&self, name: &str, spec: &Value) -> Result<Service> {
        self.service_with(name, spec, &json!({}))
    }

    /// Like [`Self::service`], with further fields such as metadata.
    pub fn service_with(&self, name: &str, spec: &Value, fields: &Value) -> Result<Service> {
        let mut object = self.reference("v1", "Service", name);
        object["spec"] = json!({"selector": {"app": "web"}, "ports": both_ports()});
        merge(&mut object["spec"], spec);
        merge(&mut object, fields);
        self.api().put(object)?;
        self.get_service(name)
    }

    /// A Service as it is now.
    pub fn get_service(&self, name: &str) -> Result<Service> {
        let object = self.api().get(self.reference("v1", "Service", name))?;
        let gone = || LabError::Topology(format!("Service {name} is gone"));
        object
            .map(|object| Service {
                name: name.to_owned(),
                object,
            })
            .ok_or_else(gone)
    }

    /// Changes a Service's spec with a merge patch (RFC 7386) and returns the new Service.
    pub fn change_service(&self, service: &Service, spec: &Value) -> Result<Service> {
        self.patch("v1", "Service", &service.name, json!({"spec": spec}))?;
        self.get_service(&service.name)
    }

    /// Where a node answers at the node port of a Service's first port, over IPv4.
    #[track_caller]
    pub fn at_node(&self, node: &str, service: &Service) -> SocketAddr {
        self.node(node).at(Family::V4, service.node_port())
    }

    /// Creates a Service of the type LoadBalancer, with this address from the cloud.
    pub fn balanced(&self, name: &str, spec: &Value, ip: IpAddr) -> Result<Service> {
        let mut all = json!({"type": "LoadBalancer"});
        merge(&mut all, spec);
        let service = self.service(name, &all)?;
        self.set_ingress(&service, &json!([{"ip": ip}]))?;
        self.get_service(name)
    }

    /// Gives a Service LoadBalancer IPs, as a cloud would.
    pub fn set_ingress(&self, service: &Service, ingress: &Value) -> Result<()> {
        let mut object = self.reference("v1", "Service", &service.name);
        object["status"] = json!({"loadBalancer": {"ingress": ingress}});
        self.api().patch_status(object)
    }

    /// Deletes a Service.
    pub fn delete_service(&self, service: &Service) -> Result<()> {
        self.delete("v1", "Service", &service.name)
    }

    /// Changes an object of the case (RFC 7386).
    pub fn patch(&self, version: &str, kind: &str, name: &str, patch: Value) -> Result<()> {
        self.api().patch(self.reference(version, kind, name), patch)
    }

    /// Deletes an object of the case.
    pub fn delete(&self, version: &str, kind: &str, name: &str) -> Result<()> {
        self.api().delete(self.reference(version, kind, name))
    }

    /// An object of the case without a body.
    pub fn reference(&self, version: &str, kind: &str, name: &str) -> Value {
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": self.space}})
    }

    pub(super) fn delete_objects(&self) -> Result<()> {
        let space = self.space.clone();
        let deleted: kube::Result<()> = self.api().run(move |client| async move {
            let (now, all) = (
                DeleteParams::default().grace_period(0),
                ListParams::default(),
            );
            let services: Resource<ServiceObject> = Resource::namespaced(client.clone(), &space);
            services
                .delete_collection(&DeleteParams::default(), &all)
                .await?;
            let pods: Resource<PodObject> = Resource::namespaced(client, &space);
            pods.delete_collection(&now, &all).await?;
            Ok(())
        });
        deleted.map_err(|source| LabError::Api {
            action: format!("deleting what is in {}", self.space),
            source: Box::new(source),
        })
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            if let Some(object) = target.as_object_mut() {
                object.remove(name);
            }
        } else {
            merge(&mut target[name], value);
        }
    }
}
