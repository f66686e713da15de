//! Two nodes, ten backend pods, and Services; most Services change their endpoints.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy_agent::dataplane::maps::KernelMaps;
use proxy_agent::dataplane::pin::PinFolder;
use proxy_agent::maps::{Maps as _, Snapshot};
use proxy_lab::objects::Service;
use proxy_lab::{
    Agent, AgentOptions, ControlPlaneOptions, Family, Folder, Host, Identity, Lab, LabBuilder, Pod,
    PodSpec, Protocol, Result, TcpRequest, address, agent_binary,
};
use serde_json::Value;

pub const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const NODE_PORT: u16 = 30_800;
/// Services, counted from 1. The first [`CHANGED`] of them get other endpoints.
pub const SERVICES: u8 = 15;
pub const CHANGED: u8 = 10;
pub const NODES: [&str; 2] = ["worker-1", "worker-2"];
const FIRST: [&str; 5] = ["s1", "s2", "t1", "t2", "t3"];
const SECOND: [&str; 5] = ["s3", "s4", "s5", "t4", "t5"];

/// The running lab.
pub struct Cluster {
    pub lab: Lab,
    objects: Objects,
}

/// Where objects are, and agents find them.
enum Objects {
    Folder(Folder),
    /// The API server's, and the kubeconfig of agents.
    Api(PathBuf),
}

/// A folder, or a real API server.
#[derive(Clone, Copy)]
pub enum Source {
    Folder,
    Api,
}

/// Whether a Service, as `namespace/name`, keeps its endpoints.
pub fn is_kept(service: &str) -> bool {
    (CHANGED + 1..=SERVICES).any(|number| service == format!("default/{}", name(number)))
}

fn name(number: u8) -> String {
    format!("restart-{number:02}")
}

/// The first one is the API server's own.
fn vip(number: u8) -> address::Pair {
    address::cluster_ip(100 + u16::from(number))
}

fn service(number: u8) -> Service {
    Service::new(&name(number))
        .cluster_ips(vip(number))
        .both(PORT)
        .node_port(NODE_PORT + u16::from(number))
        .load_balancer(address::load_balancer(number).v4)
        .load_balancer(address::load_balancer(number).v6)
}

pub fn cluster_ip(number: u8, family: Family) -> SocketAddr {
    (vip(number).of(family), PORT).into()
}

pub fn load_balancer(number: u8, family: Family) -> SocketAddr {
    (address::load_balancer(number).of(family), PORT).into()
}

impl Cluster {
    pub fn up(label: &str, source: Source) -> Result<Self> {
        Self::up_on(Lab::builder(label), source)
    }

    pub fn up_on(lab: LabBuilder, source: Source) -> Result<Self> {
        let lab = lab
            .node(NODES[0])
            .node(NODES[1])
            .pods("worker-1", ["sockets", "s1", "s2", "s3", "s4", "s5"])
            .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
            .pods("worker-2", ["t1", "t2", "t3", "t4", "t5"])
            .up()?;
        for name in FIRST.iter().chain(&SECOND) {
            lab.pod(name).serve(TARGET_PORT)?;
        }
        let objects = match source {
            Source::Folder => Objects::Folder(lab.source()?),
            Source::Api => {
                let options = ControlPlaneOptions::default().without_controllers();
                let cluster = lab.start_control_plane(&options)?;
                Objects::Api(cluster.kubeconfig(&Identity::KubeProxy)?)
            }
        };
        let cluster = Self { lab, objects };
        for number in 1..=SERVICES {
            cluster.put_endpoints(number, &FIRST)?;
            cluster.put(service(number))?;
        }
        Ok(cluster)
    }

    fn put(&self, object: impl Into<Value>) -> Result<()> {
        match &self.objects {
            Objects::Folder(folder) => folder.put(object),
            Objects::Api(_) => {
                let cluster = self.lab.cluster().expect("was started");
                cluster.api().put(object)
            }
        }
    }

    /// The value of `--source`, and the kubeconfig that it may need.
    fn source(&self) -> (String, Option<&Path>) {
        match &self.objects {
            Objects::Folder(folder) => (format!("file:{}", folder.path().display()), None),
            Objects::Api(kubeconfig) => ("kube".to_owned(), Some(kubeconfig)),
        }
    }

    pub fn spawn_agents(&self) -> Result<Vec<Agent>> {
        self.spawn_agents_with([])
    }

