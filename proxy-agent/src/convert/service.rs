//! Services (semantics S1–S3, L1, L2, A3).

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use proxy_common::{abi::target::Algorithm, addr::Family};

use super::{
    Converted, Reporter,
    address::{parse_host, parse_range},
    annotations, port_number, slow_start,
};
use crate::{
    model::{ObjectRef, Service, ServicePort, Sharing, TrafficPolicy},
    plan::{Protocol, ServiceName},
};

/// Annotation of a Service: how its backends are chosen (semantics L1), by a name of [`Algorithm`]. Without it: as the
/// flags say.
pub const ALGORITHM_ANNOTATION: &str = "kube-proxy-ebpf.io/algorithm";

/// Annotation of a Service: how long a backend is new (semantics L1), as [`slow_start`] reads it. Without it: as the flags say.
pub const SLOW_START_ANNOTATION: &str = "kube-proxy-ebpf.io/slow-start";

const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;
const MAX_AFFINITY_SECONDS: i32 = 86_400;

/// Converts a Service.
pub fn service(object: &v1::Service) -> Converted<Service> {
    let metadata = &object.metadata;
    let name = ServiceName {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    };
    let mut reporter = Reporter::new(ObjectRef::namespaced(
        "Service",
        &name.namespace,
        &name.name,
    ));
    let mut service = Service {
        name,
        created: metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0.as_second()),
        sharing: sharing(object),
        cluster_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        external_ips: Vec::new(),
        ports: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity_seconds: None,
        algorithm: None,
        slow_start: None,
        source_ranges: None,
        health_check_node_port: None,
    };
    let Some(spec) = &object.spec else {
        service.sharing = Sharing::None;
        return reporter.finish(service);
    };
    if service.sharing == Sharing::None {
        return reporter.finish(service);
    }
    service.cluster_ips = cluster_ips(spec, &mut reporter);
    service.external_ips = addresses(
        "externalIPs",
        spec.external_ips.iter().flatten(),
        &mut reporter,
    );
    service.load_balancer_ips = load_balancer_ips(object, &mut reporter);
    service.ports = ports(spec, &mut reporter);
    service.internal_policy = traffic_policy(
        "internalTrafficPolicy",
        spec.internal_traffic_policy.as_deref(),
        &mut reporter,
    );
    service.external_policy = traffic_policy(
        "externalTrafficPolicy",
        spec.external_traffic_policy.as_deref(),
        &mut reporter,
    );
    service.affinity_seconds = affinity(spec, &mut reporter);
    let known = [ALGORITHM_ANNOTATION, SLOW_START_ANNOTATION];
    annotations::check(metadata, &known, &mut reporter);
    annotations::check_labels(metadata, &mut reporter);
    service.algorithm = algorithm(object, &mut reporter);
    service.slow_start = slow_start(object, &mut reporter);
    service.source_ranges = source_ranges(spec, &mut reporter);
    service.health_check_node_port = health_check_node_port(spec, &service, &mut reporter);
    check_source_ranges(&service, &mut reporter);
    check_own_addresses(&service, &mut reporter);
    reporter.finish(service)
}

/// The protocol of a port; nil means TCP, `None` that it is not known.
pub(super) fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn sharing(object: &v1::Service) -> Sharing {
    let spec = object.spec.as_ref();
    let external_name = spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
    let headless = spec.is_some_and(|spec| {
        spec.cluster_ip.as_deref() == Some("None")
            || spec.cluster_ips.iter().flatten().any(|ip| ip == "None")
    });
    if external_name || headless {
        return Sharing::None;
    }
    let labels = object.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(PROXY_NAME_LABEL))
        .map_or(Sharing::Default, |name| Sharing::Named(name.clone()))
}

