//! `manifests/` on a real API server: accepted, enough, and no more than that.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy_lab::objects::Service;
use proxy_lab::{
    AgentOptions, ControlPlane, ControlPlaneOptions, Family, Identity, Lab, Protocol, TcpRequest,
    address, agent_binary, eventually,
};
use serde_json::Value;

const NAME: &str = "kube-proxy-ebpf";
const NAMESPACE: &str = "kube-system";
const PATIENCE: Duration = Duration::from_secs(30);

fn manifests() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    Path::new(&package).join("../manifests")
}

fn lab() -> Lab {
    Lab::builder("ship")
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["a1"])
        .pods("worker-2", ["b1", "b2"])
        .up()
        .expect("comes up")
}

/// Applies the manifests as docs/install.md describes, and fails on any warning.
fn install(cluster: &ControlPlane) {
    let folder = manifests().display().to_string();
    let strict = ["--validate=strict", "--warnings-as-errors"];
    for dry_run in ["--dry-run=server", "--dry-run=none"] {
        let words = [["apply", "-k", &folder].as_slice(), &strict, &[dry_run]].concat();
        cluster.kubectl(words).expect("is accepted");
    }
}

fn json(cluster: &ControlPlane, words: &[&str]) -> Value {
    let words = [words, &["-n", NAMESPACE, "-o", "json"]].concat();
    let text = cluster.kubectl(words).expect("answers");
    serde_json::from_str(&text).expect("is JSON")
}

/// The agent's container, as the API server has it.
fn container(cluster: &ControlPlane) -> Value {
    let daemon_set = json(cluster, &["get", "daemonset", NAME]);
    daemon_set["spec"]["template"]["spec"]["containers"][0].clone()
}

/// The agent, as root with these capabilities and no others.
fn confined(lab: &Lab, capabilities: &[String]) -> PathBuf {
    let names: Vec<_> = capabilities
        .iter()
        .map(|name| name.to_lowercase())
        .collect();
    let list = format!("-all,+{}", names.join(",+"));
    let agent = agent_binary().expect("is built");
    let script = format!(
        "#!/bin/sh\nexec setpriv --bounding-set={list} --inh-caps={list} --no-new-privs {} \"$@\"\n",
        agent.display()
    );
    let path = lab.temp().join("confined-agent");
    fs::write(&path, script).expect("is written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("is ours");
    path
}

/// The capabilities that this process has itself, in the words of manifests.
fn own_capabilities() -> BTreeSet<String> {
    let output = std::process::Command::new("setpriv").arg("--dump").output();
    let text = output.expect("util-linux is there").stdout;
    let text = String::from_utf8_lossy(&text).to_uppercase();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("CAPABILITY BOUNDING SET: "));
    let words = line.unwrap_or_default().split(',');
    words.map(|word| word.trim().to_owned()).collect()
}

#[test]
fn the_daemon_set_is_accepted_and_goes_on_every_node() {
    if proxy_lab::control_plane::skipped() {
        return;
    }
    let lab = lab();
    let cluster = lab
        .start_control_plane(&ControlPlaneOptions::default())
        .expect("starts");
    install(cluster);
    // A pod for each node, the control plane's and its taint included; the pod's affinity names it.
    let mut pods = Value::Null;
    eventually("the controller makes pods", PATIENCE, || {
        pods = json(cluster, &["get", "pods", "-l", "k8s-app=kube-proxy-ebpf"]);
        Ok(pods["items"]
            .as_array()
            .is_some_and(|items| items.len() == 3))
    })
    .expect("they appear");
    for pod in pods["items"].as_array().into_iter().flatten() {
        let spec = &pod["spec"];
        assert_eq!(spec["priorityClassName"], "system-node-critical");
        assert!(spec["priority"].as_i64() > Some(2_000_000_000), "{spec}");
        assert_eq!(
            (&spec["hostNetwork"], &spec["hostPID"]),
            (&true.into(), &true.into())
        );
    }
    let affinities = pods["items"].to_string();
    for node in lab.nodes() {
        assert!(affinities.contains(node.name()), "{}", node.name());
    }
    // A setting that changes rolls the pods: the ConfigMap's name goes by its content.
    let source = &container(cluster)["envFrom"][0]["configMapRef"]["name"];
    let name = source.as_str().expect("has one");
    assert!(name.starts_with("kube-proxy-ebpf-"), "{name}");
    let config = json(cluster, &["get", "configmap", name]);
    assert_eq!(config["data"]["PROXY_SOURCE"], "kube");
}

