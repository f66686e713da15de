//! From a [`LabBuilder`] to a running [`Lab`].

use std::path::Path;
use std::sync::OnceLock;

use super::Lab;
use crate::address::{self, Pair};
use crate::error::{LabError, Result};
use crate::host::Host;
use crate::naming::Claim;
use crate::netns::Netns;
use crate::node::Node;
use crate::pod::Pod;
use crate::spec::{LabBuilder, NodeSpec, Overlay, PodSpec};
use crate::wiring::{self, Script, run, wire_overlay, wire_pod};
use crate::{bpffs, cgroup, sweep};

/// Longest name of a host or pod: it is part of a device's name.
const LONGEST_NAME: usize = 13;

impl LabBuilder {
    /// Builds the lab. First removes what dead runs left behind.
    pub fn up(self) -> Result<Lab> {
        if !nix::unistd::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        self.check()?;
        sweep::sweep()?;
        let claim = Claim::take(&self.label)?;
        // From here on, an error drops the lab, which removes everything built so far.
        let temp = sweep::temp_folder(claim.prefix());
        let mut lab = Lab {
            claim,
            nodes: Vec::new(),
            pods: Vec::new(),
            workstation: None,
            overlay: self.overlay,
            temp,
            kept: false,
            cluster: OnceLock::new(),
        };
        std::fs::create_dir_all(&lab.temp).map_err(LabError::file("creating", &lab.temp))?;
        lab.wire(&self)?;
        Ok(lab)
    }

    fn check(&self) -> Result<()> {
        let nodes: Vec<_> = std::iter::once(&self.control_plane)
            .chain(&self.workers)
            .map(|node| &node.name)
            .collect();
        let all: Vec<_> = nodes
            .iter()
            .copied()
            .chain(self.pods.iter().map(|pod| &pod.name))
            .collect();
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let topology = |text: String| Err(LabError::Topology(text));
        for (index, name) in all.iter().enumerate() {
            if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(fine) {
                return topology(format!(
                    "a name is 1 to {LONGEST_NAME} of a-z, 0-9 and '-', not {name:?}"
                ));
            }
            if all[..index].contains(name) || [SWITCH, WORKSTATION].contains(&name.as_str()) {
                return topology(format!("the name {name:?} is taken"));
            }
        }
        if nodes.len() > usize::from(address::MOST_NODES) {
            return topology(format!("at most {} nodes", address::MOST_NODES));
        }
        for pod in &self.pods {
            if !nodes.contains(&&pod.node) {
                return topology(format!(
                    "pod {} is on node {:?}, which is not there",
                    pod.name, pod.node
                ));
            }
            if self
                .pods
                .iter()
                .filter(|other| other.node == pod.node)
                .count()
                > usize::from(address::MOST_PODS)
            {
                return topology(format!("at most {} pods on a node", address::MOST_PODS));
            }
        }
        Ok(())
    }
}

/// The namespace of the LAN's bridge.
pub(super) const SWITCH: &str = "switch";
/// The outside client.
const WORKSTATION: &str = "workstation";

impl Lab {
    fn wire(&mut self, spec: &LabBuilder) -> Result<()> {
        let specs: Vec<_> = std::iter::once(&spec.control_plane)
            .chain(&spec.workers)
            .collect();
        let group = cgroup::root()?.join(self.prefix());
        cgroup::create(&group)?;
        let switch = self.namespace(SWITCH)?;
        wiring::carry_everything(&switch)?;
        run(&switch, &wiring::switch())?;
        let mut ports = Script::default();

        let mut spaces = Vec::new();
        for (index, node) in (0..).zip(&specs) {
            let space = self.wire_node(index, node, &switch, specs.len() as u8, spec.overlay)?;
            spaces.push(space);
            wiring::switch_port(&mut ports, &node.name);
        }
        let outside = self.wire_workstation(&switch, specs.len() as u8)?;
        wiring::switch_port(&mut ports, WORKSTATION);
        run(&switch, &ports)?;
        if spec.xdp {
            let names = specs.iter().map(|node| node.name.as_str());
            let hosts = names.zip(&spaces).chain([(WORKSTATION, &outside)]);
            wiring::xdp::fit(&switch, hosts)?;
        }

        let mut pods = Vec::new();
        for (index, node) in (0..).zip(&specs) {
            let residents = spec.pods.iter().filter(|pod| pod.node == node.name);
            for (count, pod) in (0..).zip(residents) {
                let own = address::pod(index, count);
                let space = self.namespace(&pod.name)?;
                let outside = &spaces[usize::from(index)];
                wire_pod(
                    outside,
                    node.cni,
                    spec.overlay,
                    index,
                    (&pod.name, own),
                    &space,
                )?;
                pods.push((pod, (own, space)));
            }
        }
        self.start(spec, &specs, spaces, outside, pods, &group)
    }

