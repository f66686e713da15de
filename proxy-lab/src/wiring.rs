//! Devices, addresses, routes and sysctls. What each namespace gets is written down as text by pure functions, then
//! run by `ip -batch` inside it.

mod apply;
mod lan;
mod overlay;
mod pod;
pub(crate) mod xdp;

use std::fmt::Write as _;
use std::path::Path;

use crate::address::{self, Pair};
use crate::error::Result;
use crate::netns::Netns;
use crate::spec::{Cni, NodeSpec};

pub(crate) use apply::{run, wire_overlay, wire_pod};
pub(crate) use lan::{attach, switch, switch_port};
pub(crate) use overlay::{TUNNEL_PORT, overlay};
pub(crate) use pod::{bridge, pod, pod_sysctls};

/// The LAN device of every host.
pub(crate) const LAN_DEVICE: &str = "eth0";
/// The pod bridge of a node.
pub(crate) const BRIDGE: &str = "cni0";

/// A node's or pod's name as part of a device name, which has 15 characters.
pub(crate) fn veth(name: &str) -> String {
    format!("v-{name}")
}

/// The default routes; in a batch the family follows from the prefix.
pub(crate) const DEFAULT: (&str, &str) = ("0.0.0.0/0", "::/0");

/// A batch for `ip`.
#[derive(Debug, Default)]
pub(crate) struct Script(String);

impl Script {
    /// Adds a line.
    pub(crate) fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "{line}");
    }

    /// Gives a device an address of each family, with prefixes of these lengths.
    fn addresses(&mut self, device: &str, addresses: Pair, (v4, v6): (u8, u8)) {
        self.line(format_args!(
            "address add {}/{v4} dev {device}",
            addresses.v4
        ));
        self.line(format_args!(
            "address add {}/{v6} dev {device} nodad",
            addresses.v6
        ));
    }

    /// Adds routes to single hosts behind a device.
    fn hosts(&mut self, device: &str, hosts: Pair) {
        self.line(format_args!("route add {}/32 dev {device}", hosts.v4));
        self.line(format_args!("route add {}/128 dev {device}", hosts.v6));
    }

    /// Adds a route of each family.
    fn routes(&mut self, (v4, v6): (&str, &str), via: Pair) {
        self.line(format_args!("route add {v4} via {}", via.v4));
        self.line(format_args!("route add {v6} via {}", via.v6));
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// Sysctls of every namespace, before it has devices: IPv6 addresses are usable at once.
pub(crate) const EVERYWHERE: [(&str, &str); 2] = [
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
];

/// Keeps netfilter off what a switch carries, where the kernel has it look at bridges.
pub(crate) fn carry_everything(switch: &Netns) -> Result<()> {
    if Path::new("/proc/sys/net/bridge").exists() {
        switch.sysctl([
            ("net.bridge.bridge-nf-call-iptables", "0"),
            ("net.bridge.bridge-nf-call-ip6tables", "0"),
            ("net.bridge.bridge-nf-call-arptables", "0"),
        ])?;
    }
    Ok(())
}

/// Sysctls of a node.
pub(crate) fn node_sysctls(node: &NodeSpec) -> Vec<(&'static str, &'static str)> {
    let filter = node.rp_filter.value();
    let mut settings = vec![
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv4.conf.all.rp_filter", filter),
        ("net.ipv4.conf.default.rp_filter", filter),
    ];
    if let Cni::Bridge {
        nf_call_iptables, ..
    } = node.cni
    {
        let value = if nf_call_iptables { "1" } else { "0" };
        settings.push(("net.bridge.bridge-nf-call-iptables", value));
        settings.push(("net.bridge.bridge-nf-call-ip6tables", value));
    }
    settings
}

/// Sysctls of the workstation: it is also the nodes' router to the rest of the world, and filters nothing.
pub(crate) const WORKSTATION_SYSCTLS: [(&str, &str); 4] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
];

/// The workstation's routes: LoadBalancer and external IPs are behind one node.
pub(crate) fn workstation_routes(entry: Pair) -> Script {
    let mut script = Script::default();
    script.routes(address::LOAD_BALANCERS, entry);
    script.routes(address::EXTERNAL_IPS, entry);
    script
}
