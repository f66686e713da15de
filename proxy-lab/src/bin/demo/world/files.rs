//! The world of files: the examples in a folder that agents follow. What a cluster's controllers do of it is done here: slices
//! are made of Services and pods.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proxy_lab::objects::{Endpoint, Slice};
use proxy_lab::{
    AgentOptions, Cni, Family, Folder, Lab, LabError, NodeSpec, PodSpec, Protocol, Result, beside,
};
use serde_json::Value;

use super::{Place, World, examples};

const KUBE_DNS: &str = include_str!("kube-dns.yaml");
/// The objects that agents read.
const KINDS: [&str; 3] = ["Node", "Service", "EndpointSlice"];

/// What a pod runs.
#[derive(Debug, PartialEq, Eq)]
struct App {
    namespace: &'static str,
    labels: &'static [(&'static str, &'static str)],
    runs: Runs,
}

#[derive(Debug, PartialEq, Eq)]
enum Runs {
    /// A server on this port.
    Server(u16),
    /// The cluster's DNS server.
    Dns,
}

const NAME: &str = "app.kubernetes.io/name";
const VERSION: &str = "app.kubernetes.io/version";
const MLFLOW: App = server("mlops", &[(NAME, "mlflow")], 5000);
const TRITON: App = server("mlops", &[(NAME, "triton")], 8000);
const GRAFANA: App = server("monitoring", &[(NAME, "grafana")], 3000);
const RANKER_V1: App = server("mlops", &[(NAME, "ranker"), (VERSION, "v1")], 7000);
const RANKER_V2: App = server("mlops", &[(NAME, "ranker"), (VERSION, "v2")], 7000);
const COREDNS: App = App {
    namespace: "kube-system",
    labels: &[("k8s-app", "kube-dns")],
    runs: Runs::Dns,
};

const fn server(
    namespace: &'static str,
    labels: &'static [(&'static str, &'static str)],
    port: u16,
) -> App {
    App {
        namespace,
        labels,
        runs: Runs::Server(port),
    }
}

/// The pods of each worker, in the order of their addresses: `endpointslices.yaml` names them.
const WORKER_1: [(&str, Option<App>); 6] = [
    ("mlflow-0", Some(MLFLOW)),
    ("mlflow-1", Some(MLFLOW)),
    ("grafana-0", Some(GRAFANA)),
    ("notebook", None),
    ("ranker-v1-0", Some(RANKER_V1)),
    ("ranker-v2-0", Some(RANKER_V2)),
];
const WORKER_2: [(&str, Option<App>); 6] = [
    ("mlflow-2", Some(MLFLOW)),
    ("triton-0", Some(TRITON)),
    ("ranker-v1-1", Some(RANKER_V1)),
    ("ranker-v2-1", Some(RANKER_V2)),
    ("coredns-0", Some(COREDNS)),
    (SPARE, None),
];
/// A pod that runs nothing until another has crashed.
const SPARE: &str = "mlflow-3";

/// The world of files.
pub struct Files {
    lab: Lab,
    folder: Folder,
    services: RefCell<BTreeMap<(String, String), Value>>,
    pods: RefCell<BTreeMap<String, Running>>,
}

struct Running {
    app: App,
    ready: bool,
}

impl Files {
    /// Namespaces, pods, servers, objects; no agent yet. One worker's pods are behind a bridge, the other's behind
    /// veths with host routes.
    pub fn build() -> Result<Self> {
        let builder = Lab::builder("demo")
            .node(NodeSpec::new("worker-1").cni(Cni::Ptp))
            .node(NodeSpec::new("worker-2").cni(Cni::BRIDGE))
            .pods("worker-1", WORKER_1.map(|(name, _)| name))
            .pods("worker-2", WORKER_2.map(|(name, _)| name))
            .pod(PodSpec::new("sandbox", "worker-1").not_covered_by_sockets());
        let lab = builder.up()?;
        let folder = Folder::create(lab.temp().join("objects"))?;
        let files = Self {
            lab,
            folder,
            services: RefCell::default(),
            pods: RefCell::default(),
        };
        files.put_objects()?;
        for (name, app) in WORKER_1.into_iter().chain(WORKER_2) {
            if let Some(app) = app {
                files.start(name, app)?;
            }
        }
        files.reconcile()?;
        Ok(files)
    }

