//! The real kube-proxy on a node, to compare with.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::control_plane::{ControlPlane, Identity, binaries};
use crate::daemon::Daemon;
use crate::error::{LabError, Result};
use crate::memory::Memory;
use crate::node::Node;
use crate::{command, http};

/// How long it may take to write its rules for the first time (10,000 Services by iptables' nft backend: 4 minutes).
const PATIENCE: Duration = Duration::from_mins(8);
/// kube-proxy's metrics address inside the node.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
/// The same where an agent may have that port.
const METRICS_BESIDE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10349);
/// When rules were written; one line for each family.
const SYNCED: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";

/// How it does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KubeProxyMode {
    /// `iptables`, by whatever backend the system's command has.
    Iptables,
    /// `nftables`.
    Nftables,
}

impl KubeProxyMode {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// A running kube-proxy. Dropping it kills it and leaves its rules; [`KubeProxy::stop`] takes them away.
#[derive(Debug)]
pub struct KubeProxy<'lab> {
    node: &'lab Node,
    daemon: Daemon,
    configuration: PathBuf,
}

impl<'lab> KubeProxy<'lab> {
    /// Starts it on a node, with kube-proxy's own rights, and waits until its rules are written.
    pub fn start(cluster: &ControlPlane, node: &'lab Node, mode: KubeProxyMode) -> Result<Self> {
        Self::start_with(cluster, node, mode, METRICS)
    }

    /// The same beside an agent, which may have kube-proxy's usual port, and metrics of the same names.
    pub fn start_beside(
        cluster: &ControlPlane,
        node: &'lab Node,
        mode: KubeProxyMode,
    ) -> Result<Self> {
        Self::start_with(cluster, node, mode, METRICS_BESIDE)
    }

    fn start_with(
        cluster: &ControlPlane,
        node: &'lab Node,
        mode: KubeProxyMode,
        metrics: SocketAddr,
    ) -> Result<Self> {
        let kubeconfig = cluster.kubeconfig(&Identity::KubeProxy)?;
        let stem = cluster.folder().join(format!("kube-proxy-{}", node.name()));
        let configuration = stem.with_added_extension("config");
        let text = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": mode.name(),
            "hostnameOverride": node.name(),
            "clusterCIDR": "10.244.0.0/16,fd00:10:244::/48",
            "clientConnection": {"kubeconfig": kubeconfig},
            "metricsBindAddress": metrics.to_string(),
            // The machine's own limits are not the lab's to change.
            "conntrack": {"maxPerCore": 0, "min": 0},
        });
        std::fs::write(&configuration, text.to_string())
            .map_err(LabError::file("writing", &configuration))?;
        let mut daemon = Daemon::spawn(
            "kube-proxy",
            (node.netns(), node.cgroup()),
            &binaries::program("kube-proxy")?,
            [format!("--config={}", configuration.display())],
            &[],
            &stem.with_added_extension("log"),
        )?;
        daemon.wait_until_ready(PATIENCE, || has_synced(node, metrics, mode))?;
        Ok(Self {
            node,
            daemon,
            configuration,
        })
    }

    /// Its memory, while it lives.
    pub fn memory(&self) -> Option<Memory> {
        self.daemon.memory()
    }

    /// The processor time that it has used, its children's counted once they have ended.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.daemon.cpu_time()
    }

    /// Ends it and takes its rules away.
    pub fn stop(self) -> Result<()> {
        self.daemon.terminate()?;
        let mut cleanup = Command::new(binaries::program("kube-proxy")?);
        cleanup
            .arg(format!("--config={}", self.configuration.display()))
            .arg("--cleanup");
        self.node
            .netns()
            .run(move || command::output(&mut cleanup).map(drop))
    }
}

/// Whether it has written rules of both families. Another proxy may answer in its place: it is asked for its mode.
fn has_synced(node: &Node, metrics: SocketAddr, mode: KubeProxyMode) -> bool {
    let ask = |path: &'static str| {
        let asking = LabError::kernel("asking kube-proxy for its metrics");
        let asked = move || http::get(metrics, path).map_err(asking);
        let answer = node.netns().run(asked).ok();
        answer.filter(|answer| answer.status == 200)
    };
    let is_it = ask("/proxyMode").is_some_and(|answer| answer.body.trim() == mode.name());
    is_it
        && ask("/metrics").is_some_and(|answer| {
            let lines = answer.body.lines().filter(|line| line.starts_with(SYNCED));
            let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            values.filter(|&time| time > 0.0).count() == 2
        })
}
