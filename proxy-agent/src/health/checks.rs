//! Health checks of Services (semantics H1, KEP-3836): on which sockets which Service is asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use proxy_common::addr::Family;
use serde::Serialize;

use crate::{
    model::service::family_of,
    plan::{HealthCheck, ServiceName},
};

/// The Services that are asked for, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    services: BTreeMap<ServiceName, HealthCheck>,
    addresses: BTreeSet<IpAddr>,
}

/// What one socket is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The Service.
    pub service: ServiceName,
    /// Whose endpoints count: the family of the socket.
    pub family: Family,
}

/// The JSON body, with kube-proxy's fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    service: ServiceReport,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ServiceReport {
    namespace: String,
    name: String,
}

impl Checks {
    /// What is said of a Service now.
    pub fn get(&self, service: &ServiceName) -> Option<&HealthCheck> {
        self.services.get(service)
    }

    /// Takes in what is said of a Service; says whether anything changed.
    pub fn set(&mut self, service: ServiceName, check: Option<HealthCheck>) -> bool {
        if self.get(&service) == check.as_ref() {
            return false;
        }
        match check {
            Some(check) => self.services.insert(service, check),
            None => self.services.remove(&service),
        };
        true
    }

    /// Takes in the addresses to listen on, an unspecified one for all of its family; says whether anything changed.
    pub fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) -> bool {
        let changed = self.addresses != addresses;
        self.addresses = addresses;
        changed
    }

    /// The sockets that are to be open. A port belongs to one Service only: claims see to that.
    pub fn sockets(&self) -> BTreeMap<SocketAddr, Subject> {
        let mut sockets = BTreeMap::new();
        for (service, check) in &self.services {
            for &family in check.ready.keys() {
                let subject = Subject {
                    service: service.clone(),
                    family,
                };
                let addresses = self.addresses.iter().filter(|ip| family_of(**ip) == family);
                for ip in addresses {
                    sockets
                        .entry(SocketAddr::new(*ip, check.port))
                        .or_insert_with(|| subject.clone());
                }
            }
        }
        sockets
    }

    /// The endpoints that are ready here.
    pub fn ready(&self, subject: &Subject) -> usize {
        let check = self.services.get(&subject.service);
        check
            .and_then(|check| check.ready.get(&subject.family))
            .copied()
            .unwrap_or_default()
    }
}

impl CheckReport {
    /// The answer about a Service.
    pub fn new(service: &ServiceName, local_endpoints: usize, service_proxy_healthy: bool) -> Self {
        Self {
            service: ServiceReport {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
            },
            local_endpoints,
            service_proxy_healthy,
        }
    }

    /// Whether the status is 200; else it is 503.
    pub fn is_ok(&self) -> bool {
        self.local_endpoints > 0 && self.service_proxy_healthy
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    fn check(port: u16, ready: &[(Family, usize)]) -> HealthCheck {
        HealthCheck {
            port,
            ready: ready.iter().copied().collect(),
        }
    }

    fn everywhere() -> BTreeSet<IpAddr> {
        ["0.0.0.0", "::"].map(|ip| ip.parse().unwrap()).into()
    }

    fn listens(checks: &Checks) -> Vec<(String, String)> {
        let sockets = checks.sockets().into_iter();
        sockets
            .map(|(at, subject)| (at.to_string(), subject.service.name))
            .collect()
    }

    fn pair(at: &str, name: &str) -> (String, String) {
        (at.to_owned(), name.to_owned())
    }

    #[test]
    fn h1_sockets_come_and_go_with_services_and_addresses() {
        let mut checks = Checks::default();
        assert!(checks.set_addresses(everywhere()));
        assert!(!checks.set_addresses(everywhere()));
        let both = Some(check(32_000, &[(Family::V4, 1), (Family::V6, 0)]));
        assert!(checks.set(name("a"), both.clone()));
        assert!(!checks.set(name("a"), both.clone()));
        assert!(checks.set(name("b"), Some(check(32_001, &[(Family::V4, 0)]))));
        assert_eq!(
            listens(&checks),
            [
                pair("0.0.0.0:32000", "a"),
                pair("0.0.0.0:32001", "b"),
                pair("[::]:32000", "a"),
            ]
        );
        assert!(checks.set_addresses(["192.0.2.1".parse().unwrap()].into()));
        assert!(checks.set(name("b"), None));
        assert_eq!(listens(&checks), [pair("192.0.2.1:32000", "a")]);
    }

    #[test]
    fn h1_each_family_counts_its_own_endpoints() {
        let mut checks = Checks::default();
        checks.set(
            name("a"),
            Some(check(32_000, &[(Family::V4, 2), (Family::V6, 0)])),
        );
        let ready = |service: &str, family| {
            checks.ready(&Subject {
                service: name(service),
                family,
            })
        };
        assert_eq!(ready("a", Family::V4), 2);
        assert_eq!(ready("a", Family::V6), 0);
        assert_eq!(ready("gone", Family::V4), 0);
    }

    #[test]
    fn h1_the_body_is_kube_proxys() {
        let report = CheckReport::new(&name("a"), 2, true);
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            json!({
                "service": {"namespace": "default", "name": "a"},
                "localEndpoints": 2,
                "serviceProxyHealthy": true,
            })
        );
        assert!(report.is_ok());
        assert!(!CheckReport::new(&name("a"), 0, true).is_ok());
        assert!(!CheckReport::new(&name("a"), 2, false).is_ok());
    }
}
