//! A plain reference: `docs/semantics.md` written down once more, over the raw objects, without the agent's model, store,
//! policy or claims. It is slow and knows nothing of changes; only the form of its answer is the agent's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{LoadBalancerIngress, Node, Service, ServicePort, ServiceSpec},
    discovery::v1::{Endpoint, EndpointSlice},
};
use proxy_agent::report::{Algorithm, Backend, Empty, Frontend, Kind, Protocol, Scope};

/// All that the rules look at.
#[derive(Clone, Default)]
pub struct World {
    pub services: BTreeMap<(String, String), Service>,
    pub slices: BTreeMap<(String, String), EndpointSlice>,
    pub node: Option<Node>,
    pub node_name: String,
    pub node_addresses: BTreeSet<IpAddr>,
    pub proxy_name: Option<String>,
    pub external_cluster_ip: bool,
    pub filter_all_frontends: bool,
}

/// One (address, port, protocol) that a Service asks for.
struct Wish<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    kind: Kind,
}

type Place = (IpAddr, u16, Protocol);

impl World {
    /// What `plan` lists.
    pub fn frontends(&self) -> Vec<Frontend> {
        let mut wishes: BTreeMap<Place, Vec<Wish<'_>>> = BTreeMap::new();
        for service in self.services.values().filter(|s| is_proxied(s)) {
            let ours = self.is_ours(service);
            let spec = service.spec.as_ref().unwrap();
            for port in valid_ports(spec) {
                let protocol = protocol(port.protocol.as_deref()).unwrap();
                let mut wish = |ip: IpAddr, number: u16, kind| {
                    let place = (ip, number, protocol);
                    let wish = Wish {
                        service,
                        port,
                        kind,
                    };
                    wishes.entry(place).or_default().push(wish);
                };
                for ip in cluster_ips(spec) {
                    wish(ip, number(port.port).unwrap(), Kind::ClusterIP);
                }
                if !ours {
                    continue;
                }
                for ip in load_balancer_ips(service) {
                    if has_family(spec, ip) {
                        wish(ip, number(port.port).unwrap(), Kind::LoadBalancer);
                    }
                }
                for ip in hosts(spec.external_ips.iter().flatten()) {
                    if has_family(spec, ip) {
                        wish(ip, number(port.port).unwrap(), Kind::ExternalIP);
                    }
                }
                if let Some(node_port) = valid_node_port(spec, port) {
                    for ip in &self.node_addresses {
                        if has_family(spec, *ip) {
                            wish(*ip, node_port, Kind::NodePort);
                        }
                    }
                }
            }
        }
        let mut rows = BTreeMap::new();
        for (place, wishes) in wishes {
            for wish in settle(&wishes) {
                if !self.is_ours(wish.service) {
                    continue;
                }
                for frontend in self.rows(place, wish) {
                    rows.entry((place, frontend.scope)).or_insert(frontend);
                }
            }
        }
        rows.into_values().collect()
    }

    fn rows(&self, place: Place, wish: &Wish<'_>) -> Vec<Frontend> {
        let spec = wish.service.spec.as_ref().unwrap();
        let scopes: &[Scope] = if wish.kind == Kind::ClusterIP && !self.external_cluster_ip {
            &[Scope::Cluster]
        } else {
            &[Scope::Cluster, Scope::External]
        };
        let endpoints = self.endpoints(wish.service, wish.port, place.0.is_ipv4());
        scopes
            .iter()
            .map(|scope| {
                // B4
                let policy = match (wish.kind, scope) {
                    (Kind::ClusterIP, _) => spec.internal_traffic_policy.as_deref(),
                    (_, Scope::External) => spec.external_traffic_policy.as_deref(),
                    (_, Scope::Cluster) => None,
                };
                let list = if policy == Some("Local") {
                    self.local(&endpoints)
                } else {
                    self.cluster(&endpoints)
                };
                let empty = match (list.is_empty(), self.cluster(&endpoints).is_empty()) {
                    (false, _) => None,
                    (true, true) => Some(Empty::Reject),
                    (true, false) => Some(Empty::Drop),
                };
                let ranges = (wish.kind == Kind::LoadBalancer || self.filter_all_frontends)
                    .then(|| source_ranges(spec, place.0.is_ipv4()))
                    .flatten();
                Frontend {
                    service: format!("{}/{}", id(wish.service).0, id(wish.service).1),
                    port_name: wish.port.name.clone().unwrap_or_default(),
                    kind: wish.kind,
                    address: place.0,
                    port: place.1,
                    protocol: place.2,
                    scope: *scope,
                    algorithm: algorithm(wish.service),
                    affinity_seconds: affinity(spec),
                    slow_start_seconds: slow_start(wish.service),
                    admits_node: ranges.as_ref().is_none_or(|ranges| {
                        let mine =
                            |range: &IpNet| self.node_addresses.iter().any(|ip| range.contains(ip));
                        ranges.iter().any(mine)
                    }),
                    source_ranges: ranges,
                    empty,
                    backends: list.into_iter().map(|c| c.backend).collect(),
                }
            })
            .collect()
    }

