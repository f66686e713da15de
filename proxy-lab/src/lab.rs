//! A whole lab: built from a [`LabBuilder`], taken down when it is dropped.

mod build;
mod change;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::control_plane::{ControlPlane, ControlPlaneOptions};
use crate::error::{LabError, Result};
use crate::folder::Folder;
use crate::host::Host;
use crate::naming::Claim;
use crate::netns::Netns;
use crate::node::Node;
use crate::objects::NodeObject;
use crate::pod::Pod;
use crate::site::Site;
use crate::spec::{LabBuilder, Overlay};
use crate::{command, sweep, wiring};

/// A running lab. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    claim: Claim,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    workstation: Option<Host>,
    overlay: Overlay,
    temp: PathBuf,
    kept: bool,
    /// Programs and pods that are in need of the rest.
    cluster: OnceLock<ControlPlane>,
}

impl Lab {
    /// A lab with a label (a-z, 0-9), which is part of all names.
    pub fn builder(label: &str) -> LabBuilder {
        LabBuilder::new(label)
    }

    /// What every name begins with.
    pub fn prefix(&self) -> &str {
        self.claim.prefix()
    }

    /// A folder for files of this run; removed with the lab.
    pub fn temp(&self) -> &Path {
        &self.temp
    }

    /// The folder of objects that the lab's agents follow, with its nodes' own.
    pub fn source(&self) -> Result<Folder> {
        let folder = Folder::create(self.temp.join("objects"))?;
        folder.put_all(self.nodes.iter().map(NodeObject::of))?;
        Ok(folder)
    }

    /// All nodes, the control plane first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All pods in the order of their adding.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// A node by name. Panics if there is none: names are the test's own.
    #[track_caller]
    pub fn node(&self, name: &str) -> &Node {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("the lab has no node {name:?}"))
    }

    /// A pod by name. Panics if there is none: names are the test's own.
    #[track_caller]
    pub fn pod(&self, name: &str) -> &Pod {
        let found = self.pods.iter().find(|pod| pod.name() == name);
        found.unwrap_or_else(|| panic!("the lab has no pod {name:?}"))
    }

    /// The control-plane node.
    pub fn control_plane(&self) -> &Node {
        &self.nodes[0]
    }

    /// Starts a real control plane on the control-plane node, and registers the nodes. There is one in a lab at most.
    pub fn start_control_plane(&self, options: &ControlPlaneOptions) -> Result<&ControlPlane> {
        let control_plane = ControlPlane::start(
            &self.nodes,
            self.sites(),
            &self.temp.join("control-plane"),
            options,
        )?;
        let second = |_| LabError::Topology("the lab has a control plane already".to_owned());
        self.cluster.set(control_plane).map_err(second)?;
        let only = self.cluster.get();
        Ok(only.expect("was set in the line before the last"))
    }

    /// The nodes as places of further pods.
    fn sites(&self) -> impl Iterator<Item = (String, Site)> {
        self.nodes.iter().map(|node| {
            let residents = self.pods.iter().filter(|pod| pod.node() == node.name());
            let site = Site::new(self.prefix(), node, self.overlay, residents.count());
            (node.name().to_owned(), site)
        })
    }

    /// The real control plane, if it was started.
    pub fn cluster(&self) -> Option<&ControlPlane> {
        self.cluster.get()
    }

    /// The client outside of the cluster, which is also the nodes' default gateway.
    pub fn workstation(&self) -> &Host {
        self.workstation
            .as_ref()
            .expect("is there from the end of `up` to the drop")
    }

    /// The network namespace of the switch between nodes and workstation.
    pub fn switch(&self) -> Netns {
        Netns::named(&format!("{}-{}", self.prefix(), build::SWITCH))
    }

    /// The switch's port that leads to a host.
    pub fn port_of(&self, host: &Host) -> String {
        wiring::veth(host.name())
    }

    /// Lets the workstation send LoadBalancer and external IPs to another node (at first: the first worker).
    pub fn enter_through(&self, node: &Node) -> Result<()> {
        let routes = wiring::workstation_routes(node.addresses())
            .text()
            .replace("route add", "route replace");
        self.workstation()
            .netns()
            .run(|| command::batch("ip", &routes))
    }

    /// Leaves everything up, servers and agents too, until [`sweep::take_down`] is called with the prefix that is returned.
    pub fn keep(mut self) -> Result<String> {
        self.claim.keep()?;
        for host in self.hosts() {
            host.detach()?;
        }
        if let Some(control_plane) = self.cluster.get() {
            control_plane.keep()?;
        }
        self.kept = true;
        Ok(self.prefix().to_owned())
    }

    /// Prints the end of every agent's and of the control plane's logs to stderr; a panic does so by itself.
    pub fn print_agent_logs(&self) {
        if let Some(control_plane) = self.cluster.get() {
            control_plane.print_logs();
        }
        for node in &self.nodes {
            node.print_logs();
        }
    }

    /// Every host: nodes, pods, workstation.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        let nodes = self.nodes.iter().map(|node| &**node);
        nodes
            .chain(self.pods.iter().map(|pod| &**pod))
            .chain(&self.workstation)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_agent_logs();
        }
        drop(self.cluster.take());
        if self.kept {
            return;
        }
        if let Err(error) = sweep::take_down(self.prefix()) {
            eprintln!(
                "lab {}: not all could be removed: {}",
                self.prefix(),
                error.chain()
            );
        }
    }
}
