//! `--masquerade-local`: what comes from outside to a backend on this node gets an address of the node as its source, as
//! kube-proxy has it (semantics A2). The datapath says which packets by a bit of their mark; netfilter's conntrack, which
//! the backend's answers pass as well, does the rest (docs/adr/0031).

mod iptables;
mod nftables;
mod review;

use proxy_common::abi::settings::PortRange;

pub(super) use self::review::review;
use super::OURS;

/// What is masqueraded, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// What has this bit of the mark.
    pub mark: u32,
    /// Under these source ports. An answer to any other could look like a request to a node port.
    pub ports: PortRange,
}

/// The protocols that are translated: a rule for each, since ports are only known of a protocol.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

impl Masquerade {
    /// By which the rule of a protocol is known, and what it does.
    fn comment(&self, protocol: &str) -> String {
        let Self { mark, ports } = self;
        let (first, last) = (ports.first, ports.last);
        format!("{OURS} masquerade {protocol}, mark {mark:#x}, ports {first}-{last}")
    }

    /// Those of all rules, in their order.
    fn comments(&self) -> [String; 3] {
        PROTOCOLS.map(|protocol| self.comment(protocol))
    }
}

#[cfg(test)]
const EXAMPLE: Masquerade = Masquerade {
    mark: 0x4,
    ports: PortRange {
        first: 1024,
        last: 29_999,
    },
};

/// The table that is wanted, as nft lists it, without what does not matter.
#[cfg(test)]
pub(super) fn listing(wanted: &Masquerade) -> &'static str {
    let rule = |comment| format!(r#", {{"rule": {{"handle": 2, "comment": "{comment}"}}}}"#);
    let rules: String = wanted.comments().iter().map(rule).collect();
    let chain = r#"{"chain": {"family": "inet", "table": "kube-proxy-ebpf", "name": "postrouting", "type": "nat",
        "hook": "postrouting", "policy": "accept"}}"#;
    String::leak(format!(r#"{{"nftables": [{chain}{rules}]}}"#))
}
