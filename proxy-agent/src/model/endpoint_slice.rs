//! `EndpointSlices`.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use proxy_common::addr::Family;

use crate::plan::{Protocol, ServiceName};

/// Weight of an endpoint whose slice has no annotation.
pub const DEFAULT_WEIGHT: u32 = 1;

/// `namespace/name` of an `EndpointSlice`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One port of all endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Name of the Service port that it belongs to; empty for the unnamed one.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port, not 0.
    pub port: u16,
}

/// One endpoint; the conditions have their defaults (semantics B1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its first address; the family is the slice's.
    pub address: IpAddr,
    /// `nodeName`.
    pub node: Option<String>,
    /// `zone`.
    pub zone: Option<String>,
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `hints.forNodes`.
    pub node_hints: BTreeSet<String>,
    /// `hints.forZones`.
    pub zone_hints: BTreeSet<String>,
}

/// An `EndpointSlice` of a Service. Those that belong to none, are headless or hold names are never made
/// (semantics S2, S5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Name.
    pub name: SliceName,
    /// The Service (label `kubernetes.io/service-name`).
    pub service: ServiceName,
    /// Family of all its addresses.
    pub family: Family,
    /// Ports.
    pub ports: Vec<EndpointPort>,
    /// Endpoints, in order.
    pub endpoints: Vec<Endpoint>,
    /// Weight of each endpoint (annotation `kube-proxy-ebpf.io/weight`).
    pub weight: u32,
    /// When what caused this state happened, in nanoseconds since 1970 (annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`).
    pub triggered: Option<i128>,
}
