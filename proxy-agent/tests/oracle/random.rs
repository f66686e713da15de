//! Random objects from a small world, so that they collide in every way; some are wrong.

use std::net::IpAddr;

use k8s_openapi::{
    api::{
        core::v1::{
            ClientIPConfig, LoadBalancerIngress, LoadBalancerStatus, Node, Service, ServicePort,
            ServiceSpec, ServiceStatus, SessionAffinityConfig,
        },
        discovery::v1::{
            Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode,
            ForZone,
        },
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};

pub const NODES: [&str; 3] = ["here", "there", "yonder"];
const NAMESPACES: [&str; 3] = ["default", "default", "prod"];
const SERVICES: [&str; 3] = ["api", "db", "web"];
/// Names and protocols of ports; most fit.
const PORTS: [(Option<&str>, Option<&str>); 10] = [
    (Some("http"), Some("TCP")),
    (Some("http"), Some("TCP")),
    (Some("http"), Some("TCP")),
    (Some("http"), None),
    (Some("dns"), Some("UDP")),
    (Some("dns"), Some("UDP")),
    (Some("http"), Some("SCTP")),
    (Some(""), Some("TCP")),
    (None, Some("TCP")),
    (None, Some("ICMP")),
];
const ZONES: [&str; 3] = ["a", "b", ""];
const CLUSTER_IPS: [&str; 4] = ["10.96.0.1", "10.96.0.002", "10.96.0.3", "10.96.0.4"];
const CLUSTER_IPS_V6: [&str; 3] = ["fd00::1", "fd00::2", "fd00::3"];
const PUBLIC_IPS: [&str; 9] = [
    "203.0.113.1",
    "203.0.113.2",
    "192.0.2.1",
    "192.0.2.2",
    "10.96.0.1",
    "2001:db8::1",
    "2001:db8::99",
    "0.0.0.0",
    "nonsense",
];
const NODE_IPS: [&str; 5] = [
    "192.0.2.1",
    "192.0.2.2",
    "2001:db8::1",
    "10.244.0.1",
    "10.96.0.1",
];
const RANGES: [&str; 6] = [
    "198.51.100.0/24",
    " 198.51.100.7/32 ",
    "2001:db8:1::/48",
    "0.0.0.0/0",
    "::/0",
    "everywhere",
];

/// `SplitMix64` (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// One time in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn maybe<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!self.one_in(2)).then(|| self.pick(of))
    }

    fn some(&mut self, most: usize, of: &[&str]) -> Vec<String> {
        let n = self.below(most + 1);
        (0..n).map(|_| self.pick(of).to_owned()).collect()
    }

    fn name(&mut self) -> (String, String) {
        (
            self.pick(&NAMESPACES).to_owned(),
            self.pick(&SERVICES).to_owned(),
        )
    }

    pub fn node_addresses(&mut self) -> Vec<IpAddr> {
        let texts = self.some(4, &NODE_IPS);
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    pub fn node(&mut self) -> Node {
        let name = if self.one_in(3) {
            self.pick(&NODES)
        } else {
            NODES[0]
        };
        let labels = self
            .maybe(&ZONES)
            .map(|zone| ("topology.kubernetes.io/zone".to_owned(), zone.to_owned()));
        Node {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(labels.into_iter().collect()),
                ..ObjectMeta::default()
            },
            ..Node::default()
        }
    }

    pub fn service(&mut self) -> Service {
        let (namespace, name) = self.name();
        let proxy_name = self
            .one_in(10)
            .then(|| self.pick(&["ours", "theirs", ""]).to_owned());
        let labels =
            proxy_name.map(|name| ("service.kubernetes.io/service-proxy-name".to_owned(), name));
        let algorithms = [
            ("random", "20s"),
            ("maglev", "0s"),
            ("least-connections", "2m"),
            ("fastest", "soon"),
            ("", "-1s"),
        ];
        let choosing = self.maybe(&algorithms).map(|(algorithm, slow_start)| {
            [
                ("kube-proxy-ebpf.io/algorithm", algorithm),
                ("kube-proxy-ebpf.io/slow-start", slow_start),
            ]
        });
        let choosing = choosing.into_iter().flatten();
        let choosing = choosing.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let created = (!self.one_in(4)).then(|| self.pick(&[0, 1, 2]));
        Service {
            metadata: ObjectMeta {
                namespace: Some(namespace),
                name: Some(name),
                labels: Some(labels.into_iter().collect()),
                annotations: Some(choosing.collect()),
                creation_timestamp: created.map(|s| Time(Timestamp::from_second(s).unwrap())),
                ..ObjectMeta::default()
            },
            spec: (!self.one_in(40)).then(|| self.spec()),
            status: Some(ServiceStatus {
                load_balancer: Some(LoadBalancerStatus {
                    ingress: Some(self.ingress()),
                }),
                ..ServiceStatus::default()
            }),
        }
    }

    fn ingress(&mut self) -> Vec<LoadBalancerIngress> {
        let ips = self.some(2, &PUBLIC_IPS);
        ips.into_iter()
            .map(|ip| LoadBalancerIngress {
                ip: Some(ip),
                ip_mode: self
                    .one_in(3)
                    .then(|| self.pick(&["VIP", "Proxy", "Odd"]).to_owned()),
                ..LoadBalancerIngress::default()
            })
            .collect()
    }

    fn spec(&mut self) -> ServiceSpec {
        let mut cluster_ips = Vec::new();
        if !self.one_in(8) {
            cluster_ips.push(self.pick(&CLUSTER_IPS).to_owned());
        }
        if self.one_in(2) {
            cluster_ips.push(self.pick(&CLUSTER_IPS_V6).to_owned());
        }
        let cluster_ip = if self.one_in(12) {
            Some("None".to_owned())
        } else {
            cluster_ips.first().cloned()
        };
        let policies = ["Cluster", "Local", "Local", "Odd"];
        let affinity = self.maybe(&["ClientIP", "None"]).map(str::to_owned);
        let timeout = self.maybe(&[0, 1, 300, 86_400, 86_401]);
        ServiceSpec {
            type_: self.one_in(12).then(|| "ExternalName".to_owned()),
            cluster_ip,
            cluster_ips: (!self.one_in(4)).then_some(cluster_ips),
            external_ips: Some(self.some(2, &PUBLIC_IPS)),
            internal_traffic_policy: self.maybe(&policies).map(str::to_owned),
            external_traffic_policy: self.maybe(&policies).map(str::to_owned),
            session_affinity: affinity,
            session_affinity_config: Some(SessionAffinityConfig {
                client_ip: Some(ClientIPConfig {
                    timeout_seconds: timeout,
                }),
            }),
            load_balancer_source_ranges: Some(self.some(3, &RANGES)),
            ports: Some((0..=self.below(3)).map(|_| self.service_port()).collect()),
            ..ServiceSpec::default()
        }
    }

    fn service_port(&mut self) -> ServicePort {
        let (name, protocol) = self.pick(&PORTS);
        ServicePort {
            name: name.map(str::to_owned),
            protocol: protocol.map(str::to_owned),
            port: self.pick(&[80, 80, 80, 443, 30_000, 0, 70_000]),
            node_port: self.maybe(&[0, 30_000, 30_001, 80, -1]),
            ..ServicePort::default()
        }
    }

    pub fn slice(&mut self) -> EndpointSlice {
        let (namespace, service) = self.name();
        let mut labels = vec![("kubernetes.io/service-name".to_owned(), service)];
        if self.one_in(12) {
            labels.clear();
        }
        if self.one_in(12) {
            labels.push(("service.kubernetes.io/headless".to_owned(), String::new()));
        }
        let weight = self.maybe(&["7", "0", "x"]);
        let annotations =
            weight.map(|weight| ("kube-proxy-ebpf.io/weight".to_owned(), weight.to_owned()));
        let address_type = self.pick(&[
            "IPv4", "IPv4", "IPv4", "IPv4", "IPv6", "IPv6", "IPv6", "FQDN", "Odd",
        ]);
        let hinted = self.below(4);
        EndpointSlice {
            metadata: ObjectMeta {
                namespace: Some(namespace),
                name: Some(format!("slice-{}", self.below(6))),
                labels: Some(labels.into_iter().collect()),
                annotations: Some(annotations.into_iter().collect()),
                ..ObjectMeta::default()
            },
            address_type: address_type.to_owned(),
            ports: Some((0..=self.below(4)).map(|_| self.endpoint_port()).collect()),
            endpoints: Some(
                (0..self.below(6))
                    .map(|_| self.endpoint(address_type, hinted))
                    .collect(),
            ),
        }
    }

    fn endpoint_port(&mut self) -> EndpointPort {
        let (name, protocol) = self.pick(&PORTS);
        EndpointPort {
            name: name.map(str::to_owned),
            protocol: protocol.map(str::to_owned),
            port: self.pick(&[
                Some(8080),
                Some(8080),
                Some(9090),
                Some(0),
                Some(70_000),
                None,
            ]),
            ..EndpointPort::default()
        }
    }

    fn endpoint(&mut self, address_type: &str, hinted: usize) -> Endpoint {
        let address = match address_type {
            "IPv6" => self.pick(&["fd01::1", "fd01::2", "2001:db8::1", "10.244.0.1"]),
            _ => self.pick(&[
                "10.244.0.1",
                "10.244.0.02",
                "10.244.0.3",
                "192.0.2.1",
                "fd01::1",
                "?",
            ]),
        };
        let (ready, serving, terminating) = match self.below(6) {
            0 | 1 => (None, None, None),
            2 | 3 => (Some(false), Some(true), Some(true)),
            4 => (Some(false), Some(false), self.maybe(&[true, false])),
            _ => (
                self.maybe(&[true, false]),
                self.maybe(&[true, false]),
                self.maybe(&[true, false]),
            ),
        };
        // Hints count if every endpoint has them, so a slice has none, one kind, both, or a mess.
        let node = self.pick(&NODES).to_owned();
        let zone = self.pick(&["a", "b"]).to_owned();
        let (nodes, zones) = match hinted {
            0 => (vec![], vec![]),
            1 => (vec![], vec![zone]),
            2 => (vec![node], vec![zone]),
            _ => (self.some(2, &NODES), self.some(2, &["a", "b"])),
        };
        Endpoint {
            addresses: if self.one_in(15) {
                vec![]
            } else {
                vec![address.to_owned()]
            },
            node_name: self
                .maybe(&[NODES[0], NODES[0], NODES[1]])
                .map(str::to_owned),
            zone: self.maybe(&["a", "b"]).map(str::to_owned),
            conditions: Some(EndpointConditions {
                ready,
                serving,
                terminating,
            }),
            hints: Some(EndpointHints {
                for_nodes: Some(nodes.into_iter().map(|name| ForNode { name }).collect()),
                for_zones: Some(zones.into_iter().map(|name| ForZone { name }).collect()),
            }),
            ..Endpoint::default()
        }
    }
}