fn addresses<'a>(
    field: &str,
    texts: impl Iterator<Item = &'a String>,
    reporter: &mut Reporter,
) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for text in texts {
        match parse_host(text) {
            Ok(ip) if !seen.insert(ip) => {}
            Ok(ip) => found.push(ip),
            Err(error) => reporter.report(format!("{field}: {text:?} {error}; it is left out")),
        }
    }
    found
}

fn cluster_ips(spec: &v1::ServiceSpec, reporter: &mut Reporter) -> Vec<IpAddr> {
    let list = spec.cluster_ips.iter().flatten();
    let single = spec
        .cluster_ip
        .iter()
        .filter(|_| spec.cluster_ips.as_ref().is_none_or(Vec::is_empty));
    addresses(
        "clusterIPs",
        list.chain(single).filter(|text| !text.is_empty()),
        reporter,
    )
}

fn load_balancer_ips(object: &v1::Service, reporter: &mut Reporter) -> Vec<IpAddr> {
    let ingress = object
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref())
        .flat_map(|balancer| balancer.ingress.iter().flatten());
    let mut texts = Vec::new();
    for entry in ingress {
        let Some(ip) = entry.ip.as_ref().filter(|ip| !ip.is_empty()) else {
            continue;
        };
        match entry.ip_mode.as_deref() {
            None | Some("VIP") => texts.push(ip),
            Some("Proxy") => {}
            Some(other) => reporter.report(format!(
                "status.loadBalancer.ingress: ipMode {other:?} of {ip} is not known (VIP, Proxy); the address is left alone"
            )),
        }
    }
    addresses("status.loadBalancer.ingress", texts.into_iter(), reporter)
}

fn ports(spec: &v1::ServiceSpec, reporter: &mut Reporter) -> Vec<ServicePort> {
    let mut seen = BTreeSet::new();
    let mut seen_node_ports = BTreeSet::new();
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let name = port.name.clone().unwrap_or_default();
        let Some(number) = port_number(port.port) else {
            reporter.report(format!(
                "port {name:?}: {} is no port number; the port is left out",
                port.port
            ));
            continue;
        };
        let Some(protocol) = protocol(port.protocol.as_deref()) else {
            reporter.report(format!(
                "port {name:?}: protocol {:?} is not known (TCP, UDP, SCTP); the port is left out",
                port.protocol.as_deref().unwrap_or_default()
            ));
            continue;
        };
        if !seen.insert((number, protocol)) {
            reporter.report(format!(
                "port {name:?}: another port has the number {number} and this protocol already; this one is left out"
            ));
            continue;
        }
        let node_port = match port.node_port.unwrap_or(0) {
            0 => None,
            n => match port_number(n) {
                None => {
                    reporter.report(format!(
                        "port {name:?}: {n} is no node port; it is left out"
                    ));
                    None
                }
                Some(n) if !seen_node_ports.insert((n, protocol)) => {
                    reporter.report(format!(
                        "port {name:?}: another port has the node port {n} and this protocol already; it is left out"
                    ));
                    None
                }
                some => some,
            },
        };
        ports.push(ServicePort {
            name,
            protocol,
            port: number,
            node_port,
        });
    }
    ports
}

fn traffic_policy(field: &str, text: Option<&str>, reporter: &mut Reporter) -> TrafficPolicy {
    match text {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            reporter.report(format!(
                "{field}: {other:?} is not known (Cluster, Local); Cluster is taken"
            ));
            TrafficPolicy::Cluster
        }
    }
}

fn affinity(spec: &v1::ServiceSpec, reporter: &mut Reporter) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            reporter.report(format!(
                "sessionAffinity: {other:?} is not known (None, ClientIP); None is taken"
            ));
            return None;
        }
    }
    let seconds = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client_ip| client_ip.timeout_seconds)
        .unwrap_or(DEFAULT_AFFINITY_SECONDS);
    if (1..=MAX_AFFINITY_SECONDS).contains(&seconds) {
        return Some(seconds.unsigned_abs());
    }
    reporter.report(format!(
        "sessionAffinityConfig: timeoutSeconds {seconds} is not within 1–{MAX_AFFINITY_SECONDS}; {DEFAULT_AFFINITY_SECONDS} is taken"
    ));
    Some(DEFAULT_AFFINITY_SECONDS.unsigned_abs())
}

