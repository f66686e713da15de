//! Objects → frontends (semantics S1, S3, S4, S6, B4).

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::{
    abi::{
        frontend::{FrontendKind, Scope},
        meta::List,
    },
    addr::Family,
};

use super::Options;
use crate::{
    claims::ClaimKey,
    model::{Service, ServicePort, TrafficPolicy, service::family_of},
    plan::{FrontendAddress, Protocol, TargetKey},
};

/// A Service port in one family: what endpoints belong to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// Name of the Service port.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Family.
    pub family: Family,
}

impl PortKey {
    /// The target of one of its lists.
    pub fn with_list(&self, list: List) -> TargetKey {
        TargetKey {
            port_name: self.name.clone(),
            protocol: self.protocol,
            family: self.family,
            list,
        }
    }
}

/// What a Service claims: for each key the kind that counts (a ClusterIP goes before a node port, that before a load
/// balancer's address, that before an external IP). The port of its health check is a node port that has no frontend.
pub fn claims(service: &Service) -> BTreeMap<ClaimKey, FrontendKind> {
    let health_checks = health_check_keys(service).map(|key| (key, FrontendKind::NodePort));
    service
        .ports
        .iter()
        .flat_map(|port| wanted(service, port))
        .chain(health_checks)
        .fold(BTreeMap::new(), |mut all, (key, kind)| {
            all.entry(key)
                .and_modify(|k: &mut FrontendKind| *k = kind.min(*k))
                .or_insert(kind);
            all
        })
}

/// How many addresses and ports a Service claims at most. Costs much less than the claims.
pub fn most_claims(service: &Service) -> usize {
    let ips =
        service.cluster_ips.len() + service.load_balancer_ips.len() + service.external_ips.len();
    let node_ports = service.ports.iter().filter(|port| port.node_port.is_some());
    service.ports.len() * ips + node_ports.count() * 2
}

/// The ports of a Service in each of its families, each once.
pub(super) fn ports(service: &Service) -> impl Iterator<Item = (Family, Protocol, &str)> {
    let ports: BTreeSet<_> = service
        .ports
        .iter()
        .map(|port| (port.protocol, port.name.as_str()))
        .collect();
    families(service).flat_map(move |family| {
        let ports = ports.clone().into_iter();
        ports.map(move |(protocol, name)| (family, protocol, name))
    })
}

/// The claims of a Service that another proxy serves: nothing of ours may take a ClusterIP of it.
pub fn cluster_ip_claims(service: &Service) -> BTreeMap<ClaimKey, FrontendKind> {
    let mut all = claims(service);
    all.retain(|_, kind| *kind == FrontendKind::ClusterIp);
    all
}

/// The port of its health check (semantics H1), by family.
pub(super) fn health_check_keys(service: &Service) -> impl Iterator<Item = ClaimKey> {
    service.health_check_node_port.into_iter().flat_map(|port| {
        families(service).map(move |family| ClaimKey {
            address: FrontendAddress::Node(family),
            port,
            protocol: Protocol::Tcp,
        })
    })
}

/// What the Service has got, by port and family; every port is there in every family of the Service.
pub(super) fn by_port(
    service: &Service,
    owns: impl Fn(&ClaimKey) -> bool,
) -> BTreeMap<PortKey, Vec<(ClaimKey, FrontendKind)>> {
    let kinds = claims(service);
    let mut ports: BTreeMap<PortKey, Vec<_>> = BTreeMap::new();
    for port in &service.ports {
        for family in families(service) {
            ports.entry(port_key(port, family)).or_default();
        }
        for (key, kind) in wanted(service, port) {
            if kinds.get(&key) == Some(&kind) && owns(&key) {
                ports
                    .entry(port_key(port, family(&key)))
                    .or_default()
                    .push((key, kind));
            }
        }
    }
    ports
}

/// Whom a frontend of a kind serves.
pub(super) fn scopes(kind: FrontendKind, options: &Options) -> &'static [Scope] {
    if kind == FrontendKind::ClusterIp && !options.external_cluster_ip {
        &[Scope::Cluster]
    } else {
        &[Scope::Cluster, Scope::External]
    }
}

/// Which list of endpoints a frontend uses (semantics B4).
pub(super) fn list(service: &Service, kind: FrontendKind, scope: Scope) -> List {
    let policy = match (kind, scope) {
        (FrontendKind::ClusterIp, _) => service.internal_policy,
        (_, Scope::External) => service.external_policy,
        (_, Scope::Cluster) => TrafficPolicy::Cluster,
    };
    match policy {
        TrafficPolicy::Cluster => List::Cluster,
        TrafficPolicy::Local => List::Local,
    }
}

fn families(service: &Service) -> impl Iterator<Item = Family> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| service.has_family(*family))
}

fn port_key(port: &ServicePort, family: Family) -> PortKey {
    PortKey {
        name: port.name.clone(),
        protocol: port.protocol,
        family,
    }
}

pub(super) fn family(key: &ClaimKey) -> Family {
    match key.address {
        FrontendAddress::Ip(ip) => family_of(ip),
        FrontendAddress::Node(family) => family,
    }
}

/// All that a port asks for, in the families of its Service; one key may come as several kinds.
fn wanted(service: &Service, port: &ServicePort) -> impl Iterator<Item = (ClaimKey, FrontendKind)> {
    let (number, protocol) = (port.port, port.protocol);
    let ips = [
        (&service.cluster_ips, FrontendKind::ClusterIp),
        (&service.load_balancer_ips, FrontendKind::LoadBalancer),
        (&service.external_ips, FrontendKind::ExternalIp),
    ]
    .into_iter()
    .flat_map(|(ips, kind)| ips.iter().map(move |ip| (*ip, kind)))
    .filter(|(ip, _)| service.has_family(family_of(*ip)))
    .map(move |(ip, kind)| (FrontendAddress::Ip(ip), number, kind));
    let node_ports = port.node_port.into_iter().flat_map(|number| {
        families(service).map(move |family| {
            (
                FrontendAddress::Node(family),
                number,
                FrontendKind::NodePort,
            )
        })
    });
    ips.chain(node_ports).map(move |(address, port, kind)| {
        let key = ClaimKey {
            address,
            port,
            protocol,
        };
        (key, kind)
    })
}
