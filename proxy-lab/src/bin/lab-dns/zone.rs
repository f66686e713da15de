//! Objects → records, as the Kubernetes DNS specification 1.1 has them (github.com/kubernetes/dns/docs/specification.md),
//! and records → answers. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType};
use serde_json::Value;

/// Seconds that an answer may be kept, as CoreDNS's kubernetes plugin has it.
const TTL: u32 = 5;
/// Longest chain of CNAMEs that is followed.
const LONGEST_CHAIN: usize = 8;

/// All names of a cluster's domain, and the reverse names of its addresses.
pub struct Zone {
    domain: Name,
    names: BTreeMap<LowerName, Vec<Record>>,
}

/// The answer to a question.
pub struct Answer {
    pub code: ResponseCode,
    pub records: Vec<Record>,
    /// Of the zone, where there are no records.
    pub soa: Option<Record>,
}

impl Zone {
    /// The records of Services and their slices in a domain such as `cluster.local.`. Invalid names are
    /// left out.
    pub fn new(domain: &str, objects: &[Value]) -> Option<Self> {
        let mut domain = Name::from_ascii(domain).ok()?;
        domain.set_fqdn(true);
        let mut zone = Self {
            domain,
            names: BTreeMap::new(),
        };
        zone.add(
            "dns-version",
            RData::TXT(TXT::new(vec!["1.1.0".to_owned()])),
        );
        for service in objects.iter().filter(|object| object["kind"] == "Service") {
            let spec = &service["spec"];
            if spec["type"] == "ExternalName" {
                zone.add_alias(service);
            } else if spec["clusterIP"] == "None" {
                zone.add_headless(service, objects);
            } else {
                zone.add_cluster_ips(service);
            }
        }
        Some(zone)
    }

    /// Answers a question; a CNAME is followed as far as its target is known here.
    pub fn answer(&self, name: &LowerName, kind: RecordType) -> Answer {
        let mut records = Vec::new();
        let mut next = name.clone();
        for _ in 0..LONGEST_CHAIN {
            let found = self.names.get(&next).map_or(&[][..], Vec::as_slice);
            let wanted = |record: &&Record| record.record_type() == kind || kind == RecordType::ANY;
            records.extend(found.iter().filter(wanted).cloned());
            let alias = found.iter().find_map(|record| match record.data() {
                RData::CNAME(CNAME(target)) if kind != RecordType::CNAME => Some((record, target)),
                _ => None,
            });
            let Some((record, target)) = alias else { break };
            records.push(record.clone());
            next = target.into();
        }
        let is_known = self.names.keys().any(|known| name.zone_of(known));
        Answer {
            code: if is_known {
                ResponseCode::NoError
            } else if self.is_ours(name) {
                ResponseCode::NXDomain
            } else {
                ResponseCode::Refused
            },
            soa: records.is_empty().then(|| self.soa()),
            records,
        }
    }

    /// Below the domain, or the name of an address.
    fn is_ours(&self, name: &LowerName) -> bool {
        LowerName::new(&self.domain).zone_of(name)
            || ["in-addr.arpa.", "ip6.arpa."]
                .iter()
                .filter_map(|zone| Name::from_ascii(zone).ok())
                .any(|zone| LowerName::new(&zone).zone_of(name))
    }