    fn put_objects(&self) -> Result<()> {
        let dns = serde_saphyr::from_str(KUBE_DNS).map_err(|error| {
            LabError::Topology(format!("the DNS Service's YAML is wrong: {error}"))
        })?;
        let mut objects = Folder::at(examples()?).objects()?;
        objects.push(dns);
        objects.retain(|object| KINDS.iter().any(|kind| object["kind"] == *kind));
        for object in objects {
            if object["kind"] == "Service" {
                self.services
                    .borrow_mut()
                    .insert(key(&object), object.clone());
            }
            self.folder.put(object)?;
        }
        Ok(())
    }

    fn start(&self, name: &str, app: App) -> Result<()> {
        let pod = self.lab.pod(name);
        match app.runs {
            Runs::Server(port) => drop(pod.serve(port)?),
            Runs::Dns => {
                let program = beside("lab-dns")?;
                let folder = self.folder.path();
                let words = [
                    program.as_os_str(),
                    "--objects".as_ref(),
                    folder.as_os_str(),
                    "--domain".as_ref(),
                    "cluster.local".as_ref(),
                ];
                pod.start_program(words, &self.lab.temp().join("lab-dns.log"))?;
            }
        }
        let running = Running { app, ready: true };
        self.pods.borrow_mut().insert(name.to_owned(), running);
        Ok(())
    }

    /// Writes the slices of every Service that has a selector.
    fn reconcile(&self) -> Result<()> {
        for service in self.services.borrow().values() {
            let spec = &service["spec"];
            let selector = spec["selector"].as_object();
            // Like the real controller: it leaves alone what it made before the type changed.
            if let (Some(selector), false) = (selector, spec["type"] == "ExternalName") {
                for family in Family::ALL {
                    self.folder.put(self.slice(service, selector, family))?;
                }
            }
        }
        Ok(())
    }

    fn slice(
        &self,
        service: &Value,
        selector: &serde_json::Map<String, Value>,
        family: Family,
    ) -> Slice {
        let (namespace, name) = key(service);
        let mut slice = Slice::new(&namespace, &name, family);
        if service["spec"]["clusterIP"] == "None" {
            slice = slice.label("service.kubernetes.io/headless", "");
        }
        for port in service["spec"]["ports"].as_array().into_iter().flatten() {
            let protocol = if port["protocol"] == "UDP" {
                Protocol::Udp
            } else {
                Protocol::Tcp
            };
            let number = port["targetPort"].as_u64().unwrap_or_default();
            let name = port["name"].as_str().unwrap_or_default();
            slice = slice.port(name, protocol, u16::try_from(number).unwrap_or_default());
        }
        let pods = self.pods.borrow();
        let selected = pods.iter().filter(|(_, running)| {
            running.app.namespace == namespace
                && selector.iter().all(|(label, value)| {
                    value
                        .as_str()
                        .is_some_and(|value| running.app.has(label, value))
                })
        });
        slice.endpoints(selected.map(|(name, running)| {
            let pod = self.lab.pod(name);
            let zone = if pod.node() == "worker-1" {
                "rack-a"
            } else {
                "rack-b"
            };
            let endpoint = Endpoint::of(pod, family).zone(zone);
            if running.ready {
                endpoint
            } else {
                endpoint.not_ready()
            }
        }))
    }
}

/// The error for an unknown pod.
fn no_pod(pod: &str) -> LabError {
    LabError::Topology(format!("no pod {pod} runs"))
}

impl App {
    fn has(&self, label: &str, value: &str) -> bool {
        self.labels.contains(&(label, value))
    }
}

impl World for Files {
    fn lab(&self) -> &Lab {
        &self.lab
    }

    fn describe(&self) -> String {
        let pods = self.lab.pods().len();
        format!("3 nodes, {pods} pods and the workstation")
    }

    fn agent_options(&self) -> AgentOptions {
        AgentOptions::files(self.folder.path())
    }

