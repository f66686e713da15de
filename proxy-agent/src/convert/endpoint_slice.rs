//! `EndpointSlices` (semantics S2, S5, B1).

use std::collections::BTreeSet;

use k8s_openapi::{api::discovery::v1, jiff::Timestamp};
use proxy_common::addr::Family;

use super::{
    Converted, Reporter, address::parse_host, annotations, port_number, service::protocol,
};
use crate::{
    model::{
        Change, Endpoint, EndpointPort, EndpointSlice, ObjectRef, SliceName,
        endpoint_slice::DEFAULT_WEIGHT, service::family_of,
    },
    plan::ServiceName,
};

/// Annotation of an `EndpointSlice`: the weight of each of its endpoints, a whole number from 1 to 65535, relative
/// to the other endpoints of the Service. Without it: 1.
pub const WEIGHT_ANNOTATION: &str = "kube-proxy-ebpf.io/weight";

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Converts an `EndpointSlice`. One that is of no use here is the same as none.
pub fn endpoint_slice(object: &v1::EndpointSlice) -> Converted<Change<EndpointSlice, SliceName>> {
    let metadata = &object.metadata;
    let name = SliceName {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    };
    let mut reporter = Reporter::new(ObjectRef::namespaced(
        "EndpointSlice",
        &name.namespace,
        &name.name,
    ));
    let label = |key| metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let annotation = |key| metadata.annotations.as_ref().and_then(|a| a.get(key));

    if label(HEADLESS_LABEL).is_some() {
        return reporter.finish(Change::Delete(name));
    }
    let Some(service) = label(SERVICE_LABEL).filter(|service| !service.is_empty()) else {
        reporter.report(format!(
            "the label {SERVICE_LABEL} is missing, so it belongs to no Service; it is ignored"
        ));
        return reporter.finish(Change::Delete(name));
    };
    let service = ServiceName {
        namespace: name.namespace.clone(),
        name: service.clone(),
    };
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => return reporter.finish(Change::Delete(name)),
        other => {
            reporter.report(format!(
                "addressType {other:?} is not known (IPv4, IPv6, FQDN); it is ignored"
            ));
            return reporter.finish(Change::Delete(name));
        }
    };
    annotations::check(metadata, &[WEIGHT_ANNOTATION], &mut reporter);
    let weight = annotation(WEIGHT_ANNOTATION).map_or(DEFAULT_WEIGHT, |text| {
        text.parse().ok().and_then(port_number).map_or_else(
            || {
                reporter.report(format!(
                    "annotation {WEIGHT_ANNOTATION}: {text:?} is no number from 1 to 65535; {DEFAULT_WEIGHT} is taken"
                ));
                DEFAULT_WEIGHT
            },
            u32::from,
        )
    });
    let ports = object
        .ports
        .iter()
        .flatten()
        .filter_map(|port| self::port(port, &mut reporter))
        .collect();
    let endpoints = object
        .endpoints
        .iter()
        .flatten()
        .enumerate()
        .filter_map(|(index, e)| endpoint(index, e, family, &mut reporter))
        .collect();
    let triggered = annotation(TRIGGER_ANNOTATION)
        .and_then(|text| text.parse::<Timestamp>().ok())
        .map(Timestamp::as_nanosecond);
    reporter.finish(Change::Upsert(EndpointSlice {
        name,
        service,
        family,
        ports,
        endpoints,
        weight,
        triggered,
    }))
}

fn port(port: &v1::EndpointPort, reporter: &mut Reporter) -> Option<EndpointPort> {
    let name = port.name.clone().unwrap_or_default();
    // A nil number means all ports: of no use to a Service.
    let number = port.port?;
    let Some(number) = port_number(number) else {
        reporter.report(format!(
            "port {name:?}: {number} is no port number; it is left out"
        ));
        return None;
    };
    let Some(protocol) = protocol(port.protocol.as_deref()) else {
        reporter.report(format!(
            "port {name:?}: protocol {:?} is not known (TCP, UDP, SCTP); it is left out",
            port.protocol.as_deref().unwrap_or_default()
        ));
        return None;
    };
    Some(EndpointPort {
        name,
        protocol,
        port: number,
    })
}

fn endpoint(
    index: usize,
    endpoint: &v1::Endpoint,
    family: Family,
    reporter: &mut Reporter,
) -> Option<Endpoint> {
    let Some(text) = endpoint.addresses.first() else {
        reporter.report(format!("endpoints[{index}] has no address; it is left out"));
        return None;
    };
    let address = match parse_host(text) {
        Ok(ip) if family_of(ip) == family => ip,
        Ok(_) => {
            reporter.report(format!(
                "endpoints[{index}]: {text:?} is not of the slice's addressType; it is left out"
            ));
            return None;
        }
        Err(error) => {
            reporter.report(format!(
                "endpoints[{index}]: {text:?} {error}; it is left out"
            ));
            return None;
        }
    };
    let conditions = endpoint.conditions.as_ref();
    let hints = endpoint.hints.as_ref();
    let node_hints: BTreeSet<String> = hints
        .iter()
        .flat_map(|hints| hints.for_nodes.iter().flatten())
        .map(|node| node.name.clone())
        .collect();
    let zone_hints = hints
        .iter()
        .flat_map(|hints| hints.for_zones.iter().flatten())
        .map(|zone| zone.name.clone())
        .collect();
    Some(Endpoint {
        address,
        node: endpoint.node_name.clone().filter(|name| !name.is_empty()),
        zone: endpoint.zone.clone().filter(|zone| !zone.is_empty()),
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        node_hints,
        zone_hints,
    })
}
