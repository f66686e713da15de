//! What changes in the network of a running lab.

use super::Lab;
use crate::error::Result;
use crate::node::Node;
use crate::pod::Pod;
use crate::spec::Overlay;
use crate::wiring;

impl Lab {
    /// Takes a pod's veth away and makes another: a new device on its node, with the addresses and routes of the old one.
    pub fn replug(&self, pod: &Pod) -> Result<()> {
        let node = self.node(pod.node());
        node.exec(["ip", "link", "delete", &node.device_of(pod.name())])?;
        wiring::wire_pod(
            node.netns(),
            node.cni(),
            self.overlay,
            node.index(),
            (pod.name(), pod.addresses()),
            pod.netns(),
        )?;
        // The new device has another MAC. Like a CNI, announce it to the node's bridge, whose
        // neighbour entries outlive the pod's device.
        let addresses = pod.addresses();
        for (family, address) in [
            ("-4", addresses.v4.to_string()),
            ("-6", addresses.v6.to_string()),
        ] {
            node.exec(["ip", family, "neigh", "flush", "to", &address])?;
        }
        Ok(())
    }

    /// Takes a node's vxlan device away and makes another, as flannel does when its configuration changes.
    pub fn remake_overlay(&self, node: &Node) -> Result<()> {
        if let Some(device) = self.overlay.device() {
            node.exec(["ip", "link", "delete", device])?;
        }
        wiring::wire_overlay(node.netns(), self.overlay, node.index(), &self.peers(node))
    }

    /// Starts what carries a tun overlay's packets.
    pub(super) fn start_tunnels(&self) -> Result<()> {
        let Some(device) = self
            .overlay
            .device()
            .filter(|_| self.overlay == Overlay::Tun)
        else {
            return Ok(());
        };
        let mut nodes = self.nodes.iter();
        nodes.try_for_each(|node| node.tunnel(device, &self.peers(node)))
    }

    /// The indices of all other nodes.
    fn peers(&self, node: &Node) -> Vec<u8> {
        let nodes = self.nodes.iter().map(Node::index);
        nodes.filter(|&index| index != node.index()).collect()
    }
}
