//! In place of kube-proxy and back, step by step as docs/install.md has it, with connections that are held all the while.

use std::time::Duration;

use proxy_agent::dataplane::{open, pin::PinFolder};
use proxy_common::abi::counter::Counter;
use proxy_lab::objects::Service;
use proxy_lab::{
    AgentOptions, ControlPlaneOptions, Exchange, Family, Hold, Identity, KubeProxy, KubeProxyMode,
    Lab, Node, Protocol, TcpRequest, address, agent_command,
};

const HELD: usize = 10;
const NODE_PORT: u16 = 30080;
/// A new connection is served; how soon is not asked here, on a machine that may stand still.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than a connection takes of which no packet is lost, on a machine that does not.
const SLOW: Duration = Duration::from_millis(900);

fn lost(exchanges: &[Exchange]) -> usize {
    let failed = exchanges
        .iter()
        .filter(|exchange| exchange.outcome.is_err());
    failed.count()
}

/// A pod by ClusterIP, and a client from outside by the node port. New connections are served at this step.
#[track_caller]
fn hold<'lab>(lab: &'lab Lab, step: &str) -> [Hold<'lab>; 2] {
    let vip = (address::cluster_ip(1000).v4, 80).into();
    let port = lab.node("worker-1").at(Family::V4, NODE_PORT);
    [(&**lab.pod("a1"), vip), (lab.workstation(), port)].map(|(client, to)| {
        let request = TcpRequest::to(to).times(HELD).timeout(PATIENCE);
        let hold = client.hold(request).expect("is tried");
        let slow = |exchange: &&Exchange| exchange.outcome.is_err() || exchange.elapsed > SLOW;
        let slow: Vec<_> = hold.opened.iter().filter(slow).collect();
        if !slow.is_empty() {
            eprintln!(
                "{step}: {} to {to}: {slow:#?}\n{}",
                client.name(),
                evidence(lab)
            );
        }
        assert_eq!(lost(&hold.opened), 0, "{step}: {} to {to}", client.name());
        hold
    })
}

/// Where packets may have gone: what hosts sent again, conntrack dropped (`worker-1`), and the agent counted.
fn evidence(lab: &Lab) -> String {
    let hosts = [
        &**lab.pod("a1"),
        lab.workstation(),
        lab.pod("b1"),
        lab.pod("b2"),
    ];
    let words = [
        "nstat",
        "-as",
        "Tcp*",
        "TcpExtTCPSynRetrans",
        "TcpExtListenDrops",
    ];
    let told = hosts.map(|host| {
        let told = host.exec(words).unwrap_or_else(|error| error.chain());
        format!("{}:\n{told}", host.name())
    });
    let node = lab.node("worker-1");
    let conntrack = node.exec(["cat", "/proc/net/stat/nf_conntrack"]);
    let conntrack = conntrack.unwrap_or_else(|error| error.chain());
    format!("{}\n{conntrack}\n{:?}", told.join("\n"), counters(node))
}

/// The datapath's counters, once it is there.
fn counters(node: &Node) -> Option<Vec<(&'static str, u64)>> {
    let map = open::counters(&PinFolder::new(node.bpffs())).ok()?;
    let counts = Counter::ALL.iter();
    let counts = counts.map(|counter| (counter.label(), map.sum(*counter as u32).unwrap_or(0)));
    Some(counts.filter(|(_, count)| *count > 0).collect())
}

/// How many of each were lost.
fn check(holds: &[Hold<'_>; 2]) -> [usize; 2] {
    holds.each_ref().map(|hold| {
        let checked = hold.check(PATIENCE).expect("asks");
        HELD - checked.len() + lost(&checked)
    })
}

#[test]
fn in_place_of_kube_proxy_and_back() {
    if proxy_lab::control_plane::skipped() {
        return;
    }
    let lab = Lab::builder("install")
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["a1"])
        .pods("worker-2", ["b1", "b2"])
        .up()
        .expect("comes up");
    let cluster = lab
        .start_control_plane(&ControlPlaneOptions::default().without_controllers())
        .expect("starts");
    for pod in lab.pods() {
        pod.serve(8080).expect("serves");
    }
    let web = Service::new("web")
        .cluster_ips(address::cluster_ip(1000))
        .port("http", Protocol::Tcp, 80)
        .node_port(NODE_PORT);
    for family in Family::ALL {
        let slice = web.slice_of(family, 8080, &lab.pods()[1..]);
        cluster.api().put(slice).expect("is written");
    }
    cluster.api().put(web).expect("is written");
    let node = lab.node("worker-1");

    let kube_proxy = KubeProxy::start(cluster, node, KubeProxyMode::Iptables).expect("starts");
    let by_kube_proxy = hold(&lab, "by kube-proxy");
    let kubeconfig = cluster
        .kubeconfig(&Identity::KubeProxy)
        .expect("is written");
    let options = AgentOptions::source("kube")
        .arg("--kubeconfig")
        .arg(kubeconfig);
    let agent = node.spawn_agent(&options).expect("becomes ready");
    let beside = hold(&lab, "beside kube-proxy");
    assert_eq!(check(&by_kube_proxy), [0, 0], "the agent has come");
    kube_proxy.stop().expect("ends, with its rules");
    let alone = hold(&lab, "alone");
    assert_eq!(check(&by_kube_proxy), [0, 0], "kube-proxy has gone");
    assert_eq!(check(&beside), [0, 0], "kube-proxy has gone");

    // And back.
    let started = KubeProxy::start_beside(cluster, node, KubeProxyMode::Iptables);
    let _kube_proxy = started.expect("starts");
    assert_eq!(check(&alone), [0, 0], "kube-proxy is back");
    agent.terminate().expect("ends");
    let bpffs = node.bpffs().display().to_string();
    agent_command(node, ["cleanup", "--bpffs", &bpffs]).expect("cleans up");
    let by_kube_proxy_again = hold(&lab, "by kube-proxy again");
    assert_eq!(check(&by_kube_proxy_again), [0, 0]);
    let [by_sockets, by_packets] = check(&alone);
    assert_eq!(by_sockets, 0, "sockets are connected to their backends");
    eprintln!("of {HELD} connections from outside, {by_packets} were lost by cleanup");
}
