//! What one Service means on this node, as the maps must show it. Pure data: made by `policy`, programmed by
//! `delta`, printed by the command `plan`.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;
use proxy_common::{
    abi::{
        frontend::{FrontendKind, Scope},
        meta::List,
        target::Algorithm,
    },
    addr::Family,
};

/// `namespace/name` of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocol of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP.
    Tcp = proxy_common::abi::protocol::TCP,
    /// UDP.
    Udp = proxy_common::abi::protocol::UDP,
    /// SCTP.
    Sctp = proxy_common::abi::protocol::SCTP,
}

/// Where a frontend listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendAddress {
    /// One address.
    Ip(IpAddr),
    /// All of this node's node-port addresses of a family.
    Node(Family),
}

/// Identity of a target within its Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetKey {
    /// Name of the Service port; empty for an unnamed one.
    pub port_name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Family of the frontends and of all backends.
    pub family: Family,
    /// Which list of endpoints.
    pub list: List,
}

/// What happens to a new connection of a target without backends (semantics B5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Empty {
    /// Refused.
    Reject,
    /// Dropped.
    Drop,
}

/// One endpoint that a target sends connections to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendPlan {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// On this node: its `nodeName` is ours, or its address is one of this node's.
    pub local: bool,
    /// Node, where the slice says it.
    pub node: Option<String>,
    /// Zone, where the slice says it.
    pub zone: Option<String>,
    /// Relative weight.
    pub weight: u32,
    /// `conditions.terminating`. In a target such a one is only there because nothing better is left (semantics B2, B3), or
    /// because it is published although it is not ready.
    pub terminating: bool,
}

/// One target: a list of backends that one or more frontends share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPlan {
    /// Sorted by (address, port); empty exactly when `empty` is given.
    pub backends: Vec<BackendPlan>,
    /// What an empty list means.
    pub empty: Option<Empty>,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// `sessionAffinity: ClientIP` timeout.
    pub affinity_seconds: Option<u32>,
    /// For how long a backend is new, and takes less than its share of new connections.
    pub slow_start_seconds: Option<u16>,
    /// `loadBalancerSourceRanges` of this family; `None`: all are let in, or no frontend of the target
    /// [filters](Sources::hold_for).
    pub sources: Option<Sources>,
}

/// Who is let in (semantics A3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Clients; none: nobody.
    pub ranges: Vec<IpNet>,
    /// Whether this node's own processes are let in: one of its addresses is in a range.
    pub node: bool,
    /// To all frontends, not to load balancer addresses alone.
    pub all_frontends: bool,
}

impl Sources {
    /// Whether frontends of a kind filter.
    pub const fn hold_for(&self, kind: FrontendKind) -> bool {
        self.all_frontends || matches!(kind, FrontendKind::LoadBalancer)
    }
}

/// One frontend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendPlan {
    /// Where it listens.
    pub address: FrontendAddress,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Whom it serves.
    pub scope: Scope,
    /// What it is of.
    pub kind: FrontendKind,
    /// Where its connections go; a key of [`ServicePlan::targets`].
    pub target: TargetKey,
}

/// What load balancers are told about a Service that wants local endpoints only (`healthCheckNodePort`, semantics H1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Port on this node.
    pub port: u16,
    /// How many addresses of this node's endpoints are ready, by family of the Service; those that terminate do not count.
    pub ready: BTreeMap<Family, usize>,
}

/// Everything of one Service. A Service that means nothing here (headless, ExternalName, …) has no frontends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Sorted, without duplicates of (address, port, protocol, scope).
    pub frontends: Vec<FrontendPlan>,
    /// Exactly the targets that `frontends` name.
    pub targets: BTreeMap<TargetKey, TargetPlan>,
    /// Endpoints that serve although no target lists them for new connections (terminating, or left out by
    /// topology), by key (its list is always `Cluster`): their flows go on (semantics L3, L4, L6).
    pub draining: BTreeMap<TargetKey, Vec<BackendPlan>>,
    /// Endpoints that do not serve, though they are not deleted, by key (its list is always `Cluster`): TCP connections to them
    /// go on. Known only where those to deleted ones are ended ([`Options::end_tcp`](crate::policy::Options::end_tcp)).
    pub not_serving: BTreeMap<TargetKey, Vec<BackendPlan>>,
    /// What load balancers are told about it. Not in the maps.
    pub health_check: Option<HealthCheck>,
}
