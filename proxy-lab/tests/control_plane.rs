//! The real control plane, in the lab.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proxy_lab::sweep::Leftovers;
use proxy_lab::{Component, ControlPlaneOptions, Identity, Lab};
use serde_json::json;

#[test]
fn comes_up_restarts_and_goes_without_a_trace() {
    if proxy_lab::control_plane::skipped() {
        return;
    }
    let lab = Lab::builder("cp")
        .node("worker-1")
        .node("worker-2")
        .up()
        .expect("comes up");
    let start = Instant::now();
    let options = ControlPlaneOptions::default().zone("worker-1", "zone-a");
    let cluster = lab.start_control_plane(&options).expect("starts");
    eprintln!("control plane up in {:?}", start.elapsed());

    let nodes = cluster
        .kubectl(["get", "nodes", "-o", "wide"])
        .expect("answers");
    eprintln!("{nodes}");
    assert_eq!(nodes.matches(" Ready ").count(), 3, "{nodes}");
    let zones = cluster.kubectl([
        "get",
        "nodes",
        "-l",
        "topology.kubernetes.io/zone=zone-a",
        "-o",
        "name",
    ]);
    assert_eq!(zones.expect("answers").trim(), "node/worker-1");

    // What identities may do.
    let proxy = cluster
        .kubeconfig(&Identity::KubeProxy)
        .expect("is written");
    let proxy = proxy.to_str().expect("is UTF-8");
    let may = |verb: &str, kind: &str| {
        let answer = cluster.kubectl(["--kubeconfig", proxy, "auth", "can-i", verb, kind]);
        answer.is_ok_and(|text| text.trim() == "yes")
    };
    assert!(may("watch", "endpointslices.discovery.k8s.io") && may("watch", "services"));
    assert!(!may("list", "secrets") && !may("delete", "services"));

    // A server that does not answer is an error, not a wait without end.
    cluster
        .freeze_component(Component::ApiServer)
        .expect("runs");
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
    let error = cluster
        .api()
        .get(object)
        .expect_err("nobody answers")
        .chain();
    assert!(error.contains("no answer in 15 s"), "{error}");
    cluster.thaw_component(Component::ApiServer).expect("runs");

    // An object outlives every program's crash.
    cluster
        .kubectl(["create", "configmap", "kept", "--from-literal=a=b"])
        .expect("is created");
    let before = cluster.compact().expect("can be compacted");
    for component in Component::ALL {
        cluster.kill_component(component).expect("runs");
    }
    assert!(
        cluster
            .kubectl(["get", "configmap", "kept", "--request-timeout=2s"])
            .is_err()
    );
    let start = Instant::now();
    for component in Component::ALL {
        cluster.start_component(component).expect("starts");
    }
    eprintln!("up again in {:?}", start.elapsed());
    cluster
        .kubectl(["get", "configmap", "kept"])
        .expect("is still there");
    assert!(cluster.compact().expect("can be compacted") >= before);
    for component in Component::ALL {
        let memory = cluster.memory(component).expect("runs").resident;
        eprintln!("{}: {} MB", component.program(), memory / 1_000_000);
    }

    let prefix = lab.prefix().to_owned();
    let start = Instant::now();
    drop(lab);
    eprintln!("down in {:?}", start.elapsed());
    let left = Leftovers::of(&prefix);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn objects_are_written_in_bulk() {
    if proxy_lab::control_plane::skipped() {
        return;
    }
    let lab = Lab::builder("bulk")
        .node("worker-1")
        .up()
        .expect("comes up");
    let options = ControlPlaneOptions::default().without_controllers();
    let cluster = lab.start_control_plane(&options).expect("starts");
    let services = (0..500).map(|number| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("s{number}"), "namespace": "default"},
            "spec": {"ports": [{"port": 80}]},
        })
    });
    let start = Instant::now();
    cluster.api().create_all(services).expect("are created");
    let took = start.elapsed();
    eprintln!("500 Services in {took:?}");
    let listed = cluster
        .kubectl(["get", "services", "-o", "name"])
        .expect("are listed");
    assert_eq!(listed.lines().count(), 501, "with that of the API server");
    assert!(took < Duration::from_mins(1));
}

/// Environment variable of the process that is to be killed.
const CHILD: &str = "PROXY_LAB_TEST_CHILD";

#[test]
fn what_a_killed_owner_left_is_swept() {
    if proxy_lab::control_plane::skipped() {
        return;
    }
    let program = std::env::current_exe().expect("is a file");
    let mut child = Command::new(program)
        .args(["--exact", "the_owner_in_another_process", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    let mut lines = lines.map_while(Result::ok);
    let prefix = lines.find_map(|line| line.strip_prefix("prefix ").map(str::to_owned));
    let prefix = prefix.expect("says its prefix");
    child.kill().expect("is running");
    child.wait().expect("is ours");
    let left = Leftovers::of(&prefix);
    assert!(
        left.processes.len() >= 3,
        "the control plane lives on: {left:?}"
    );
    // (A start of another test may have been faster than this one.)
    drop(Lab::builder("next").up().expect("comes up"));
    let left = Leftovers::of(&prefix);
    assert!(left.is_empty(), "{left:?}");
}

/// Not a test by itself: the body of the child process.
#[test]
fn the_owner_in_another_process() {
    if std::env::var(CHILD).is_err() {
        return;
    }
    let lab = Lab::builder("orphan")
        .node("worker-1")
        .up()
        .expect("comes up");
    lab.start_control_plane(&ControlPlaneOptions::default())
        .expect("starts");
    println!("\nprefix {}", lab.prefix());
    std::thread::sleep(Duration::from_mins(1));
}
