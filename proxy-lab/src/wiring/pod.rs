//! Pods on their node.

use super::{BRIDGE, LAN_DEVICE, Script, veth};
use crate::address::{self, Pair};
use crate::spec::Cni;

/// In a node: what its CNI needs before the first pod.
pub(crate) fn bridge(cni: Cni, node: u8) -> Script {
    let mut script = Script::default();
    if let Cni::Bridge { .. } = cni {
        let gateway = address::gateway(node);
        script.line(format_args!(
            "link add {BRIDGE} type bridge forward_delay 0"
        ));
        script.line(format_args!("address add {}/24 dev {BRIDGE}", gateway.v4));
        script.line(format_args!(
            "address add {}/64 dev {BRIDGE} nodad",
            gateway.v6
        ));
        script.line(format_args!("link set {BRIDGE} up"));
    }
    script
}

/// A pod's veth: what to run in the node, and then in the pod, whose namespace is `netns`.
pub(crate) fn pod(cni: Cni, node: u8, name: &str, own: Pair, netns: &str) -> (Script, Script) {
    let gateway = address::gateway(node);
    let device = veth(name);
    let (mut outside, mut inside) = (Script::default(), Script::default());
    outside.line(format_args!(
        "link add {device} type veth peer name {LAN_DEVICE} netns {netns}"
    ));
    inside.line(format_args!("link set lo up"));
    match cni {
        Cni::Ptp => {
            outside.line(format_args!("link set {device} up"));
            outside.line(format_args!("address add {}/32 dev {device}", gateway.v4));
            outside.line(format_args!(
                "address add {}/128 dev {device} nodad",
                gateway.v6
            ));
            outside.line(format_args!("route add {}/32 dev {device}", own.v4));
            outside.line(format_args!("route add {}/128 dev {device}", own.v6));
            inside.line(format_args!("address add {}/32 dev {LAN_DEVICE}", own.v4));
            inside.line(format_args!(
                "address add {}/128 dev {LAN_DEVICE} nodad",
                own.v6
            ));
            inside.line(format_args!("link set {LAN_DEVICE} up"));
            inside.line(format_args!("route add {} dev {LAN_DEVICE}", gateway.v4));
            inside.line(format_args!("route add {} dev {LAN_DEVICE}", gateway.v6));
        }
        Cni::Bridge { hairpin, .. } => {
            let hairpin = if hairpin { "on" } else { "off" };
            outside.line(format_args!("link set {device} master {BRIDGE} up"));
            outside.line(format_args!(
                "link set {device} type bridge_slave hairpin {hairpin}"
            ));
            inside.line(format_args!("address add {}/24 dev {LAN_DEVICE}", own.v4));
            inside.line(format_args!(
                "address add {}/64 dev {LAN_DEVICE} nodad",
                own.v6
            ));
            inside.line(format_args!("link set {LAN_DEVICE} up"));
        }
    }
    inside.routes(super::DEFAULT, gateway);
    (outside, inside)
}
