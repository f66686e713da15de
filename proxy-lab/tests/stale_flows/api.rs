//! The same with a real API server and its EndpointSlice controller: a pod is deleted by kubectl.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use proxy_lab::{
    AgentOptions, ControlPlane, ControlPlaneOptions, Identity, Lab, PodSpec, Result, clock,
    control_plane, eventually, spawn_agents,
};

use crate::streams::{Conversation, NODE_PORT, PORT, SOON};

/// What a control plane on a busy machine may take.
const PATIENCE: Duration = Duration::from_mins(1);
const ROUNDS: usize = 4;
const MOST_ROUNDS: usize = 12;

const ECHO: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec: {containers: [{name: echo, image: none, ports: [{containerPort: 8080, protocol: UDP}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  type: NodePort
  selector: {app: echo}
  ports: [{port: 80, targetPort: 8080, protocol: UDP, nodePort: 30400}]
";

#[test]
fn l3_conversations_move_when_their_pod_is_deleted() -> Result<()> {
    if control_plane::skipped() {
        return Ok(());
    }
    let lab = Lab::builder("staleapi")
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["sockets"])
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .up()?;
    let cluster = lab.start_control_plane(&ControlPlaneOptions::default())?;
    cluster.apply(ECHO)?;
    let _agents = spawn_agents(
        &lab,
        &AgentOptions::kube(&cluster.kubeconfig(&Identity::KubeProxy)?),
    )?;
    let ip = cluster.kubectl(["get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}"])?;
    let vip = (ip.parse::<std::net::IpAddr>().expect("an address"), PORT).into();
    let node_port = lab.node("worker-1").at(proxy_lab::Family::V4, NODE_PORT);
    ready(cluster)?;
    let all = [
        Conversation::begin(lab.pod("sockets"), vip, true, true)?,
        Conversation::begin(lab.pod("packets"), vip, true, false)?,
        Conversation::begin(lab.node("worker-1"), vip, false, true)?,
        Conversation::begin(lab.workstation(), node_port, false, false)?,
    ];
    let mut times: [Vec<Duration>; 4] = Default::default();
    let mut rounds = 0;
    let in_time = |times: &Vec<Duration>| times.iter().any(|time| *time <= SOON);
    while rounds < ROUNDS || rounds < MOST_ROUNDS && !times.iter().all(in_time) {
        ready(cluster)?;
        let servers = servers(&all)?;
        // Move the conversation that has moved least often.
        let least = (0..all.len()).min_by_key(|one| times[*one].len());
        let pod = &servers[least.unwrap_or(0)];
        let (begin, event) = delete(cluster, pod)?;
        for (one, time) in all
            .iter()
            .zip(&mut times)
            .zip(&servers)
            .filter_map(|(pair, server)| (server == pod).then_some(pair))
        {
            let mut moved = None;
            eventually(&one.what, PATIENCE, || {
                let turns = one.report()?.turns;
                let other = turns.iter().find(|turn| {
                    turn.at >= begin && turn.what.as_ref().is_ok_and(|server| server != pod)
                });
                moved = other.map(|turn| turn.at);
                Ok(moved.is_some())
            })?;
            // The agent may have heard before we did.
            time.extend(moved.map(|moved| moved.saturating_sub(event)));
        }
        rounds += 1;
    }
    println!(
        "\nA pod is deleted by kubectl: {rounds} rounds; from the event of its EndpointSlice\n"
    );
    for (one, times) in all.iter().zip(&times) {
        println!("| {} | {times:.1?} |", one.what);
    }
    for (one, times) in all.iter().zip(&times) {
        assert!(
            in_time(times),
            "{}: never within {SOON:?}: {times:?}",
            one.what
        );
    }
    Ok(())
}

/// Who answers each conversation, once all are answered by pods that live.
fn servers(all: &[Conversation<'_>]) -> Result<Vec<String>> {
    let mut servers = Vec::new();
    eventually("all conversations are answered", PATIENCE, || {
        servers = all
            .iter()
            .map(|one| Ok(one.server()?.unwrap_or_default()))
            .collect::<Result<_>>()?;
        Ok(!servers.iter().any(String::is_empty))
    })?;
    Ok(servers)
}

/// Waits until the Service has its two endpoints.
fn ready(cluster: &ControlPlane) -> Result<()> {
    eventually("both pods are endpoints", PATIENCE, || {
        let path = "jsonpath={..endpoints[?(@.conditions.ready==true)].addresses}";
        let found = cluster.kubectl([
            "get",
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=echo",
            "-o",
            path,
        ])?;
        Ok(found.matches('[').count() == 2)
    })
    .map(drop)
}

/// Deletes a pod, whose processes end at once. Returns when the deletion was requested, and when the watch
/// reported the endpoint's removal.
fn delete(cluster: &ControlPlane, pod: &str) -> Result<(Duration, Duration)> {
    let (listed, is_listed) = channel();
    let name = pod.to_owned();
    thread::scope(|scope| {
        let gone = scope.spawn(|| cluster.api().run(|client| gone(client, name, listed)));
        // Nothing comes of a watch that failed; then its end says so.
        let _ = is_listed.recv_timeout(PATIENCE);
        let begin = clock::now();
        cluster.kubectl([
            "delete",
            "pod",
            pod,
            "--force",
            "--grace-period=0",
            "--wait=false",
        ])?;
        let gone = gone
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((begin, gone.expect("the watch goes on until then")))
    })
}

/// When no EndpointSlice names a pod any more.
async fn gone(client: Client, pod: String, listed: Sender<()>) -> Option<Duration> {
    let slices: Api<EndpointSlice> = Api::default_namespaced(client);
    let mut events = pin!(watcher(slices, Config::default()));
    let mut naming = BTreeSet::new();
    while let Some(event) = events.next().await {
        let now = clock::now();
        match event {
            Ok(Event::InitApply(slice) | Event::Apply(slice)) => {
                let mut endpoints = slice.endpoints.iter().flatten();
                let names_it = endpoints.any(|endpoint| {
                    let named = endpoint
                        .target_ref
                        .as_ref()
                        .and_then(|of| of.name.as_deref());
                    named == Some(&*pod)
                });
                let slice = slice.metadata.name.unwrap_or_default();
                if names_it {
                    naming.insert(slice);
                } else if naming.remove(&slice) && naming.is_empty() {
                    return Some(now);
                }
            }
            // Who waits for it may have given up.
            Ok(Event::InitDone) => _ = listed.send(()),
            Ok(Event::Init | Event::Delete(_)) | Err(_) => {}
        }
    }
    None
}