    /// S2
    fn is_ours(&self, service: &Service) -> bool {
        let label = "service.kubernetes.io/service-proxy-name";
        let labels = service.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get(label))
            .is_none_or(|name| self.proxy_name.as_ref() == Some(name))
    }

    /// S5: the endpoints of a Service port, merged.
    fn endpoints(&self, service: &Service, port: &ServicePort, v4: bool) -> Vec<Candidate> {
        let mut all: Vec<Candidate> = Vec::new();
        for slice in self.slices.values() {
            let labels = slice.metadata.labels.clone().unwrap_or_default();
            let is_of = slice.metadata.namespace == service.metadata.namespace
                && labels.get("kubernetes.io/service-name") == service.metadata.name.as_ref();
            let is_headless = labels.contains_key("service.kubernetes.io/headless");
            if !is_of || is_headless || slice.address_type != if v4 { "IPv4" } else { "IPv6" } {
                continue;
            }
            for slice_port in slice.ports.iter().flatten() {
                let same = slice_port.name.clone().unwrap_or_default()
                    == port.name.clone().unwrap_or_default()
                    && protocol(slice_port.protocol.as_deref())
                        == protocol(port.protocol.as_deref());
                let Some(number) = slice_port.port.and_then(number).filter(|_| same) else {
                    continue;
                };
                for endpoint in slice.endpoints.iter().flatten() {
                    let Some(address) = endpoint.addresses.first().and_then(|a| host(a)) else {
                        continue;
                    };
                    if address.is_ipv4() == v4 {
                        all.push(candidate(endpoint, address, number, weight(slice)));
                    }
                }
            }
        }
        // Stable: what is equal stays in the order of slices.
        all.sort_by_key(|c| {
            (
                c.backend.address,
                c.backend.port,
                c.backend.terminating,
                !c.ready,
                !c.serving,
            )
        });
        all.dedup_by_key(|c| (c.backend.address, c.backend.port));
        all
    }

    /// B2
    fn cluster(&self, endpoints: &[Candidate]) -> Vec<Candidate> {
        let ready: Vec<&Candidate> = endpoints.iter().filter(|c| c.ready).collect();
        if ready.is_empty() {
            return endpoints
                .iter()
                .filter(|c| c.serving && c.backend.terminating)
                .cloned()
                .collect();
        }
        let zone = self.zone();
        let for_node = |c: &Candidate| c.for_nodes.contains(&self.node_name);
        let for_zone = |c: &Candidate| zone.as_ref().is_some_and(|zone| c.for_zones.contains(zone));
        let chosen: Vec<&Candidate> =
            if ready.iter().all(|c| !c.for_nodes.is_empty()) && ready.iter().any(|c| for_node(c)) {
                ready.into_iter().filter(|c| for_node(c)).collect()
            } else if zone.is_some()
                && ready.iter().all(|c| !c.for_zones.is_empty())
                && ready.iter().any(|c| for_zone(c))
            {
                ready.into_iter().filter(|c| for_zone(c)).collect()
            } else {
                ready
            };
        chosen.into_iter().cloned().collect()
    }

    /// B3
    fn local(&self, endpoints: &[Candidate]) -> Vec<Candidate> {
        let here = |c: &&Candidate| c.backend.node.as_deref() == Some(self.node_name.as_str());
        let ready: Vec<_> = endpoints.iter().filter(here).filter(|c| c.ready).collect();
        let list = if ready.is_empty() {
            let mut leaving: Vec<_> = endpoints.iter().filter(here).collect();
            leaving.retain(|c| c.serving && c.backend.terminating);
            leaving
        } else {
            ready
        };
        list.into_iter().cloned().collect()
    }

    fn zone(&self) -> Option<String> {
        let labels = self.node.as_ref()?.metadata.labels.as_ref()?;
        let zone = labels.get("topology.kubernetes.io/zone")?;
        (!zone.is_empty()).then(|| zone.clone())
    }
}

