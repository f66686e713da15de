//! Deployments of a real control plane are pods of the lab that serve; kube-proxy sends them traffic.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_lab::control_plane::kubelet::{EXITS_AFTER, READY};
use proxy_lab::sweep::Leftovers;
use proxy_lab::{
    ControlPlane, ControlPlaneOptions, Host, KubeProxy, KubeProxyMode, Lab, Protocol, TcpRequest,
    eventually,
};

const PATIENCE: Duration = Duration::from_mins(1);

/// Two pods and a Service of both families, for TCP and UDP.
const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: none
        ports: [{containerPort: 8080}, {containerPort: 8080, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ipFamilyPolicy: RequireDualStack
  ports:
  - {name: tcp, port: 80, targetPort: 8080}
  - {name: udp, port: 80, targetPort: 8080, protocol: UDP}
";

#[test]
fn a_deployments_pods_serve_come_and_go() {
    if proxy_lab::control_plane::skipped() {
        return;
    }
    let lab = Lab::builder("deploy")
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["client"])
        .up()
        .expect("comes up");
    let cluster = lab
        .start_control_plane(&ControlPlaneOptions::default())
        .expect("starts");
    cluster.apply(WEB).expect("is accepted");
    rolled_out(cluster, "deployment/web");
    eprintln!(
        "{}",
        cluster
            .kubectl(["get", "pods", "-o", "wide"])
            .expect("answers")
    );

    let pods = names(cluster);
    let nodes: BTreeSet<_> = pods.iter().map(|name| node_of(cluster, name)).collect();
    assert_eq!(nodes.len(), 2, "one on each worker");
    let proxy =
        KubeProxy::start(cluster, lab.node("worker-1"), KubeProxyMode::Nftables).expect("starts");

    let client = lab.pod("client");
    let services = addresses(cluster, "web");
    assert_eq!(services.len(), 2, "one of each family");
    for &to in &services {
        for protocol in Protocol::ALL {
            let what = format!("both pods answer at {to} {protocol}");
            eventually(&what, PATIENCE, || {
                Ok(answering(client, protocol, to) == pods)
            })
            .expect("they do");
        }
    }

    // Not ready: no new connections. Ready again: they come back.
    let first = pods.first().expect("there are two").clone();
    cluster
        .kubectl(["annotate", "pod", &first, &format!("{READY}=false")])
        .expect("is accepted");
    let rest: BTreeSet<_> = pods.iter().skip(1).cloned().collect();
    eventually("the other answers alone", PATIENCE, || {
        Ok(answering(client, Protocol::Tcp, services[0]) == rest)
    })
    .expect("it does");
    cluster
        .kubectl(["annotate", "pod", &first, &format!("{READY}-")])
        .expect("is accepted");
    eventually("both answer", PATIENCE, || {
        Ok(answering(client, Protocol::Tcp, services[0]) == pods)
    })
    .expect("they do");

    // Deleted: it serves for its grace period, and another appears.
    let address = cluster
        .pod("default", &first)
        .expect("runs")
        .at(proxy_lab::Family::V4, 8080);
    cluster
        .kubectl(["annotate", "pod", &first, &format!("{EXITS_AFTER}=1.5")])
        .expect("is accepted");
    cluster
        .kubectl(["delete", "pod", &first, "--wait=false"])
        .expect("is accepted");
    eventually("it is terminating", PATIENCE, || {
        let slices = cluster.kubectl([
            "get",
            "endpointslices",
            "-o",
            "jsonpath={..conditions.terminating}",
        ])?;
        Ok(slices.contains("true"))
    })
    .expect("it is");
    assert!(
        client.tcp(address).expect("is asked").outcome.is_ok(),
        "still serves"
    );
    eventually("its object is gone", PATIENCE, || {
        Ok(!names(cluster).contains(&first))
    })
    .expect("it is");
    assert!(
        client.tcp(address).expect("is asked").outcome.is_err(),
        "serves no more"
    );
    assert!(cluster.pod("default", &first).is_none());
    eventually("another answers in its place", PATIENCE, || {
        let now = answering(client, Protocol::Tcp, services[0]);
        Ok(now.len() == 2 && !now.contains(&first))
    })
    .expect("it does");

    // It dies without a word: the same, at once.
    let second = names(cluster).first().expect("there are two").clone();
    cluster.fail_pod("default", &second).expect("runs");
    eventually("another answers in its place", PATIENCE, || {
        let now = answering(client, Protocol::Tcp, services[0]);
        Ok(now.len() == 2 && !now.contains(&second))
    })
    .expect("it does");

    proxy.stop().expect("ends");
    let rules = lab
        .node("worker-1")
        .exec(["nft", "list", "tables"])
        .expect("are listed");
    assert!(!rules.contains("kube-proxy"), "{rules}");

    cluster
        .kubectl(["delete", "deployment", "web", "--grace-period=0"])
        .expect("is accepted");
    let prefix = lab.prefix().to_owned();
    eventually(
        "all but the switch, three nodes, workstation and client are gone",
        PATIENCE,
        || Ok(Leftovers::of(&prefix).namespaces.len() == 6),
    )
    .expect("they are");
    assert!(cluster.pods().is_empty());
    drop(lab);
    assert!(
        Leftovers::of(&prefix).is_empty(),
        "{:?}",
        Leftovers::of(&prefix)
    );
}

#[test]
fn a_daemon_set_has_a_pod_on_every_node_that_it_tolerates() {
    if proxy_lab::control_plane::skipped() {
        return;
    }
    let lab = Lab::builder("daemons")
        .node("worker-1")
        .up()
        .expect("comes up");
    let cluster = lab
        .start_control_plane(&ControlPlaneOptions::default())
        .expect("starts");
    cluster
        .apply(
            r"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: kube-system}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      hostNetwork: true
      tolerations: [{operator: Exists}]
      containers: [{name: agent, image: none, ports: [{containerPort: 9000}]}]
",
        )
        .expect("is accepted");
    rolled_out(cluster, "daemonset/agent");
    for node in lab.nodes() {
        let answer = lab
            .workstation()
            .tcp(node.at(proxy_lab::Family::V6, 9000))
            .expect("is asked");
        let server = answer.server().unwrap_or_default().to_owned();
        assert!(
            server.starts_with("agent-"),
            "{server:?} on {}",
            node.name()
        );
        assert_eq!(node_of_in(cluster, "kube-system", &server), node.name());
    }
}

fn rolled_out(cluster: &ControlPlane, what: &str) {
    let namespace = if what.starts_with("daemonset") {
        "kube-system"
    } else {
        "default"
    };
    let arguments = [
        "rollout",
        "status",
        what,
        "--timeout=60s",
        "--namespace",
        namespace,
    ];
    cluster.kubectl(arguments).expect("is rolled out");
}

/// The pods of the Deployment that are not on their way out.
fn names(cluster: &ControlPlane) -> BTreeSet<String> {
    let running = "--field-selector=status.phase=Running";
    let text = cluster.kubectl([
        "get",
        "pods",
        "-l",
        "app=web",
        running,
        "-o",
        "jsonpath={.items[*].metadata.name}",
    ]);
    text.expect("answers")
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

fn node_of(cluster: &ControlPlane, pod: &str) -> String {
    node_of_in(cluster, "default", pod)
}

fn node_of_in(cluster: &ControlPlane, namespace: &str, pod: &str) -> String {
    cluster
        .pod(namespace, pod)
        .map(|pod| pod.node().to_owned())
        .unwrap_or_default()
}

fn addresses(cluster: &ControlPlane, service: &str) -> Vec<SocketAddr> {
    let text = cluster.kubectl([
        "get",
        "service",
        service,
        "-o",
        "jsonpath={.spec.clusterIPs[*]}",
    ]);
    let text = text.expect("answers");
    let addresses = text
        .split_whitespace()
        .map(|text| text.parse().expect("is an address"));
    addresses.map(|ip| SocketAddr::new(ip, 80)).collect()
}

/// Who answers, of twenty requests.
fn answering(client: &Host, protocol: Protocol, to: SocketAddr) -> BTreeSet<String> {
    let answers = match protocol {
        Protocol::Tcp => client.tcp_all(
            TcpRequest::to(to)
                .times(20)
                .timeout(Duration::from_millis(500)),
        ),
        Protocol::Udp => {
            let request = proxy_lab::UdpRequest::to(to)
                .times(20)
                .timeout(Duration::from_millis(500));
            client.udp_all(request)
        }
    };
    let answers = answers.expect("are asked");
    answers
        .iter()
        .filter_map(|exchange| exchange.server().map(str::to_owned))
        .collect()
}