    fn patch(&self, kind: &str, namespace: &str, name: &str, patch: Value) -> Result<()> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut services = self.services.borrow_mut();
        let object = services.get_mut(&key).filter(|_| kind == "service");
        let object = object
            .ok_or_else(|| LabError::Topology(format!("there is no {kind} {namespace}/{name}")))?;
        merge(object, patch);
        self.folder.put(object.clone())?;
        drop(services);
        self.reconcile()
    }

    fn set_ready(&self, pod: &str, ready: bool) -> Result<()> {
        let mut pods = self.pods.borrow_mut();
        pods.get_mut(pod).ok_or_else(|| no_pod(pod))?.ready = ready;
        drop(pods);
        self.reconcile()
    }

    fn crash(&self, pod: &str) -> Result<()> {
        let running = self.pods.borrow_mut().remove(pod);
        running.ok_or_else(|| no_pod(pod))?;
        self.lab.pod(pod).crash()?;
        self.reconcile()
    }

    fn replacement(&self, _labels: &[(&str, &str)], _before: &[String]) -> Result<String> {
        self.start(SPARE, MLFLOW)?;
        self.reconcile()?;
        Ok(SPARE.to_owned())
    }

    fn pods(&self, labels: &[(&str, &str)]) -> Result<Vec<String>> {
        let pods = self.pods.borrow();
        let found = pods.iter().filter(|(_, running)| {
            labels
                .iter()
                .all(|(label, value)| running.app.has(label, value))
        });
        Ok(found.map(|(name, _)| name.clone()).collect())
    }

    fn place(&self, pod: &str) -> Option<Place> {
        let found = self.lab.pods().iter().find(|found| found.name() == pod);
        found.map(|pod| Place {
            address: pod.ip(Family::V4),
            node: pod.node().to_owned(),
        })
    }

    fn keep(self: Box<Self>) -> Result<()> {
        self.lab.keep().map(drop)
    }

    fn hint(&self, _program: &str) -> String {
        format!(
            "the agents follow {}: change an object and see",
            self.folder.path().display()
        )
    }
}

fn key(object: &Value) -> (String, String) {
    let metadata = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&metadata["namespace"]), text(&metadata["name"]))
}

/// Applies a JSON merge patch (RFC 7386).
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(fields) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    for (name, value) in fields {
        match target.as_object_mut() {
            Some(object) if value.is_null() => drop(object.remove(&name)),
            _ => merge(&mut target[name], value),
        }
    }
}

#[cfg(test)]
mod tests {
    use proxy_lab::{Family, address};
    use serde_json::json;

    use super::*;

    #[test]
    fn the_examples_have_the_labs_addresses() {
        let objects = Folder::at(examples().expect("is in the workspace"))
            .objects()
            .expect("are YAML");
        let text = Value::from(objects).to_string();
        let has = |ip: std::net::IpAddr| text.contains(&format!("\"{ip}\""));
        for family in Family::ALL {
            for index in 0..3 {
                let ip = address::node(index).of(family);
                assert!(has(ip), "{ip}");
            }
            for (node, pods) in (1..).zip([WORKER_1, WORKER_2]) {
                for (index, (name, app)) in (0..).zip(pods) {
                    // The pods that serve when all begins.
                    let serves = app.is_some_and(|app| app != RANKER_V2 && app != COREDNS);
                    let ip = address::pod(node, index).of(family);
                    assert_eq!(has(ip), serves, "{name} {ip}");
                }
            }
            let ip = address::load_balancer(10).of(family);
            assert!(has(ip), "{ip}");
        }
    }

    #[test]
    fn a_merge_patch_sets_replaces_and_removes() {
        let mut object = json!({"spec": {"type": "A", "ports": [1, 2], "name": "x"}});
        let patch = json!({"spec": {"type": "B", "ports": [3], "name": null, "new": {"a": 1}}});
        merge(&mut object, patch);
        let expected = json!({"spec": {"type": "B", "ports": [3], "new": {"a": 1}}});
        assert_eq!(object, expected);
    }
}