    pub fn spawn_agents_with<const N: usize>(
        &self,
        arguments: [&'static str; N],
    ) -> Result<Vec<Agent>> {
        let options = arguments
            .into_iter()
            .fold(self.agent_options(), AgentOptions::arg);
        NODES
            .map(|node| self.lab.node(node).spawn_agent(&options))
            .into_iter()
            .collect()
    }

    /// An agent that follows this cluster's objects.
    pub fn agent_options(&self) -> AgentOptions {
        let (source, kubeconfig) = self.source();
        let options = AgentOptions::source(source);
        match kubeconfig {
            Some(path) => options.arg("--kubeconfig").arg(path),
            None => options,
        }
    }

    /// Starts an agent on worker-1 and kills it after this time, wherever it is then.
    pub fn agent_for(&self, time: Duration) -> Result<()> {
        let node = self.lab.node("worker-1");
        let text = |path: &Path| path.display().to_string();
        let (source, kubeconfig) = self.source();
        let mut words = vec![
            "timeout".to_owned(),
            "--signal=KILL".to_owned(),
            format!("{}", time.as_secs_f64()),
            text(&agent_binary()?),
            "run".to_owned(),
            "--source".to_owned(),
            source,
            "--hostname-override".to_owned(),
            "worker-1".to_owned(),
            "--bpffs".to_owned(),
            text(node.bpffs()),
            "--cgroup".to_owned(),
            text(node.cgroup()),
        ];
        if let Some(path) = kubeconfig {
            words.extend(["--kubeconfig".to_owned(), text(path)]);
        }
        let ended = node.exec(words);
        // A command that was killed is an error to the lab, and what is wanted here.
        assert!(ended.is_err(), "the agent ended by itself: {ended:?}");
        Ok(())
    }

    /// A node or pod by name.
    pub fn client(&self, name: &str) -> &Host {
        let found = self.lab.hosts().find(|host| host.name() == name);
        found.unwrap_or_else(|| panic!("no host {name}"))
    }

    pub fn node_port(&self, node: &str, number: u8, family: Family) -> SocketAddr {
        self.lab
            .node(node)
            .at(family, NODE_PORT + u16::from(number))
    }

    fn put_endpoints(&self, number: u8, pods: &[&str]) -> Result<()> {
        for family in Family::ALL {
            let pods: Vec<&Pod> = pods.iter().map(|name| self.lab.pod(name)).collect();
            self.put(service(number).slice_of(family, TARGET_PORT, pods))?;
        }
        Ok(())
    }

    /// Gives Services their second endpoints, or the first again; how many backends go, which as many others replace. (A
    /// backend is an address with a port and a protocol.)
    pub fn change_endpoints(&self, second: bool) -> Result<usize> {
        for number in 1..=CHANGED {
            self.put_endpoints(number, if second { &SECOND } else { &FIRST })?;
        }
        Ok(usize::from(CHANGED) * FIRST.len() * Family::ALL.len() * Protocol::ALL.len())
    }

    /// Whether new connections of Services that change reach their first or second endpoints alone, from everywhere.
    pub fn endpoints_are_used(&self, second: bool) -> Result<bool> {
        let servers = BTreeSet::from(if second { SECOND } else { FIRST });
        for number in [1, CHANGED] {
            for family in Family::ALL {
                let ways = [
                    ("worker-1", cluster_ip(number, family)),
                    ("sockets", cluster_ip(number, family)),
                    ("packets", cluster_ip(number, family)),
                    ("workstation", self.node_port("worker-1", number, family)),
                    ("workstation", self.node_port("worker-2", number, family)),
                ];
                for (client, to) in ways {
                    let exchanges = self.client(client).tcp_all(TcpRequest::to(to).times(8))?;
                    for exchange in exchanges {
                        let server = exchange
                            .server()
                            .unwrap_or_else(|| panic!("{client} to {to}: {exchange:?}"));
                        if !servers.contains(server) {
                            return Ok(false);
                        }
                    }
                }
            }
        }
        Ok(true)
    }

    /// Whether a server is an endpoint only after the change.
    pub fn is_new(server: &str) -> bool {
        SECOND.contains(&server)
    }

    /// All maps of a node's agent, whether it runs or not.
    pub fn snapshot(&self, node: &str) -> Snapshot {
        let maps = KernelMaps::open(&PinFolder::new(self.lab.node(node).bpffs()))
            .expect("maps are pinned");
        maps.snapshot().expect("can be read")
    }

    /// Operations that the last agent on a node has applied, by its log.
    pub fn operations(&self, node: &str) -> usize {
        let log = self
            .lab
            .node(node)
            .agent_logs()
            .pop()
            .expect("an agent was started");
        let text = std::fs::read_to_string(&log)
            .unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let counts = text
            .lines()
            .filter(|line| line.contains("programmed"))
            .filter_map(|line| {
                let (_, rest) = line.split_once("operations=")?;
                rest.split_whitespace().next()?.parse::<usize>().ok()
            });
        let counts: Vec<_> = counts.collect();
        assert!(
            !counts.is_empty(),
            "the log does not say what was programmed:\n{text}"
        );
        counts.into_iter().sum()
    }

    /// The number of a device.
    pub fn ifindex(&self, node: &str, device: &str) -> Result<u32> {
        let text = self
            .lab
            .node(node)
            .exec(["ip", "-oneline", "link", "show", "dev", device])?;
        let number = text
            .split(':')
            .next()
            .and_then(|number| number.parse().ok());
        Ok(number.unwrap_or_else(|| panic!("no number in {text:?}")))
    }
}
