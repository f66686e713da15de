//! The programs of a control plane and how each is started.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use super::pki::{Certificate, Pki, SigningKeys};
use crate::address::{self, Family};
use crate::host::Host;

/// A program of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// The store behind the API server.
    Etcd,
    /// `kube-apiserver`.
    ApiServer,
    /// `kube-controller-manager`.
    ControllerManager,
}

impl Component {
    /// In the order in which they start.
    pub const ALL: [Self; 3] = [Self::Etcd, Self::ApiServer, Self::ControllerManager];

    /// Its program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
        }
    }
}

/// The API server's port.
pub(super) const PORT: u16 = 6443;
/// etcd's client URL and peer URL (there are no peers).
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";
pub(super) const ETCD_CLIENTS: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2379);

/// Controllers that affect Services and their pods. The others need kubelets, volumes or clouds.
const CONTROLLERS: [&str; 13] = [
    "deployment-controller",
    "replicaset-controller",
    "daemonset-controller",
    "statefulset-controller",
    "garbage-collector-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "namespace-controller",
    "root-ca-certificate-publisher-controller",
    "service-cidr-controller",
    "serviceaccount-controller",
    "clusterrole-aggregation-controller",
];

/// What the command lines are made of.
#[derive(Debug)]
pub(super) struct Setting {
    /// The control plane's own address.
    pub(super) address: address::Pair,
    /// Where etcd keeps its data.
    pub(super) data: PathBuf,
    pub(super) authority: PathBuf,
    pub(super) server: Certificate,
    pub(super) admin: Certificate,
    pub(super) tokens: SigningKeys,
    /// The controllers' kubeconfig.
    pub(super) controllers: PathBuf,
    pub(super) watch_cache: bool,
    /// Further arguments of the API server.
    pub(super) extra: Vec<String>,
}

impl Setting {
    pub(super) fn arguments(&self, component: Component) -> Vec<OsString> {
        match component {
            Component::Etcd => self.etcd(),
            Component::ApiServer => self.api_server(),
            Component::ControllerManager => self.controller_manager(),
        }
    }

    fn etcd(&self) -> Vec<OsString> {
        let mut line = Line::default();
        line.file("--data-dir", &self.data);
        line.flag("--name", "lab");
        line.flag("--listen-client-urls", ETCD);
        line.flag("--advertise-client-urls", ETCD);
        line.flag("--listen-peer-urls", ETCD_PEERS);
        line.flag("--initial-advertise-peer-urls", ETCD_PEERS);
        line.flag("--initial-cluster", &format!("lab={ETCD_PEERS}"));
        // The data is discarded with the lab, so it need not reach the disk.
        line.0.push("--unsafe-no-fsync".into());
        line.flag("--quota-backend-bytes", "4294967296");
        line.flag("--log-level", "warn");
        line.0
    }

    fn api_server(&self) -> Vec<OsString> {
        let mut line = Line::default();
        line.flag("--etcd-servers", ETCD);
        line.flag("--bind-address", "::");
        line.flag("--advertise-address", &self.address.v4.to_string());
        line.flag("--secure-port", &PORT.to_string());
        line.file("--tls-cert-file", &self.server.certificate);
        line.file("--tls-private-key-file", &self.server.key);
        line.file("--client-ca-file", &self.authority);
        line.flag(
            "--service-account-issuer",
            "https://kubernetes.default.svc.cluster.local",
        );
        line.file("--service-account-key-file", &self.tokens.public);
        line.file("--service-account-signing-key-file", &self.tokens.private);
        line.flag("--service-cluster-ip-range", &service_ranges());
        line.flag("--service-node-port-range", "30000-32767");
        line.flag("--authorization-mode", "Node,RBAC");
        // The lab's pods have no mounts, and its nodes are trusted when they report Ready.
        line.flag(
            "--disable-admission-plugins",
            "ServiceAccount,TaintNodesByCondition",
        );
        line.flag("--allow-privileged", "true");
        line.file("--kubelet-client-certificate", &self.admin.certificate);
        line.file("--kubelet-client-key", &self.admin.key);
        line.flag("--max-requests-inflight", "3000");
        line.flag("--max-mutating-requests-inflight", "2000");
        line.flag("--profiling", "false");
        line.flag("--event-ttl", "10m");
        line.flag(
            "--storage-media-type",
            "application/vnd.kubernetes.protobuf",
        );
        line.flag("--watch-cache", &self.watch_cache.to_string());
        line.0.extend(self.extra.iter().map(OsString::from));
        line.0
    }

    fn controller_manager(&self) -> Vec<OsString> {
        let mut line = Line::default();
        for flag in [
            "--kubeconfig",
            "--authentication-kubeconfig",
            "--authorization-kubeconfig",
        ] {
            line.file(flag, &self.controllers);
        }
        line.flag("--controllers", &CONTROLLERS.join(","));
        line.flag("--leader-elect", "false");
        line.flag("--use-service-account-credentials", "true");
        line.flag("--authentication-skip-lookup", "true");
        line.file("--root-ca-file", &self.authority);
        line.file("--service-account-private-key-file", &self.tokens.private);
        line.flag("--bind-address", "127.0.0.1");
        line.flag("--kube-api-qps", "500");
        line.flag("--kube-api-burst", "1000");
        line.flag("--concurrent-service-endpoint-syncs", "10");
        line.flag("--service-cluster-ip-range", &service_ranges());
        line.0
    }
}

/// Addresses of Services, see [`address::cluster_ip`].
fn service_ranges() -> String {
    format!("{},{}", address::CLUSTER_IPS.0, address::CLUSTER_IPS.1)
}

/// The server's certificate: by every way to the API server.
pub(super) fn server_certificate(pki: &Pki, host: &Host) -> crate::Result<Certificate> {
    let [first, first_v6] = Family::ALL.map(|family| address::cluster_ip(1).of(family));
    let own = Family::ALL.map(|family| host.ip(family));
    let loopback: [IpAddr; 2] = [
        std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::Ipv6Addr::LOCALHOST.into(),
    ];
    pki.issue(
        "apiserver",
        &super::pki::Subject {
            common_name: "kube-apiserver",
            names: &[
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
                "localhost",
            ],
            addresses: &[own[0], own[1], first, first_v6, loopback[0], loopback[1]],
            ..Default::default()
        },
    )
}

/// Whether something listens, seen from this thread's network namespace.
pub(super) fn listens(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn flag(&mut self, name: &str, value: &str) {
        self.0.push(format!("{name}={value}").into());
    }

    fn file(&mut self, name: &str, file: &std::path::Path) {
        let mut word = OsString::from(name);
        word.push("=");
        word.push(file);
        self.0.push(word);
    }
}
