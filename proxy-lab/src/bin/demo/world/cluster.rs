//! The world of a real control plane: objects are in the API server, slices and pods are made by the controllers, and the lab's
//! stand-in for kubelets runs the pods.

use std::time::Duration;

use proxy_lab::control_plane::kubelet::READY;
use proxy_lab::{
    AgentOptions, Cni, ControlPlane, ControlPlaneOptions, Family, Folder, Identity, Lab, LabError,
    NodeSpec, PodSpec, Result, eventually, start_core_dns,
};
use serde_json::{Value, json};

use super::{Place, World, examples};

const KUBE_DNS: &str = include_str!("kube-dns.yaml");
const CORE_DNS: &str = include_str!("core-dns.yaml");
/// What a user applies, in this order; the cluster makes the rest.
const KINDS: [&str; 3] = ["Namespace", "Deployment", "Service"];
/// How long pods may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);
/// Whose rights agents have: `manifests/rbac.yaml`.
const ACCOUNT: (&str, &str) = ("kube-system", "kube-proxy-ebpf");

/// The world of a control plane.
pub struct Cluster {
    lab: Lab,
    kubeconfig: std::path::PathBuf,
}

impl Cluster {
    /// Nodes, control plane, objects, pods that serve; no agent yet.
    pub fn build() -> Result<Self> {
        let lab = Lab::builder("demo")
            .node(NodeSpec::new("worker-1").cni(Cni::Ptp))
            .node(NodeSpec::new("worker-2").cni(Cni::BRIDGE))
            .pods("worker-1", ["notebook"])
            .pod(PodSpec::new("sandbox", "worker-1").not_covered_by_sockets())
            .up()?;
        let options = ControlPlaneOptions::default()
            .zone("control-plane", "rack-a")
            .zone("worker-1", "rack-a")
            .zone("worker-2", "rack-b");
        let kubeconfig = prepare(lab.start_control_plane(&options)?)?;
        Ok(Self { lab, kubeconfig })
    }

    fn control_plane(&self) -> &ControlPlane {
        self.lab.cluster().expect("was started with the world")
    }

    /// A pod's namespace.
    fn namespace_of(&self, pod: &str) -> Result<String> {
        let found = pods(self.control_plane(), &[])?
            .into_iter()
            .find(|object| object["metadata"]["name"] == pod);
        let namespace = found.and_then(|object| {
            let namespace = object["metadata"]["namespace"].as_str();
            namespace.map(str::to_owned)
        });
        namespace.ok_or_else(|| LabError::Topology(format!("there is no pod {pod}")))
    }
}

/// Applies everything and waits until it runs; returns the agents' kubeconfig.
fn prepare(cluster: &ControlPlane) -> Result<std::path::PathBuf> {
    let folder = examples()?;
    let mut objects = Folder::at(&folder).objects()?;
    for object in &mut objects {
        // The lab's network brings LoadBalancer IPs to this node, and Grafana's is for nodes that have the pod.
        if object["kind"] == "Deployment" && object["metadata"]["name"] == "grafana" {
            object["spec"]["template"]["spec"]["nodeSelector"] =
                json!({"kubernetes.io/hostname": "worker-1"});
        }
    }
    for kind in KINDS {
        let of_kind = objects.iter().filter(|object| object["kind"] == kind);
        cluster.api().put_all(of_kind.cloned())?;
    }
    cluster.apply(KUBE_DNS)?;
    cluster.apply(CORE_DNS)?;
    let rbac = folder.join("../rbac.yaml").display().to_string();
    cluster.kubectl(["apply", "-n", ACCOUNT.0, "-f", &rbac])?;
    let wanted = |object: &Value| object["spec"]["replicas"].as_u64().unwrap_or(0);
    let deployments = objects
        .iter()
        .filter(|object| object["kind"] == "Deployment");
    // And CoreDNS.
    let wanted = 1 + deployments.map(wanted).sum::<u64>();
    eventually("all pods are ready", PATIENCE, || {
        Ok(pods(cluster, &[])?.iter().filter(|pod| serves(pod)).count() as u64 == wanted)
    })?;
    let dns = pods(cluster, &[("k8s-app", "kube-dns")])?;
    let name = dns.first().and_then(|pod| pod["metadata"]["name"].as_str());
    let pod = name.and_then(|name| cluster.pod("kube-system", name));
    let pod = pod.ok_or_else(|| LabError::Topology("the pod of CoreDNS is gone".to_owned()))?;
    start_core_dns(cluster, &pod, &account("coredns"), "cluster.local")?;
    cluster.kubeconfig(&account(ACCOUNT.1))
}

