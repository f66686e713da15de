//! The demo's cluster: the lab that `manifests/examples` speaks of.

use std::path::{Path, PathBuf};

use proxy_lab::{Agent, AgentOptions, Cni, Folder, Lab, LabError, NodeSpec, Pod, PodSpec, Result};

/// The lab, its objects and its agents.
pub struct Cluster {
    pub lab: Lab,
    pub objects: Folder,
    pub agents: Vec<Agent>,
}

/// The nodes, as in `nodes.yaml`.
pub const NODES: [&str; 3] = ["control-plane", "worker-1", "worker-2"];

/// Servers and where they listen.
const SERVERS: [(&str, u16); 5] = [
    ("mlflow-0", 5000),
    ("mlflow-1", 5000),
    ("mlflow-2", 5000),
    ("triton-0", 8000),
    ("grafana-0", 3000),
];

impl Cluster {
    /// Namespaces, pods, servers, objects; no agent yet. One worker's pods are behind a bridge, the other's behind
    /// veths with host routes.
    pub fn build() -> Result<Self> {
        let lab = Lab::builder("demo")
            .node(NodeSpec::new("worker-1").cni(Cni::Ptp))
            .node(NodeSpec::new("worker-2").cni(Cni::BRIDGE))
            .pods(
                "worker-1",
                ["mlflow-0", "mlflow-1", "grafana-0", "notebook"],
            )
            .pod(PodSpec::new("sandbox", "worker-1").not_covered_by_sockets())
            .pods("worker-2", ["mlflow-2", "triton-0"])
            .up()?;
        for (pod, port) in SERVERS {
            lab.pod(pod).serve(port)?;
        }
        let objects = Folder::create(lab.temp().join("objects"))?;
        objects.copy_from(&examples()?)?;
        Ok(Self {
            lab,
            objects,
            agents: Vec::new(),
        })
    }

    /// Starts an agent on every node.
    pub fn start_agents(&mut self) -> Result<()> {
        self.agents = proxy_lab::spawn_agents(&self.lab, &self.options())?;
        Ok(())
    }

    /// How agents are started here.
    pub fn options(&self) -> AgentOptions {
        AgentOptions::files(self.objects.path())
    }

    /// The pod that answered under this name, and where it is.
    pub fn place(&self, pod: &str) -> String {
        let found = self
            .lab
            .pods()
            .iter()
            .find(|candidate| candidate.name() == pod);
        found.map_or_else(String::new, |pod: &Pod| {
            format!("{} on {}", pod.addresses().v4, pod.node())
        })
    }
}

/// The folder of examples: below the working directory, or below the workspace that this program was built in.
fn examples() -> Result<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let folders = std::iter::once(Path::new(".")).chain(program.ancestors());
    let found = folders
        .map(|folder| folder.join("manifests/examples"))
        .find(|path| path.is_dir());
    found.ok_or_else(|| {
        LabError::Topology(
            "manifests/examples is not to be found; run the demo in the workspace".to_owned(),
        )
    })
}

#[cfg(test)]
mod tests {
    use proxy_lab::{Family, address};

    use super::*;

    #[test]
    fn the_examples_have_the_labs_addresses() {
        let folder = examples().expect("is in the workspace");
        let text = |file: &str| std::fs::read_to_string(folder.join(file)).expect("is there");
        let nodes = text("nodes.yaml");
        let services = ["mlflow.yaml", "triton.yaml", "grafana.yaml"]
            .map(text)
            .concat();
        // Pods count in the order of `build`.
        let pods = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)];
        for family in Family::ALL {
            for index in 0..3 {
                let ip = address::node(index).of(family).to_string();
                assert!(nodes.contains(&ip), "{ip}");
            }
            for (node, index) in pods {
                let ip = address::pod(node, index).of(family).to_string();
                assert!(services.contains(&ip), "{ip}");
            }
            let ip = address::load_balancer(10).of(family).to_string();
            assert!(services.contains(&ip), "{ip}");
        }
    }
}
