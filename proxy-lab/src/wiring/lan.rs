//! The network between the hosts: a bridge in its own namespace.

use super::{LAN_DEVICE, Script, veth};
use crate::address::{self, Pair};

/// The switch itself.
pub(crate) fn switch() -> Script {
    let mut script = Script::default();
    script.line(format_args!("link set lo up"));
    script.line(format_args!(
        "link add br0 type bridge forward_delay 0 mcast_snooping 0"
    ));
    script.line(format_args!("link set br0 up"));
    script
}

/// In the switch: a host's port.
pub(crate) fn switch_port(script: &mut Script, host: &str) {
    script.line(format_args!("link set {} master br0 up", veth(host)));
}

/// In a host: its LAN device, and the way to other nodes' pods and to the rest of the world.
///
/// `switch` is the switch's namespace, `peers` are the indices of the other nodes, `router` is the default gateway.
pub(crate) fn attach(
    host: &str,
    own: Pair,
    switch: &str,
    peers: &[u8],
    router: Option<Pair>,
) -> Script {
    let mut script = Script::default();
    script.line(format_args!("link set lo up"));
    script.line(format_args!(
        "link add {LAN_DEVICE} type veth peer name {} netns {switch}",
        veth(host)
    ));
    script.addresses(LAN_DEVICE, own, (24, 64));
    script.line(format_args!("link set {LAN_DEVICE} up"));
    for &peer in peers {
        let (v4, v6) = address::pod_ranges(peer);
        script.routes((&v4, &v6), address::node(peer));
    }
    if let Some(router) = router {
        script.routes(super::DEFAULT, router);
    }
    script
}
