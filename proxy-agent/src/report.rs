//! What is programmed, for people and for other tools: the output of `plan` (from objects) and of `services` (from
//! the maps). The JSON form is a stable contract, described in `docs/operation.md`.

mod table;

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use proxy_common::abi::{
    frontend::{self, FrontendKind},
    target,
};
use serde::{Deserialize, Serialize};

use crate::{
    model::{ObjectRef, Problem, service::family_of},
    plan::{self, FrontendAddress, FrontendPlan, ServiceName, ServicePlan},
};

/// Warnings that are listed.
const MOST_WARNINGS: usize = 1000;

/// The whole output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the node.
    pub node: String,
    /// Sorted by address (IPv4 first), port, protocol, scope.
    pub frontends: Vec<Frontend>,
    /// What was left out, and why.
    pub warnings: Vec<Problem>,
}

/// One frontend; a node port is one for each address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontend {
    /// `namespace/name`.
    pub service: String,
    /// Name of the Service port; empty for an unnamed one.
    pub port_name: String,
    /// What it is of.
    pub kind: Kind,
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Whom it serves.
    pub scope: Scope,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// `sessionAffinity: ClientIP` timeout.
    pub affinity_seconds: Option<u32>,
    /// For how long a backend is new, and takes less than its share of new connections.
    pub slow_start_seconds: Option<u16>,
    /// Who may use it: `None` all, an empty list nobody.
    pub source_ranges: Option<Vec<IpNet>>,
    /// Whether these let in the node's own processes.
    pub admits_node: bool,
    /// What happens to a connection when there is no backend.
    pub empty: Option<Empty>,
    /// Sorted by address and port; empty exactly when `empty` is not `None`.
    pub backends: Vec<Backend>,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Node, where known.
    pub node: Option<String>,
    /// Zone, where known.
    pub zone: Option<String>,
    /// Relative weight.
    pub weight: u32,
    /// Whether it is about to go.
    pub terminating: bool,
}

/// What a frontend is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// `clusterIPs[]`.
    ClusterIP,
    /// `nodePort`.
    NodePort,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer,
    /// `externalIPs[]`.
    ExternalIP,
}

/// Protocol, in the order of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// SCTP.
    Sctp,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Whom a frontend serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// This node and its pods.
    Cluster,
    /// Everybody else.
    External,
}

/// How a backend is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Uniformly random for each connection.
    Random,
    /// One after the other.
    RoundRobin,
    /// By a hash of the client, the same on every node.
    Maglev,
    /// Of two random ones, the one with fewer connections from this node for its weight.
    LeastConnections,
}

/// What happens to a connection when there is no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Empty {
    /// Refused.
    Reject,
    /// Dropped.
    Drop,
}

impl Report {
    /// Lists plans. `node_addresses` are those on which node ports answer, without the loopback.
    pub fn new<'a>(
        node: impl Into<String>,
        plans: impl IntoIterator<Item = (&'a ServiceName, &'a ServicePlan)>,
        node_addresses: &[IpAddr],
        mut warnings: Vec<Problem>,
    ) -> Self {
        // A frontend of its own address goes before the node port of the same number, as in the datapath.
        let mut frontends = BTreeMap::new();
        for (service, plan) in plans {
            for planned in &plan.frontends {
                let (addresses, is_node_port) = match planned.address {
                    FrontendAddress::Ip(ip) => (vec![ip], false),
                    FrontendAddress::Node(family) => (
                        node_addresses
                            .iter()
                            .filter(|ip| family_of(**ip) == family)
                            .copied()
                            .collect(),
                        true,
                    ),
                };
                for address in addresses {
                    if let Some(frontend) = Frontend::new(service, plan, planned, address) {
                        let key = (address, frontend.port, frontend.protocol, frontend.scope);
                        if is_node_port {
                            frontends.entry(key).or_insert(frontend);
                        } else {
                            frontends.insert(key, frontend);
                        }
                    }
                }
            }
        }
        warnings.sort_unstable();
        warnings.dedup();
        let node = node.into();
        let more = warnings.len().saturating_sub(MOST_WARNINGS);
        if more > 0 {
            warnings.truncate(MOST_WARNINGS);
            warnings.push(Problem {
                object: ObjectRef::plain("Node", &node),
                message: format!("{more} more warnings are not listed"),
            });
        }
        Self {
            node,
            frontends: frontends.into_values().collect(),
            warnings,
        }
    }

    /// As indented JSON.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}

impl Frontend {
    fn new(
        service: &ServiceName,
        plan: &ServicePlan,
        planned: &FrontendPlan,
        address: IpAddr,
    ) -> Option<Self> {
        let target = plan.targets.get(&planned.target)?;
        let sources = target.sources.as_ref();
        let sources = sources.filter(|sources| sources.hold_for(planned.kind));
        Some(Self {
            service: service.to_string(),
            port_name: planned.target.port_name.clone(),
            kind: planned.kind.into(),
            address,
            port: planned.port,
            protocol: planned.protocol.into(),
            scope: planned.scope.into(),
            algorithm: target.algorithm.into(),
            affinity_seconds: target.affinity_seconds,
            slow_start_seconds: target.slow_start_seconds,
            source_ranges: sources.map(|sources| sources.ranges.clone()),
            admits_node: sources.is_none_or(|sources| sources.node),
            empty: target.empty.map(Into::into),
            backends: target.backends.iter().map(Into::into).collect(),
        })
    }
}

impl From<&plan::BackendPlan> for Backend {
    fn from(plan: &plan::BackendPlan) -> Self {
        Self {
            address: plan.address,
            port: plan.port,
            node: plan.node.clone(),
            zone: plan.zone.clone(),
            weight: plan.weight,
            terminating: plan.terminating,
        }
    }
}

impl From<FrontendKind> for Kind {
    fn from(kind: FrontendKind) -> Self {
        match kind {
            FrontendKind::ClusterIp => Self::ClusterIP,
            FrontendKind::NodePort => Self::NodePort,
            FrontendKind::LoadBalancer => Self::LoadBalancer,
            FrontendKind::ExternalIp => Self::ExternalIP,
        }
    }
}

impl From<target::Algorithm> for Algorithm {
    fn from(algorithm: target::Algorithm) -> Self {
        match algorithm {
            target::Algorithm::Random => Self::Random,
            target::Algorithm::RoundRobin => Self::RoundRobin,
            target::Algorithm::Maglev => Self::Maglev,
            target::Algorithm::LeastConnections => Self::LeastConnections,
        }
    }
}

impl From<plan::Protocol> for Protocol {
    fn from(protocol: plan::Protocol) -> Self {
        match protocol {
            plan::Protocol::Tcp => Self::Tcp,
            plan::Protocol::Udp => Self::Udp,
            plan::Protocol::Sctp => Self::Sctp,
        }
    }
}

impl From<frontend::Scope> for Scope {
    fn from(scope: frontend::Scope) -> Self {
        match scope {
            frontend::Scope::Cluster => Self::Cluster,
            frontend::Scope::External => Self::External,
        }
    }
}

impl From<plan::Empty> for Empty {
    fn from(empty: plan::Empty) -> Self {
        match empty {
            plan::Empty::Reject => Self::Reject,
            plan::Empty::Drop => Self::Drop,
        }
    }
}
