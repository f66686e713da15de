//! Runs the scripts of this module inside network namespaces.

use super::Script;
use crate::address::Pair;
use crate::command;
use crate::error::Result;
use crate::netns::Netns;
use crate::spec::{Cni, Overlay};

/// Makes a node's overlay device and the routes over it.
pub(crate) fn wire_overlay(node: &Netns, overlay: Overlay, index: u8, peers: &[u8]) -> Result<()> {
    let (links, forwarding) = super::overlay(overlay, index, peers);
    run(node, &links)?;
    if forwarding.text().is_empty() {
        return Ok(());
    }
    node.run(|| command::batch("bridge", forwarding.text()))
}

/// Creates a pod's veth and configures both ends, in the namespaces of the node and the pod.
pub(crate) fn wire_pod(
    node: &Netns,
    cni: Cni,
    overlay: Overlay,
    node_index: u8,
    (name, own): (&str, Pair),
    space: &Netns,
) -> Result<()> {
    let (outside, inside) = super::pod(cni, overlay.mtu(), node_index, name, own, space.name());
    run(node, &outside)?;
    let settings = super::pod_sysctls(cni, name);
    node.sysctl(settings.iter().map(|(name, value)| (name.as_str(), *value)))?;
    run(space, &inside)
}

/// Runs a script of `ip` in a namespace.
pub(crate) fn run(space: &Netns, script: &Script) -> Result<()> {
    if script.text().is_empty() {
        return Ok(());
    }
    space.run(|| command::batch("ip", script.text()))
}
