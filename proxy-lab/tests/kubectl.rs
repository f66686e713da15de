//! What is done by kubectl on a real control plane takes effect in traffic, with an agent on every node: Services and
//! Deployments' pods created, changed and deleted, for clients of each kind.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proxy_lab::control_plane::kubelet::READY;
use proxy_lab::{
    AgentOptions, ControlPlane, ControlPlaneOptions, Family, Host, Identity, Lab, Protocol, Result,
    TcpRequest, UdpRequest, address, eventually, spawn_agents,
};

/// Until a change is in use, on a busy machine.
const SOON: Duration = Duration::from_secs(40);
const NODE_PORT: u16 = 30080;

/// Two versions of a program, two pods each, and a Service that selects the first.
fn objects() -> String {
    let deployment = |version: &str| {
        format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{name: shop-{version}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: shop, version: {version}}}}}
  template:
    metadata: {{labels: {{app: shop, version: {version}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {{name: shop, image: none, ports: [{{name: web, containerPort: 8080}}, {{containerPort: 8080, protocol: UDP}}]}}
---
"
        )
    };
    let service = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: shop}}
spec:
  type: NodePort
  selector: {{app: shop, version: v1}}
  ipFamilyPolicy: RequireDualStack
  ports:
  - {{name: tcp, port: 80, targetPort: web, nodePort: {NODE_PORT}}}
  - {{name: udp, port: 80, targetPort: 8080, nodePort: {NODE_PORT}, protocol: UDP}}
"
    );
    format!("{}{}{service}", deployment("v1"), deployment("v2"))
}

struct Scene<'a> {
    lab: &'a Lab,
    cluster: &'a ControlPlane,
}

impl Scene<'_> {
    fn kubectl<const N: usize>(&self, arguments: [&str; N]) -> Result<String> {
        self.cluster.kubectl(arguments)
    }

    /// The ready pods of a version.
    fn pods(&self, version: &str) -> Result<BTreeSet<String>> {
        let selector = format!("app=shop,version={version}");
        let running = "--field-selector=status.phase=Running";
        let names = "jsonpath={.items[*].metadata.name}";
        let text = self.kubectl(["get", "pods", "-l", &selector, running, "-o", names])?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    fn cluster_ip(&self, family: Family) -> Result<IpAddr> {
        let text = self.kubectl([
            "get",
            "service",
            "shop",
            "-o",
            "jsonpath={.spec.clusterIPs[*]}",
        ])?;
        let mut addresses = text.split_whitespace().filter_map(|text| text.parse().ok());
        Ok(addresses
            .find(|ip| Family::of(*ip) == family)
            .expect("there is one of each family"))
    }

    /// The servers that answer a pod at the `ClusterIP`, at port 80 by default.
    fn at_cluster_ip(&self, family: Family, port: u16) -> Result<BTreeSet<String>> {
        let to = SocketAddr::new(self.cluster_ip(family)?, port);
        answering(self.lab.pod("client"), Protocol::Tcp, to)
    }

    /// Everybody who may ask, by every way there is, and who answers them.
    fn all_ways(&self) -> Result<Vec<BTreeSet<String>>> {
        let mut ways = Vec::new();
        for family in Family::ALL {
            let service = SocketAddr::new(self.cluster_ip(family)?, 80);
            for protocol in Protocol::ALL {
                for client in [&**self.lab.pod("client"), self.lab.node("worker-2")] {
                    ways.push(answering(client, protocol, service)?);
                }
                for node in ["worker-1", "worker-2"] {
                    let to = self.lab.node(node).at(family, NODE_PORT);
                    ways.push(answering(self.lab.workstation(), protocol, to)?);
                }
            }
        }
        Ok(ways)
    }

    fn until_all_ways_lead_to(&self, pods: &BTreeSet<String>, what: &str) -> Result<()> {
        let took = eventually(what, SOON, || {
            Ok(self.all_ways()?.iter().all(|answering| answering == pods))
        })?;
        eprintln!("{what}: {took:?}");
        Ok(())
    }
}