fn algorithm(object: &v1::Service, reporter: &mut Reporter) -> Option<Algorithm> {
    let annotations = object.metadata.annotations.as_ref()?;
    let text = annotations.get(ALGORITHM_ANNOTATION)?;
    let algorithm = Algorithm::from_name(text);
    if algorithm.is_none() {
        let known = Algorithm::ALL.map(Algorithm::name).join(", ");
        reporter.report(format!(
            "annotation {ALGORITHM_ANNOTATION}: {text:?} is not known ({known}); the node's default is taken"
        ));
    }
    algorithm
}

fn slow_start(object: &v1::Service, reporter: &mut Reporter) -> Option<u16> {
    let annotations = object.metadata.annotations.as_ref()?;
    let seconds = slow_start::seconds(annotations.get(SLOW_START_ANNOTATION)?);
    seconds
        .map_err(|error| {
            reporter.report(format!(
                "annotation {SLOW_START_ANNOTATION}: {error}; the node's default is taken"
            ));
        })
        .ok()
}

fn source_ranges(spec: &v1::ServiceSpec, reporter: &mut Reporter) -> Option<Vec<IpNet>> {
    let texts = spec
        .load_balancer_source_ranges
        .as_ref()
        .filter(|texts| !texts.is_empty())?;
    let mut ranges = Vec::new();
    for text in texts {
        // The API server lets white space pass.
        match parse_range(text.trim()) {
            Some(range) => ranges.push(range),
            None => reporter.report(format!(
                "loadBalancerSourceRanges: {text:?} is no range; it is left out"
            )),
        }
    }
    Some(ranges)
}

/// The port of the health check, which only a load balancer that wants local endpoints has.
fn health_check_node_port(
    spec: &v1::ServiceSpec,
    service: &Service,
    reporter: &mut Reporter,
) -> Option<u16> {
    let wanted = spec.type_.as_deref() == Some("LoadBalancer")
        && service.external_policy == TrafficPolicy::Local;
    let number = spec.health_check_node_port.filter(|n| wanted && *n != 0)?;
    let Some(port) = port_number(number) else {
        reporter.report(format!(
            "healthCheckNodePort: {number} is no port number; load balancers are told nothing here"
        ));
        return None;
    };
    let taken = |p: &ServicePort| p.node_port == Some(port) && p.protocol == Protocol::Tcp;
    if service.ports.iter().any(taken) {
        reporter.report(format!(
            "healthCheckNodePort: {port} is a node port of the same Service; load balancers are told nothing here"
        ));
        return None;
    }
    Some(port)
}

/// A family without a valid range lets nobody in, unlike kube-proxy (semantics A3): worth a word where it matters.
fn check_source_ranges(service: &Service, reporter: &mut Reporter) {
    for (family, label) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let has_address = service
            .load_balancer_ips
            .iter()
            .any(|ip| crate::model::service::family_of(*ip) == family);
        let nobody = service
            .source_ranges_of(family)
            .is_some_and(|r| r.is_empty());
        if nobody && has_address && service.has_family(family) {
            reporter.report(format!(
                "loadBalancerSourceRanges has no valid {label} range: no {label} client is let in to its load balancer addresses (kube-proxy would let in all)"
            ));
        }
    }
}

fn check_own_addresses(service: &Service, reporter: &mut Reporter) {
    let own: HashSet<_> = service.cluster_ips.iter().collect();
    for ip in service
        .external_ips
        .iter()
        .chain(&service.load_balancer_ips)
        .filter(|ip| own.contains(ip))
    {
        reporter.report(format!(
            "{ip} is its own ClusterIP: as an external or load balancer address it is left out"
        ));
    }
}
