//! Nodes.

use std::net::IpAddr;

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Label `topology.kubernetes.io/zone`, where it is there and not empty.
    pub zone: Option<String>,
    /// `status.addresses` of type `InternalIP`, then those of type `ExternalIP`.
    pub addresses: Vec<IpAddr>,
    /// It is about to go: it has a deletion timestamp, or the cluster autoscaler has marked it.
    pub leaving: bool,
}

impl Node {
    /// The first address of each family: what `--nodeport-addresses=primary` selects.
    pub fn primary_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.addresses.iter().find(|a| a.is_ipv4());
        let v6 = self.addresses.iter().find(|a| a.is_ipv6());
        v4.into_iter().chain(v6).copied()
    }
}