fn account(name: &str) -> Identity {
    Identity::ServiceAccount {
        namespace: ACCOUNT.0.to_owned(),
        name: name.to_owned(),
    }
}

/// The pods with these labels.
fn pods(cluster: &ControlPlane, labels: &[(&str, &str)]) -> Result<Vec<Value>> {
    let labels: Vec<_> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let selector = labels.join(",");
    let text = cluster.kubectl(["get", "pods", "-A", "-o", "json", "-l", &selector])?;
    let list: Value = serde_json::from_str(&text).map_err(|error| LabError::Command {
        command: "kubectl get pods -o json".to_owned(),
        ending: format!("wrote something that is not JSON: {error}"),
    })?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// Whether a pod is ready, and not about to end.
fn serves(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    ready && pod["metadata"]["deletionTimestamp"].is_null()
}

impl World for Cluster {
    fn lab(&self) -> &Lab {
        &self.lab
    }

    fn describe(&self) -> String {
        let pods = self.control_plane().pods().len();
        format!(
            "3 nodes, etcd, API server, controllers, CoreDNS, {pods} pods of Deployments, 2 clients and the workstation"
        )
    }

    fn agent_options(&self) -> AgentOptions {
        AgentOptions::source("kube")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
    }

    fn patch(&self, kind: &str, namespace: &str, name: &str, patch: Value) -> Result<()> {
        let patch = patch.to_string();
        let words = [
            "-n", namespace, "patch", kind, name, "--type", "merge", "-p", &patch,
        ];
        self.control_plane().kubectl(words).map(drop)
    }

    fn set_ready(&self, pod: &str, ready: bool) -> Result<()> {
        let namespace = self.namespace_of(pod)?;
        let annotation = if ready {
            format!("{READY}-")
        } else {
            format!("{READY}=false")
        };
        let words = ["-n", &namespace, "annotate", "pod", pod, &annotation];
        self.control_plane().kubectl(words).map(drop)
    }

    fn crash(&self, pod: &str) -> Result<()> {
        let namespace = self.namespace_of(pod)?;
        self.control_plane().fail_pod(&namespace, pod)
    }

    fn replacement(&self, labels: &[(&str, &str)], before: &[String]) -> Result<String> {
        let mut found = None;
        eventually("another pod is ready", PATIENCE, || {
            let pods = self.pods(labels)?;
            found = pods.into_iter().find(|pod| !before.contains(pod));
            Ok(found.is_some())
        })?;
        found.ok_or_else(|| LabError::Topology("no other pod".to_owned()))
    }

    fn pods(&self, labels: &[(&str, &str)]) -> Result<Vec<String>> {
        let pods = pods(self.control_plane(), labels)?;
        let names = pods.iter().filter(|pod| serves(pod));
        let names = names.filter_map(|pod| pod["metadata"]["name"].as_str());
        let mut names: Vec<_> = names.map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    fn place(&self, pod: &str) -> Option<Place> {
        let namespace = self.namespace_of(pod).ok()?;
        let pod = self.control_plane().pod(&namespace, pod)?;
        Some(Place {
            address: pod.ip(Family::V4),
            node: pod.node().to_owned(),
        })
    }

    fn keep(self: Box<Self>) -> Result<()> {
        self.lab.keep().map(drop)
    }

    fn hint(&self, program: &str) -> String {
        let kubeconfig = self.control_plane().kubeconfig(&Identity::Admin);
        let kubeconfig =
            kubeconfig.map_or_else(|_| String::new(), |path| path.display().to_string());
        format!(
            "{program} --enter control-plane kubectl --kubeconfig {kubeconfig} get services,endpointslices -A"
        )
    }
}
