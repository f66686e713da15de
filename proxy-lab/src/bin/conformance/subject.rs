//! Who is judged: four ways to be a cluster's service proxy.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proxy_lab::{
    Agent, AgentOptions, ControlPlane, Identity, KubeProxy, KubeProxyMode, Lab, Result,
    agent_command, spawn_agents,
};
use serde::{Deserialize, Serialize};

/// How long our agents may take to be ready, on a busy machine.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// A service proxy, as it runs on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// kube-proxy in its mode `iptables`.
    Iptables,
    /// kube-proxy in its mode `nftables`.
    Nftables,
    /// Ours as it is by default: sockets of nodes and pods are translated when they connect.
    Sockets,
    /// Ours with pods' traffic translated per packet. (Nodes' own sockets always are when they connect.)
    Packets,
}

impl Subject {
    /// All, in the order of the report.
    pub const ALL: [Self; 4] = [Self::Iptables, Self::Nftables, Self::Sockets, Self::Packets];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Sockets => "sockets",
            Self::Packets => "packets",
        }
    }

    /// What it is, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Iptables => "kube-proxy, iptables",
            Self::Nftables => "kube-proxy, nftables",
            Self::Sockets => "ours, by sockets",
            Self::Packets => "ours, per packet",
        }
    }

    /// The subject with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|subject| subject.name() == name)
    }

    /// Whether it is kube-proxy.
    pub fn is_kube_proxy(self) -> bool {
        self.mode().is_some()
    }

    fn mode(self) -> Option<KubeProxyMode> {
        match self {
            Self::Iptables => Some(KubeProxyMode::Iptables),
            Self::Nftables => Some(KubeProxyMode::Nftables),
            Self::Sockets | Self::Packets => None,
        }
    }
}

/// A subject that runs on every node.
pub struct Running<'lab> {
    lab: &'lab Lab,
    cluster: &'lab ControlPlane,
    subject: Subject,
    proxies: Mutex<Proxies<'lab>>,
}

enum Proxies<'lab> {
    Kube(Vec<KubeProxy<'lab>>),
    Ours(Vec<Agent>),
}

impl<'lab> Running<'lab> {
    /// Starts it on all nodes and waits until all have programmed what there is.
    pub fn start(lab: &'lab Lab, cluster: &'lab ControlPlane, subject: Subject) -> Result<Self> {
        let proxies = start(lab, cluster, subject)?;
        Ok(Self {
            lab,
            cluster,
            subject,
            proxies: Mutex::new(proxies),
        })
    }

    /// Kills it on all nodes and starts it again. What was programmed stays in between.
    pub fn restart(&self) -> Result<()> {
        let mut proxies = self.proxies();
        match &mut *proxies {
            // Dropping one kills it.
            Proxies::Kube(running) => running.clear(),
            Proxies::Ours(running) => running.drain(..).try_for_each(Agent::kill9)?,
        }
        *proxies = start(self.lab, self.cluster, self.subject)?;
        Ok(())
    }

    /// Prints the end of its processes' logs, where they are ours.
    pub fn print_logs(&self) {
        let Proxies::Ours(agents) = &*self.proxies() else {
            return;
        };
        for agent in agents {
            let text = std::fs::read_to_string(agent.log()).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(20)..].join("\n");
            eprintln!("--- the end of {}:\n{tail}", agent.log().display());
        }
    }

    /// Ends it, and takes away what it programmed.
    pub fn stop(self) -> Result<()> {
        let proxies = self.proxies.into_inner();
        match proxies.unwrap_or_else(PoisonError::into_inner) {
            Proxies::Kube(running) => running.into_iter().try_for_each(KubeProxy::stop),
            Proxies::Ours(running) => {
                for agent in running {
                    agent.terminate()?;
                }
                for node in self.lab.nodes() {
                    let pins = node.bpffs().display().to_string();
                    agent_command(node, ["cleanup", "--bpffs", &pins])?;
                }
                Ok(())
            }
        }
    }

    fn proxies(&self) -> MutexGuard<'_, Proxies<'lab>> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start<'lab>(
    lab: &'lab Lab,
    cluster: &'lab ControlPlane,
    subject: Subject,
) -> Result<Proxies<'lab>> {
    if let Some(mode) = subject.mode() {
        let nodes = lab.nodes().iter();
        let started = nodes.map(|node| KubeProxy::start(cluster, node, mode));
        return started.collect::<Result<_>>().map(Proxies::Kube);
    }
    let options = AgentOptions::kube(&cluster.kubeconfig(&Identity::KubeProxy)?);
    let options = match subject {
        Subject::Packets => options.arg("--socket-lb=host"),
        _ => options,
    };
    spawn_agents(lab, &options.ready_within(READY_WITHIN)).map(Proxies::Ours)
}