/// S7: who gets a place; the first for each scope counts.
fn settle<'a, 'b>(wishes: &'b [Wish<'a>]) -> Vec<&'b Wish<'a>> {
    let oldest = |kinds: &[Kind]| {
        wishes
            .iter()
            .filter(|w| kinds.contains(&w.kind))
            .min_by_key(|w| (age(w.service), id(w.service), w.kind))
    };
    let node_port = oldest(&[Kind::NodePort]);
    let exact = match (oldest(&[Kind::ClusterIP]), node_port) {
        (Some(cluster_ip), _) => Some(cluster_ip),
        (None, None) => oldest(&[Kind::LoadBalancer, Kind::ExternalIP]),
        (None, Some(holder)) => wishes
            .iter()
            .filter(|w| w.kind != Kind::NodePort && id(w.service) == id(holder.service))
            .min_by_key(|w| w.kind),
    };
    exact.into_iter().chain(node_port).collect()
}

#[derive(Clone)]
struct Candidate {
    backend: Backend,
    ready: bool,
    serving: bool,
    for_nodes: Vec<String>,
    for_zones: Vec<String>,
}

/// B1
fn candidate(endpoint: &Endpoint, address: IpAddr, port: u16, weight: u32) -> Candidate {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let hints = endpoint.hints.clone().unwrap_or_default();
    Candidate {
        backend: Backend {
            address,
            port,
            node: endpoint.node_name.clone(),
            zone: endpoint.zone.clone(),
            weight,
            terminating: conditions.terminating == Some(true),
        },
        ready: conditions.ready != Some(false),
        serving: conditions.serving != Some(false),
        for_nodes: hints
            .for_nodes
            .into_iter()
            .flatten()
            .map(|n| n.name)
            .collect(),
        for_zones: hints
            .for_zones
            .into_iter()
            .flatten()
            .map(|z| z.name)
            .collect(),
    }
}

/// S2: neither headless nor a name.
fn is_proxied(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() != Some("ExternalName")
            && spec.cluster_ip.as_deref() != Some("None")
            && !spec.cluster_ips.iter().flatten().any(|ip| ip == "None")
    })
}

fn id(service: &Service) -> (&str, &str) {
    let metadata = &service.metadata;
    (
        metadata.namespace.as_deref().unwrap(),
        metadata.name.as_deref().unwrap(),
    )
}

/// Known ages first, the oldest at the front.
fn age(service: &Service) -> (bool, i64) {
    let created = service.metadata.creation_timestamp.as_ref();
    (
        created.is_none(),
        created.map_or(0, |time| time.0.as_second()),
    )
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    match spec.cluster_ips.as_deref() {
        None | Some([]) => hosts(spec.cluster_ip.iter()),
        Some(list) => hosts(list.iter()),
    }
}

fn has_family(spec: &ServiceSpec, ip: IpAddr) -> bool {
    cluster_ips(spec)
        .iter()
        .any(|c| c.is_ipv4() == ip.is_ipv4())
}