#[test]
fn the_service_account_and_the_capabilities_are_enough_and_no_more() {
    if proxy_lab::control_plane::skipped() {
        return;
    }
    let lab = lab();
    let cluster = lab
        .start_control_plane(&ControlPlaneOptions::default().without_controllers())
        .expect("starts");
    install(cluster);
    for pod in lab.pods() {
        pod.serve(8080).expect("serves");
    }
    let web = Service::new("web")
        .cluster_ips(address::cluster_ip(1000))
        .port("http", Protocol::Tcp, 80)
        .node_port(30080);
    for family in Family::ALL {
        let slice = web.slice_of(family, 8080, &lab.pods()[1..]);
        cluster.api().put(slice).expect("is written");
    }
    cluster.api().put(web).expect("is written");

    // The token of the ServiceAccount opens what the agent needs, and nothing else.
    let account = Identity::ServiceAccount {
        namespace: NAMESPACE.to_owned(),
        name: NAME.to_owned(),
    };
    let kubeconfig = cluster.kubeconfig(&account).expect("is written");
    let kubeconfig_text = kubeconfig.display().to_string();
    for forbidden in ["secrets", "configmaps", "pods", "namespaces"] {
        let words = ["--kubeconfig", &kubeconfig_text, "get", forbidden, "-A"];
        let error = cluster.kubectl(words).expect_err(forbidden).chain();
        assert!(error.contains("Forbidden"), "{forbidden}: {error}");
    }
    let words = ["--kubeconfig", &kubeconfig_text, "delete", "service", "web"];
    let error = cluster.kubectl(words).expect_err("may not").chain();
    assert!(error.contains("Forbidden"), "{error}");

    // Those that this machine's root has not can't be given; it needs none of them here.
    let own = own_capabilities();
    let listed = container(cluster)["securityContext"]["capabilities"]["add"].clone();
    let listed: Vec<String> = serde_json::from_value(listed).expect("are names");
    let given: Vec<_> = listed
        .into_iter()
        .filter(|name| own.contains(name))
        .collect();
    eprintln!("capabilities: {}", given.join(", "));
    let options = AgentOptions::source("kube")
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .binary(confined(&lab, &given));
    let node = lab.node("worker-1");
    let agent = node.spawn_agent(&options).expect("becomes ready");
    let vip = (address::cluster_ip(1000).v4, 80).into();
    let exchanges = lab.pod("a1").tcp_all(TcpRequest::to(vip).times(20));
    let exchanges = exchanges.expect("asks");
    assert!(exchanges.iter().all(|exchange| exchange.outcome.is_ok()));
    let port = node.at(Family::V4, 30080);
    let exchange = lab.workstation().tcp(port).expect("asks");
    assert!(exchange.outcome.is_ok(), "{exchange:?}");
    let log = fs::read_to_string(agent.log()).expect("is there");
    let complaints: Vec<_> = log
        .lines()
        .filter(|line| line.contains(" WARN ") || line.contains("ERROR"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    agent.terminate().expect("ends");

    // With the two features off that enter other namespaces, three are enough, and each is needed.
    let least = ["BPF", "PERFMON", "NET_ADMIN"].map(str::to_owned);
    assert!(least.iter().all(|name| given.contains(name)));
    let options = options
        .arg("--abort-udp-sockets=false")
        .arg("--manage-forward=off");
    let node = lab.node("worker-2");
    let agent = node.spawn_agent(&options.clone().binary(confined(&lab, &least)));
    agent.expect("becomes ready").terminate().expect("ends");
    for missing in &least {
        let two: Vec<_> = least
            .iter()
            .filter(|name| *name != missing)
            .cloned()
            .collect();
        let agent = lab
            .control_plane()
            .spawn_agent(&options.clone().binary(confined(&lab, &two)));
        assert!(agent.is_err(), "{missing} is not needed");
    }
}