#[test]
fn what_kubectl_changes_takes_effect_in_traffic() -> Result<()> {
    if proxy_lab::control_plane::skipped() {
        return Ok(());
    }
    let lab = Lab::builder("kubectl")
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["client"])
        .up()?;
    let cluster = lab.start_control_plane(&ControlPlaneOptions::default())?;
    let options = AgentOptions::kube(&cluster.kubeconfig(&Identity::KubeProxy)?);
    spawn_agents(&lab, &options.ready_within(Duration::from_mins(1)))?;
    let scene = Scene { lab: &lab, cluster };

    // Created.
    cluster.apply(&objects())?;
    for version in ["v1", "v2"] {
        scene.kubectl([
            "rollout",
            "status",
            &format!("deployment/shop-{version}"),
            "--timeout=60s",
        ])?;
    }
    let (v1, v2) = (scene.pods("v1")?, scene.pods("v2")?);
    assert_eq!((v1.len(), v2.len()), (2, 2));
    scene.until_all_ways_lead_to(&v1, "created")?;

    // Changed: what it selects.
    let to_v2 = r#"{"spec": {"selector": {"version": "v2"}}}"#;
    scene.kubectl(["patch", "service", "shop", "--patch", to_v2])?;
    scene.until_all_ways_lead_to(&v2, "selector v1 to v2")?;

    // Changed: the port.
    let port = r#"[{"op": "replace", "path": "/spec/ports/0/port", "value": 81}]"#;
    scene.kubectl(["patch", "service", "shop", "--type=json", "--patch", port])?;
    eventually("TCP at port 81, no more at 80", SOON, || {
        let ways = [
            scene.at_cluster_ip(Family::V4, 81)?,
            scene.at_cluster_ip(Family::V6, 81)?,
        ];
        Ok(ways.iter().all(|way| *way == v2) && scene.at_cluster_ip(Family::V4, 80)?.is_empty())
    })?;
    scene.kubectl([
        "patch",
        "service",
        "shop",
        "--type=json",
        "--patch",
        &port.replace("81", "80"),
    ])?;

    // Changed: the number of pods, and who of them is ready.
    scene.kubectl(["scale", "deployment", "shop-v2", "--replicas=4"])?;
    scene.kubectl(["rollout", "status", "deployment/shop-v2", "--timeout=60s"])?;
    let four = scene.pods("v2")?;
    assert_eq!(four.len(), 4);
    scene.until_all_ways_lead_to(&four, "scaled to 4")?;
    let first = four.first().expect("there are four").clone();
    scene.kubectl(["annotate", "pod", &first, &format!("{READY}=false")])?;
    let rest: BTreeSet<_> = four.iter().skip(1).cloned().collect();
    scene.until_all_ways_lead_to(&rest, "one is not ready")?;

    // Deleted: pods, one after its grace period and one at once, each replaced; then all.
    scene.kubectl(["delete", "pod", &first])?;
    let second = rest.first().expect("there are three").clone();
    cluster.fail_pod("default", &second)?;
    scene.kubectl(["rollout", "status", "deployment/shop-v2", "--timeout=60s"])?;
    eventually("four pods again", SOON, || Ok(scene.pods("v2")?.len() == 4))?;
    let now = scene.pods("v2")?;
    assert!(!now.contains(&first) && !now.contains(&second));
    scene.until_all_ways_lead_to(&now, "two were replaced")?;
    scene.kubectl(["scale", "deployment", "shop-v2", "--replicas=0"])?;
    scene.until_all_ways_lead_to(&BTreeSet::new(), "scaled to none")?;
    scene.kubectl(["scale", "deployment", "shop-v2", "--replicas=1"])?;
    eventually("it is there again", SOON, || {
        Ok(scene.pods("v2")?.len() == 1)
    })?;
    let last = scene.pods("v2")?;
    scene.until_all_ways_lead_to(&last, "scaled to one")?;

    // A LoadBalancer's address, given by whoever gives them.
    let (vip, to) = (
        address::load_balancer(10).v4,
        (address::load_balancer(10).v4, 80).into(),
    );
    scene.kubectl([
        "patch",
        "service",
        "shop",
        "--patch",
        r#"{"spec": {"type": "LoadBalancer"}}"#,
    ])?;
    let status = format!(r#"{{"status": {{"loadBalancer": {{"ingress": [{{"ip": "{vip}"}}]}}}}}}"#);
    scene.kubectl([
        "patch",
        "service",
        "shop",
        "--subresource=status",
        "--patch",
        &status,
    ])?;
    eventually("served at its address", SOON, || {
        Ok(answering(lab.workstation(), Protocol::Tcp, to)? == last)
    })?;

    // Deleted: the Service, by every address.
    let service = SocketAddr::new(scene.cluster_ip(Family::V4)?, 80);
    scene.kubectl(["delete", "service", "shop"])?;
    let node_port = lab.node("worker-1").at(Family::V4, NODE_PORT);
    eventually("nobody answers", SOON, || {
        let client: &Host = lab.pod("client");
        let ways = [
            (client, service),
            (lab.workstation(), node_port),
            (lab.workstation(), to),
        ];
        let mut silent = true;
        for (client, to) in ways {
            silent &= answering(client, Protocol::Tcp, to)?.is_empty();
        }
        Ok(silent)
    })?;
    Ok(())
}

/// The servers that answer some requests; empty if the first request gets no answer.
fn answering(client: &Host, protocol: Protocol, to: SocketAddr) -> Result<BTreeSet<String>> {
    let timeout = Duration::from_secs(2);
    let ask = |times| match protocol {
        Protocol::Tcp => client.tcp_all(TcpRequest::to(to).times(times).timeout(timeout)),
        Protocol::Udp => client.udp_all(UdpRequest::to(to).times(times).timeout(timeout)),
    };
    let mut servers = BTreeSet::new();
    for times in [1, 23] {
        let answers = ask(times)?;
        servers.extend(
            answers
                .iter()
                .filter_map(|exchange| exchange.server().map(str::to_owned)),
        );
        if servers.is_empty() {
            break;
        }
    }
    Ok(servers)
}