    fn soa(&self) -> Record {
        let below = |label: &str| self.below(label).unwrap_or_else(|| self.domain.clone());
        let soa = SOA::new(
            below("ns.dns"),
            below("hostmaster"),
            1,
            7200,
            1800,
            86400,
            TTL,
        );
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa))
    }

    /// Service → its addresses; `_port._protocol` → its ports; each address → its name.
    fn add_cluster_ips(&mut self, service: &Value) {
        let Some(name) = service_name(service) else {
            return;
        };
        for address in addresses(&service["spec"]["clusterIPs"]) {
            self.add(&name, address_record(address));
            self.add_reverse(address, &name);
        }
        for port in items(&service["spec"]["ports"]) {
            self.add_port(&name, &name, port);
        }
    }

    /// Service → its endpoints that are ready (or all, if it publishes those that are not).
    fn add_headless(&mut self, service: &Value, objects: &[Value]) {
        let Some(name) = service_name(service) else {
            return;
        };
        let all = service["spec"]["publishNotReadyAddresses"] == true;
        let of_service = |object: &&Value| {
            object["kind"] == "EndpointSlice"
                && object["metadata"]["namespace"] == service["metadata"]["namespace"]
                && object["metadata"]["labels"]["kubernetes.io/service-name"]
                    == service["metadata"]["name"]
        };
        for slice in objects.iter().filter(of_service) {
            for endpoint in items(&slice["endpoints"]) {
                if !all && endpoint["conditions"]["ready"] == false {
                    continue;
                }
                for address in addresses(&endpoint["addresses"]) {
                    let host = endpoint["hostname"]
                        .as_str()
                        .map_or_else(|| dashed(address), str::to_owned);
                    let host = format!("{host}.{name}");
                    self.add(&name, address_record(address));
                    self.add(&host, address_record(address));
                    self.add_reverse(address, &host);
                    for port in items(&slice["ports"]) {
                        self.add_port(&name, &host, port);
                    }
                }
            }
        }
    }

    /// Service → another name.
    fn add_alias(&mut self, service: &Value) {
        let target = service["spec"]["externalName"]
            .as_str()
            .and_then(|target| Name::from_ascii(target).ok());
        if let (Some(name), Some(mut target)) = (service_name(service), target) {
            target.set_fqdn(true);
            self.add(&name, RData::CNAME(CNAME(target)));
        }
    }

    /// SRV, for ports that have a name.
    fn add_port(&mut self, service: &str, host: &str, port: &Value) {
        let (name, number) = (port["name"].as_str(), port["port"].as_u64());
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_lowercase();
        if let (Some(name), Some(number), Some(target)) = (
            name.filter(|name| !name.is_empty()),
            number.and_then(|number| u16::try_from(number).ok()),
            self.below(host),
        ) {
            let data = RData::SRV(SRV::new(0, 100, number, target));
            self.add(&format!("_{name}._{protocol}.{service}"), data);
        }
    }

    fn add_reverse(&mut self, address: IpAddr, name: &str) {
        if let Some(target) = self.below(name) {
            self.insert(Name::from(address), RData::PTR(PTR(target)));
        }
    }

    /// Adds a record of a name relative to the domain.
    fn add(&mut self, name: &str, data: RData) {
        if let Some(name) = self.below(name) {
            self.insert(name, data);
        }
    }

    fn insert(&mut self, name: Name, data: RData) {
        let record = Record::from_rdata(name, TTL, data);
        let records = self.names.entry(record.name().into()).or_default();
        if !records.contains(&record) {
            records.push(record);
        }
    }

    fn below(&self, name: &str) -> Option<Name> {
        Name::from_ascii(name)
            .ok()?
            .append_domain(&self.domain)
            .ok()
    }
}

