//! The two environments of the demo. Nodes and clients are always a lab's; the object store, and what runs
//! the pods, differ.

pub mod cluster;
pub mod files;

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use proxy_lab::{Agent, AgentOptions, Host, Lab, LabError, Result};
use serde_json::Value;

/// The nodes, as in `nodes.yaml`.
pub const NODES: [&str; 3] = ["control-plane", "worker-1", "worker-2"];

/// The pods that only ask, each with its namespace.
pub const CLIENTS: [(&str, &str); 2] = [("notebook", "mlops"), ("sandbox", "monitoring")];

/// Address of the cluster's DNS Service.
pub const DNS: &str = "10.96.0.10";

/// Where objects live, and who runs pods.
pub trait World {
    /// The nodes, the workstation, and [`CLIENTS`].
    fn lab(&self) -> &Lab;

    /// What there is before agents are, in half a sentence.
    fn describe(&self) -> String;

    /// How agents are started.
    fn agent_options(&self) -> AgentOptions;

    /// Changes an object as `kubectl patch --type merge` does (RFC 7386).
    fn patch(&self, kind: &str, namespace: &str, name: &str, patch: Value) -> Result<()>;

    /// Makes a pod ready, or not.
    fn set_ready(&self, pod: &str, ready: bool) -> Result<()>;

    /// Kills a pod's processes; it does not come back.
    fn crash(&self, pod: &str) -> Result<()>;

    /// The name of the pod with these labels that has taken the place of one that crashed: none of those before.
    fn replacement(&self, labels: &[(&str, &str)], before: &[String]) -> Result<String>;

    /// The pods that serve now and have all these labels, sorted.
    fn pods(&self, labels: &[(&str, &str)]) -> Result<Vec<String>>;

    /// Where a pod is.
    fn place(&self, pod: &str) -> Option<Place>;

    /// Leaves all up.
    fn keep(self: Box<Self>) -> Result<()>;

    /// How objects can be looked at and changed by hand, in one line; `program` is this one.
    fn hint(&self, program: &str) -> String;
}

/// Where a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub address: IpAddr,
    pub node: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.address, self.node)
    }
}

/// A world with agents on its nodes.
pub struct Stage {
    pub world: Box<dyn World>,
    agents: RefCell<Vec<(String, Agent)>>,
}

impl Stage {
    pub fn new(world: impl World + 'static) -> Result<Self> {
        for (pod, namespace) in CLIENTS {
            give_names(world.lab().pod(pod), namespace)?;
        }
        Ok(Self {
            world: Box::new(world),
            agents: RefCell::default(),
        })
    }

    pub fn lab(&self) -> &Lab {
        self.world.lab()
    }

    /// Starts an agent on every node; how many there are then.
    pub fn start_agents(&self) -> Result<usize> {
        let agents = proxy_lab::spawn_agents(self.lab(), &self.world.agent_options())?;
        let names = self.lab().nodes().iter().map(|node| node.name().to_owned());
        self.agents.borrow_mut().extend(names.zip(agents));
        Ok(self.agents.borrow().len())
    }

    /// Takes a node's agent, to end it.
    pub fn take_agent(&self, node: &str) -> Result<Agent> {
        let mut agents = self.agents.borrow_mut();
        let at = agents.iter().position(|(name, _)| name == node);
        at.map(|at| agents.remove(at).1)
            .ok_or_else(|| LabError::Topology(format!("no agent runs on {node}")))
    }

    /// Starts an agent on a node again.
    pub fn start_agent(&self, node: &str) -> Result<()> {
        let options = self.world.agent_options();
        let agent = self.lab().node(node).spawn_agent(&options)?;
        self.agents.borrow_mut().push((node.to_owned(), agent));
        Ok(())
    }
}

/// What the kubelet writes for a pod (`dnsPolicy: ClusterFirst`).
pub fn resolv_conf(namespace: &str) -> String {
    format!(
        "search {namespace}.svc.cluster.local svc.cluster.local cluster.local\n\
         nameserver {DNS}\n\
         options ndots:5\n"
    )
}

/// Lets a pod's programs look names up in the cluster, and nowhere else.
fn give_names(pod: &Host, namespace: &str) -> Result<()> {
    pod.put_etc("resolv.conf", &resolv_conf(namespace))?;
    pod.put_etc("nsswitch.conf", "hosts: files dns\n")?;
    pod.put_etc("hosts", "127.0.0.1 localhost\n::1 localhost\n")
}

/// The folder of examples: below the working directory, or below the workspace that this program was built in.
pub fn examples() -> Result<PathBuf> {
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