    fn start(
        &mut self,
        spec: &LabBuilder,
        specs: &[&NodeSpec],
        spaces: Vec<Netns>,
        outside: Netns,
        pods: Vec<(&PodSpec, (Pair, Netns))>,
        group: &Path,
    ) -> Result<()> {
        let pinned = sweep::bpffs_folder(self.prefix());
        for ((index, node), space) in (0..).zip(specs).zip(spaces) {
            let folder = group.join(&node.name);
            cgroup::create(&folder)?;
            let pins = bpffs::create(&pinned.join(&node.name))?;
            let host = Host::start(&node.name, address::node(index), space, folder)?;
            self.nodes.push(Node::new(
                host,
                (*node).clone(),
                index,
                pins,
                self.temp.clone(),
            ));
        }
        self.start_tunnels()?;
        let folder = group.join(WORKSTATION);
        cgroup::create(&folder)?;
        self.workstation = Some(Host::start(
            WORKSTATION,
            address::workstation(),
            outside,
            folder,
        )?);
        for (pod, (addresses, space)) in pods {
            let folder = if pod.covered {
                group.join(&pod.node).join(&pod.name)
            } else {
                group.join(UNCOVERED).join(&pod.name)
            };
            cgroup::create(&folder)?;
            let host = Host::start(&pod.name, addresses, space, folder)?;
            self.pods.push(Pod::new(host, &pod.node, pod.covered));
        }
        // In the order of their adding, whatever their nodes.
        self.pods.sort_by_key(|pod| {
            spec.pods
                .iter()
                .position(|wanted| wanted.name == pod.name())
        });
        Ok(())
    }

    fn namespace(&self, name: &str) -> Result<Netns> {
        let space = Netns::create(&format!("{}-{name}", self.prefix()))?;
        space.sysctl(wiring::EVERYWHERE)?;
        Ok(space)
    }

    fn wire_node(
        &self,
        index: u8,
        node: &NodeSpec,
        switch: &Netns,
        nodes: u8,
        overlay: Overlay,
    ) -> Result<Netns> {
        let space = self.namespace(&node.name)?;
        space.sysctl(wiring::node_sysctls(node))?;
        let peers: Vec<u8> = (0..nodes).filter(|&peer| peer != index).collect();
        let router = Some(address::workstation());
        let direct = if overlay == Overlay::Direct {
            peers.as_slice()
        } else {
            &[]
        };
        run(
            &space,
            &wiring::attach(
                &node.name,
                address::node(index),
                switch.name(),
                direct,
                router,
            ),
        )?;
        wire_overlay(&space, overlay, index, &peers)?;
        run(&space, &wiring::bridge(node.cni, index))?;
        Ok(space)
    }

    fn wire_workstation(&self, switch: &Netns, nodes: u8) -> Result<Netns> {
        let space = self.namespace(WORKSTATION)?;
        space.sysctl(wiring::WORKSTATION_SYSCTLS)?;
        run(
            &space,
            &wiring::attach(
                WORKSTATION,
                address::workstation(),
                switch.name(),
                &[],
                None,
            ),
        )?;
        let first_worker = u8::from(nodes > 1);
        run(
            &space,
            &wiring::workstation_routes(address::node(first_worker)),
        )?;
        Ok(space)
    }
}

/// The folder of the cgroups that no agent sees.
const UNCOVERED: &str = "uncovered";
