//! Services.

use std::net::IpAddr;

use ipnet::IpNet;
use proxy_common::{abi::target::Algorithm, addr::Family};

use crate::plan::{Protocol, ServiceName};

/// Whether an address is IPv4 or IPv6.
pub fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// `internalTrafficPolicy`, `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// This node's endpoints only.
    Local,
}

/// Who proxies a Service (semantics S2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody: headless or `ExternalName`.
    None,
    /// Whoever is the cluster's proxy.
    #[default]
    Default,
    /// The proxy of this name (`service.kubernetes.io/service-proxy-name`).
    Named(String),
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty for an unnamed one.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port, not 0.
    pub port: u16,
    /// Node port, not 0.
    pub node_port: Option<u16>,
}

/// A Service. The addresses are those that are proxied: load balancers' with `ipMode: Proxy` are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name.
    pub name: ServiceName,
    /// `creationTimestamp` in seconds since 1970, where it is known.
    pub created: Option<i64>,
    /// Who proxies it.
    pub sharing: Sharing,
    /// `clusterIPs`, in order.
    pub cluster_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`, of any family.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `externalIPs`, of any family.
    pub external_ips: Vec<IpAddr>,
    /// Ports; no two have one (port, protocol) or one (node port, protocol).
    pub ports: Vec<ServicePort>,
    /// `internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `sessionAffinity: ClientIP` timeout in seconds.
    pub affinity_seconds: Option<u32>,
    /// How backends are chosen (annotation `kube-proxy-ebpf.io/algorithm`); `None`: as the flags say.
    pub algorithm: Option<Algorithm>,
    /// For how many seconds a backend is new (annotation `kube-proxy-ebpf.io/slow-start`); 0: it never is; `None`: as the
    /// flags say.
    pub slow_start: Option<u16>,
    /// `loadBalancerSourceRanges`: the valid ones; `None` where the object has no list.
    pub source_ranges: Option<Vec<IpNet>>,
    /// `healthCheckNodePort`, where one is needed (a load balancer with `externalTrafficPolicy: Local`) and is none of
    /// its own node ports.
    pub health_check_node_port: Option<u16>,
}

impl Service {
    /// Whether it has a ClusterIP of this family, and with it frontends and endpoints of this family
    /// (semantics S1).
    pub fn has_family(&self, family: Family) -> bool {
        self.cluster_ips.iter().any(|ip| family_of(*ip) == family)
    }

    /// The clients of a family that its load balancers' addresses let in (semantics A3): `None` all, an empty
    /// list none.
    pub fn source_ranges_of(&self, family: Family) -> Option<Vec<IpNet>> {
        let mut ranges: Vec<IpNet> = self
            .source_ranges
            .as_ref()?
            .iter()
            .filter(|range| family_of(range.addr()) == family)
            .copied()
            .collect();
        if ranges.iter().any(|range| range.prefix_len() == 0) {
            return None;
        }
        ranges.sort_unstable();
        ranges.dedup();
        Some(ranges)
    }
}