/// S3
fn load_balancer_ips(service: &Service) -> Vec<IpAddr> {
    let balancer = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let intercepted =
        |i: &&LoadBalancerIngress| i.ip_mode.is_none() || i.ip_mode.as_deref() == Some("VIP");
    balancer
        .iter()
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        .filter(intercepted)
        .filter_map(|i| host(i.ip.as_ref()?))
        .collect()
}

/// Ports with a number and a protocol, the first of each pair.
fn valid_ports(spec: &ServiceSpec) -> Vec<&ServicePort> {
    let mut seen = Vec::new();
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let (Some(number), Some(protocol)) =
            (number(port.port), protocol(port.protocol.as_deref()))
        else {
            continue;
        };
        if !seen.contains(&(number, protocol)) {
            seen.push((number, protocol));
            ports.push(port);
        }
    }
    ports
}

/// The node port, unless another port of the Service had it first.
fn valid_node_port(spec: &ServiceSpec, port: &ServicePort) -> Option<u16> {
    let wanted = number(port.node_port?)?;
    let first = valid_ports(spec).into_iter().find(|p| {
        p.node_port.and_then(number) == Some(wanted)
            && protocol(p.protocol.as_deref()) == protocol(port.protocol.as_deref())
    })?;
    std::ptr::eq(first, port).then_some(wanted)
}

fn number(n: i32) -> Option<u16> {
    u16::try_from(n).ok().filter(|n| *n > 0)
}

fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// L2
fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.clone().unwrap_or_default();
    let seconds = config.client_ip.and_then(|c| c.timeout_seconds);
    Some(match seconds {
        Some(n @ 1..=86_400) => n.unsigned_abs(),
        _ => 10_800,
    })
}

/// L1
fn algorithm(service: &Service) -> Algorithm {
    let annotations = service.metadata.annotations.clone().unwrap_or_default();
    let text = annotations.get("kube-proxy-ebpf.io/algorithm");
    match text.map(String::as_str) {
        Some("random") => Algorithm::Random,
        Some("maglev") => Algorithm::Maglev,
        Some("least-connections") => Algorithm::LeastConnections,
        // The cluster's planner has it as its default.
        _ => Algorithm::RoundRobin,
    }
}

/// L1
fn slow_start(service: &Service) -> Option<u16> {
    let annotations = service.metadata.annotations.clone().unwrap_or_default();
    let text = annotations.get("kube-proxy-ebpf.io/slow-start");
    match text.map(String::as_str) {
        Some("20s") => Some(20),
        Some("2m") => Some(120),
        Some("0s") => None,
        // The cluster's planner has it as its default.
        _ => Some(45),
    }
}

/// A3
fn source_ranges(spec: &ServiceSpec, v4: bool) -> Option<Vec<IpNet>> {
    let texts = spec.load_balancer_source_ranges.clone().unwrap_or_default();
    if texts.is_empty() {
        return None;
    }
    let ranges: BTreeSet<IpNet> = texts
        .iter()
        .filter_map(|text| text.trim().parse::<IpNet>().ok())
        .map(|range| range.trunc())
        .filter(|range| range.addr().is_ipv4() == v4)
        .collect();
    let all = ranges.iter().any(|range| range.prefix_len() == 0);
    (!all).then(|| ranges.into_iter().collect())
}

fn weight(slice: &EndpointSlice) -> u32 {
    let annotations = slice.metadata.annotations.clone().unwrap_or_default();
    annotations
        .get("kube-proxy-ebpf.io/weight")
        .and_then(|text| text.parse().ok().and_then(number))
        .map_or(1, u32::from)
}

fn hosts<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.filter_map(|text| host(text)).collect()
}

/// An address, with leading zeros dropped, that is one host's.
fn host(text: &str) -> Option<IpAddr> {
    let ip: IpAddr = if text.contains(':') {
        IpAddr::V6(text.parse::<Ipv6Addr>().ok()?)
    } else {
        let octets: Vec<u8> = text
            .split('.')
            .map(|part| part.parse().ok())
            .collect::<Option<_>>()?;
        IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?))
    };
    let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    (!special).then_some(ip)
}
