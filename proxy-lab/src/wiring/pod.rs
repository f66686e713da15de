//! Pods on their node.

use super::{BRIDGE, LAN_DEVICE, Script, veth};
use crate::address::{self, Pair};
use crate::spec::Cni;

/// The prefix of one address, by family.
const HOST: (u8, u8) = (32, 128);
/// The prefix of all pods of a node, by family.
const RANGE: (u8, u8) = (24, 64);
/// The MAC address of a node's end of each of Calico's veths, and the link-local address that follows from it.
const CALICO: (&str, &str) = ("ee:ee:ee:ee:ee:ee", "fe80::ecee:eeff:feee:eeee");
/// The gateway of Calico's pods, which no device has.
const CALICO_GATEWAY: &str = "169.254.1.1";

/// In a node: what its CNI needs before the first pod.
pub(crate) fn bridge(cni: Cni, node: u8) -> Script {
    let mut script = Script::default();
    if let Cni::Bridge { .. } = cni {
        script.line(format_args!(
            "link add {BRIDGE} type bridge forward_delay 0"
        ));
        script.addresses(BRIDGE, address::gateway(node), RANGE);
        script.line(format_args!("link set {BRIDGE} up"));
    }
    script
}

/// Sysctls of a node for the device of a pod, once it is there.
pub(crate) fn pod_sysctls(cni: Cni, name: &str) -> Vec<(String, &'static str)> {
    let device = veth(name);
    match cni {
        Cni::Calico => vec![
            (format!("net.ipv4.conf.{device}.proxy_arp"), "1"),
            (format!("net.ipv4.neigh.{device}.proxy_delay"), "0"),
        ],
        Cni::Ptp | Cni::PtpSubnet | Cni::Bridge { .. } => Vec::new(),
    }
}

/// A pod's veth: the commands for the node, and those for the pod, whose namespace is `netns`.
pub(crate) fn pod(
    cni: Cni,
    mtu: Option<u32>,
    node: u8,
    name: &str,
    own: Pair,
    netns: &str,
) -> (Script, Script) {
    let gateway = address::gateway(node);
    let device = veth(name);
    let (mut outside, mut inside) = (Script::default(), Script::default());
    outside.line(format_args!(
        "link add {device} type veth peer name {LAN_DEVICE} netns {netns}"
    ));
    inside.line(format_args!("link set lo up"));
    if let Some(mtu) = mtu {
        outside.line(format_args!("link set {device} mtu {mtu}"));
        inside.line(format_args!("link set {LAN_DEVICE} mtu {mtu}"));
    }
    let of_pod = if matches!(cni, Cni::Bridge { .. }) {
        RANGE
    } else {
        HOST
    };
    inside.addresses(LAN_DEVICE, own, of_pod);
    inside.line(format_args!("link set {LAN_DEVICE} up"));
    match cni {
        Cni::Ptp | Cni::PtpSubnet => {
            let of_gateway = if cni == Cni::Ptp { HOST } else { RANGE };
            outside.line(format_args!("link set {device} up"));
            outside.addresses(&device, gateway, of_gateway);
            outside.hosts(&device, own);
            inside.hosts(LAN_DEVICE, gateway);
        }
        Cni::Calico => {
            outside.line(format_args!("link set {device} address {} up", CALICO.0));
            outside.hosts(&device, own);
            inside.line(format_args!("route add {CALICO_GATEWAY} dev {LAN_DEVICE}"));
            inside.line(format_args!(
                "route add {} via {CALICO_GATEWAY}",
                super::DEFAULT.0
            ));
            inside.line(format_args!(
                "route add {} via {} dev {LAN_DEVICE}",
                super::DEFAULT.1,
                CALICO.1
            ));
            return (outside, inside);
        }
        Cni::Bridge { hairpin, .. } => {
            let hairpin = if hairpin { "on" } else { "off" };
            outside.line(format_args!("link set {device} master {BRIDGE} up"));
            outside.line(format_args!(
                "link set {device} type bridge_slave hairpin {hairpin}"
            ));
        }
    }
    inside.routes(super::DEFAULT, gateway);
    (outside, inside)
}