/// `name.namespace.svc`
fn service_name(service: &Value) -> Option<String> {
    let metadata = &service["metadata"];
    let namespace = metadata["namespace"].as_str().unwrap_or("default");
    Some(format!("{}.{namespace}.svc", metadata["name"].as_str()?))
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn addresses(value: &Value) -> impl Iterator<Item = IpAddr> {
    items(value).filter_map(|address| address.as_str()?.parse().ok())
}

fn address_record(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

/// The name of an endpoint without a hostname, in CoreDNS's form.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn zone() -> Zone {
        let objects = [
            json!({"kind": "Service", "metadata": {"name": "mlflow", "namespace": "mlops"},
                "spec": {"clusterIP": "10.96.50.10", "clusterIPs": ["10.96.50.10", "fd00:10:96::5010"],
                    "ports": [{"name": "http", "protocol": "TCP", "port": 5000}]}}),
            json!({"kind": "Service", "metadata": {"name": "replicas", "namespace": "mlops"},
                "spec": {"clusterIP": "None"}}),
            json!({"kind": "EndpointSlice",
                "metadata": {"namespace": "mlops", "labels": {"kubernetes.io/service-name": "replicas"}},
                "ports": [{"name": "http", "port": 5000}],
                "endpoints": [
                    {"addresses": ["10.244.1.10"], "hostname": "first"},
                    {"addresses": ["10.244.1.11"], "conditions": {"ready": true}},
                    {"addresses": ["10.244.1.12"], "conditions": {"ready": false}}]}),
            json!({"kind": "Service", "metadata": {"name": "alias", "namespace": "lab"},
                "spec": {"type": "ExternalName", "externalName": "mlflow.mlops.svc.cluster.local"}}),
        ];
        Zone::new("cluster.local", &objects).expect("is a domain")
    }

    /// Code and data of an answer.
    fn ask(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let name = Name::from_ascii(name).expect("is a name");
        let answer = zone().answer(&LowerName::new(&name), kind);
        assert_eq!(answer.soa.is_some(), answer.records.is_empty());
        let data = answer
            .records
            .iter()
            .map(|record| record.data().to_string());
        (answer.code, data.collect())
    }

    fn found(data: &[&str]) -> (ResponseCode, Vec<String>) {
        let data = data.iter().map(ToString::to_string).collect();
        (ResponseCode::NoError, data)
    }

    #[test]
    fn a_service_has_its_addresses_ports_and_names() {
        use RecordType as T;
        let name = "MLflow.mlops.svc.cluster.local.";
        assert_eq!(ask(name, T::A), found(&["10.96.50.10"]));
        assert_eq!(ask(name, T::AAAA), found(&["fd00:10:96::5010"]));
        let port = ask("_http._tcp.mlflow.mlops.svc.cluster.local.", T::SRV);
        assert_eq!(port, found(&["0 100 5000 mlflow.mlops.svc.cluster.local."]));
        let reverse = ask("10.50.96.10.in-addr.arpa.", T::PTR);
        assert_eq!(reverse, found(&["mlflow.mlops.svc.cluster.local."]));
        assert_eq!(ask("dns-version.cluster.local.", T::TXT), found(&["1.1.0"]));
    }

    #[test]
    fn a_headless_service_has_its_ready_endpoints() {
        use RecordType as T;
        let name = "replicas.mlops.svc.cluster.local.";
        assert_eq!(ask(name, T::A), found(&["10.244.1.10", "10.244.1.11"]));
        let first = ask("first.replicas.mlops.svc.cluster.local.", T::A);
        assert_eq!(first, found(&["10.244.1.10"]));
        let second = ask("10-244-1-11.replicas.mlops.svc.cluster.local.", T::A);
        assert_eq!(second, found(&["10.244.1.11"]));
        let (_, ports) = ask("_http._tcp.replicas.mlops.svc.cluster.local.", T::SRV);
        assert_eq!(ports.len(), 2);
    }

    #[test]
    fn an_alias_is_followed() {
        let (code, data) = ask("alias.lab.svc.cluster.local.", RecordType::A);
        assert_eq!(code, ResponseCode::NoError);
        assert_eq!(data, ["mlflow.mlops.svc.cluster.local.", "10.96.50.10"]);
    }

    #[test]
    fn what_is_not_there_is_told_apart() {
        use RecordType as T;
        // A name without such records, or above others; none at all; none of ours.
        assert_eq!(
            ask("alias.lab.svc.cluster.local.", T::SRV).0,
            ResponseCode::NoError
        );
        assert_eq!(ask("mlops.svc.cluster.local.", T::A), found(&[]));
        let missing = ask("mlflow.lab.svc.cluster.local.", T::A);
        assert_eq!(missing, (ResponseCode::NXDomain, Vec::new()));
        assert_eq!(ask("example.org.", T::A).0, ResponseCode::Refused);
    }
}
