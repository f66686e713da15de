//! A pod of the lab.

use crate::host::Host;

/// A pod: a host, on a node.
#[derive(Debug)]
pub struct Pod {
    host: Host,
    node: String,
    covered: bool,
}

impl Pod {
    pub(crate) fn new(host: Host, node: &str, covered: bool) -> Self {
        Self {
            host,
            node: node.to_owned(),
            covered,
        }
    }

    /// The name of the pod's node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Whether its sockets are in the node's cgroup, so that the socket hooks see them.
    pub fn covered_by_sockets(&self) -> bool {
        self.covered
    }
}

impl std::ops::Deref for Pod {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}
