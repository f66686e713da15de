//! The pods of a Service with `externalTrafficPolicy: Local` are replaced, first by a rolling update, then
//! by draining a node, behind a load balancer that uses the nodes' health checks. Every connection must be
//! answered: a node with only terminating endpoints serves with them until the load balancer has seen that
//! the health check fails.

use std::time::{Duration, Instant};

use crate::Family;
use crate::agent::{Agent, AgentOptions};
use crate::control_plane::{ControlPlane, ControlPlaneOptions, Identity};
use crate::error::Result;
use crate::kube_proxy::{KubeProxy, KubeProxyMode};
use crate::lab::Lab;
use crate::node::Node;
use crate::patience::eventually;
use crate::protocol::{BalanceReport, BalanceRequest, BalancedNode};

const NODES: [&str; 4] = ["worker-1", "worker-2", "worker-3", "worker-4"];
/// The one that is drained.
const DRAINED: &str = NODES[0];
const NODE_PORT: u16 = 30_500;
const CHECK: u16 = 30_501;
const PATIENCE: Duration = Duration::from_mins(1);
/// Faster than any cloud's balancer asks.
const CHECK_INTERVAL: Duration = Duration::from_millis(150);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before, between and after the changes.
const PAUSE: Duration = Duration::from_secs(1);

/// Ten pods that go on serving for three seconds after they were asked to end.
const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 10
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 3
      containers: [{name: web, image: none, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 30501
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30500}]
";

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// Our agents.
    Agent,
    /// The real kube-proxy.
    KubeProxy(KubeProxyMode),
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// The balancer's.
    pub balancer: BalanceReport,
    /// Time under load.
    pub elapsed: Duration,
    /// Packets that our agents' nodes dropped or refused, by reason, where that happened.
    pub lost: Vec<(String, f64)>,
}

impl Report {
    /// Connections a second.
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    pub fn rate(&self) -> f64 {
        self.balancer.connections.attempts as f64 / self.elapsed.as_secs_f64()
    }
}

enum Running<'lab> {
    Agent(Agent),
    KubeProxy(KubeProxy<'lab>),
}

/// Builds the cluster, with a load of `rate` connections a second, and does it.
pub fn run(label: &str, proxy: Proxy, rate: u32) -> Result<Report> {
    let builder = NODES
        .into_iter()
        .fold(Lab::builder(label), crate::LabBuilder::node);
    let lab = builder.up()?;
    let cluster = lab.start_control_plane(&ControlPlaneOptions::default())?;
    cluster.apply(WEB)?;
    let running = start(&lab, cluster, proxy)?;
    cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let balancer = lab.workstation().balance(BalanceRequest {
        nodes: NODES
            .map(|name| {
                let node = lab.node(name);
                BalancedNode {
                    to: node.at(Family::V4, NODE_PORT),
                    check: node.at(Family::V4, CHECK),
                }
            })
            .to_vec(),
        check_interval: CHECK_INTERVAL,
        rate,
        timeout: TIMEOUT,
    })?;
    let began = Instant::now();
    std::thread::sleep(PAUSE);
    let before = pods(cluster)?;
    cluster.kubectl(["rollout", "restart", "deployment/web"])?;
    cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"])?;
    gone(cluster, &before)?;
    std::thread::sleep(PAUSE);
    let before = on_node(cluster, DRAINED)?;
    cluster.kubectl(["drain", DRAINED, "--timeout=60s"])?;
    gone(cluster, &before)?;
    std::thread::sleep(PAUSE);
    cluster.kubectl(["uncordon", DRAINED])?;
    let report = Report {
        balancer: balancer.stop()?,
        elapsed: began.elapsed(),
        lost: lost(&lab, proxy)?,
    };
    for one in running {
        match one {
            Running::Agent(agent) => drop(agent.terminate()?),
            Running::KubeProxy(proxy) => proxy.stop()?,
        }
    }
    Ok(report)
}

/// Starts a proxy on each worker, and waits until all of them take connections.
fn start<'lab>(lab: &'lab Lab, cluster: &ControlPlane, proxy: Proxy) -> Result<Vec<Running<'lab>>> {
    let start = |node: &'lab Node| match proxy {
        Proxy::Agent => {
            let kubeconfig = cluster.kubeconfig(&Identity::KubeProxy)?;
            let options = AgentOptions::kube(&kubeconfig).ready_within(PATIENCE);
            node.spawn_agent(&options).map(Running::Agent)
        }
        Proxy::KubeProxy(mode) => KubeProxy::start(cluster, node, mode).map(Running::KubeProxy),
    };
    let running = std::thread::scope(|scope| {
        let starting = NODES.map(|name| scope.spawn(move || start(lab.node(name))));
        let started = starting.into_iter().map(|one| {
            one.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        started.collect::<Result<Vec<_>>>()
    })?;
    for name in NODES {
        let to = lab.node(name).at(Family::V4, CHECK);
        eventually(&format!("{name} takes connections"), PATIENCE, || {
            let answer = lab.workstation().http(to, "/healthz")?;
            Ok(answer.is_ok_and(|answer| answer.status == 200))
        })?;
    }
    Ok(running)
}

/// The pods of the Deployment, and where they are.
fn pods(cluster: &ControlPlane) -> Result<Vec<(String, String)>> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{\"\\n\"}{end}";
    let text = cluster.kubectl(["get", "pods", "-l", "app=web", "-o", path])?;
    let pair = |line: &str| {
        let (name, node) = line.split_once(' ')?;
        Some((name.to_owned(), node.to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

fn on_node(cluster: &ControlPlane, node: &str) -> Result<Vec<(String, String)>> {
    let mut pods = pods(cluster)?;
    pods.retain(|(_, place)| place == node);
    Ok(pods)
}

/// Waits until none of these pods is left, and there are as many as there should be.
fn gone(cluster: &ControlPlane, before: &[(String, String)]) -> Result<()> {
    eventually("others have taken the pods' place", PATIENCE, || {
        let now = pods(cluster)?;
        Ok(now.len() == 10 && !now.iter().any(|pod| before.contains(pod)))
    })
    .map(drop)
}

/// Drops and refusals that our agents' nodes count.
fn lost(lab: &Lab, proxy: Proxy) -> Result<Vec<(String, f64)>> {
    let mut lost = Vec::new();
    if proxy != Proxy::Agent {
        return Ok(lost);
    }
    for name in NODES {
        let node = lab.node(name);
        let to = (std::net::Ipv4Addr::LOCALHOST, 10_249).into();
        let Ok(answer) = node.http(to, "/metrics")? else {
            continue;
        };
        let samples = answer.body.lines().filter(|line| {
            line.starts_with("proxy_drops_total{")
                || line.contains("\"reject_no_endpoint\"")
                || line.contains("\"refuse_no_endpoint\"")
        });
        for (sample, value) in samples.filter_map(|line| line.rsplit_once(' ')) {
            let value = value.parse().unwrap_or(f64::NAN);
            if value != 0.0 {
                lost.push((format!("{name}: {sample}"), value));
            }
        }
    }
    Ok(lost)
}
