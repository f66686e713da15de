//! A node: a host with pods, a cgroup and a bpffs folder, on which agents run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::address::{self, Family, Pair};
use crate::daemon::log_tail;
use crate::error::Result;
use crate::host::Host;
use crate::protocol::Tunnel;
use crate::spec::{Cni, NodeSpec};
use crate::wiring::TUNNEL_PORT;

/// A node.
#[derive(Debug)]
pub struct Node {
    host: Host,
    spec: NodeSpec,
    index: u8,
    bpffs: PathBuf,
    temp: PathBuf,
    logs: Mutex<Vec<PathBuf>>,
}

impl std::ops::Deref for Node {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Node {
    pub(crate) fn new(
        host: Host,
        spec: NodeSpec,
        index: u8,
        bpffs: PathBuf,
        temp: PathBuf,
    ) -> Self {
        Self {
            host,
            spec,
            index,
            bpffs,
            temp,
            logs: Mutex::default(),
        }
    }

    /// How it connects its pods.
    pub fn cni(&self) -> Cni {
        self.spec.cni
    }

    /// Nodes count from 0, the control plane.
    pub(crate) fn index(&self) -> u8 {
        self.index
    }

    /// Its address on the lab's overlay device.
    pub fn overlay_address(&self) -> Pair {
        address::overlay(self.index)
    }

    /// Forwards packets between a tun device of this node and those of its peers.
    pub(crate) fn tunnel(&self, device: &str, peers: &[u8]) -> Result<()> {
        let at = |pair: Pair| SocketAddr::new(pair.v4.into(), TUNNEL_PORT);
        self.host.tunnel(Tunnel {
            device: device.to_owned(),
            bind: at(address::node(self.index)),
            peers: peers
                .iter()
                .map(|&peer| {
                    (
                        address::overlay(peer).v4,
                        address::overlay(peer).v6,
                        at(address::node(peer)),
                    )
                })
                .collect(),
        })
    }

    /// Its folder in bpffs, for `--bpffs`.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The lab's folder for files.
    pub(crate) fn temp(&self) -> &Path {
        &self.temp
    }

    /// The node's pod range.
    pub fn pod_range(&self, family: Family) -> String {
        let (v4, v6) = address::pod_ranges(self.index);
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// The node's own address among its pods.
    pub fn pod_gateway(&self) -> Pair {
        address::gateway(self.index)
    }

    /// The node's device that leads to a pod: its veth.
    pub fn device_of(&self, pod: &str) -> String {
        crate::wiring::veth(pod)
    }

    /// A new file for the log of an agent.
    pub(crate) fn new_agent_log(&self) -> PathBuf {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let log = self
            .temp
            .join(format!("agent-{}-{}.log", self.name(), logs.len()));
        logs.push(log.clone());
        log
    }

    /// The logs of the node's agents, oldest first.
    pub fn agent_logs(&self) -> Vec<PathBuf> {
        self.logs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Prints the end of each agent's log to stderr.
    pub(crate) fn print_logs(&self) {
        for log in self.agent_logs().into_iter().filter(|log| log.exists()) {
            eprintln!("--- the end of {}:\n{}", log.display(), log_tail(&log));
        }
    }
}
