//! An agent that follows a real API server, which changes, dies, forgets, is slow, or is not there yet.

use std::collections::BTreeSet;
use std::time::Duration;

use proxy_lab::objects::Service;
use proxy_lab::{
    AgentOptions, Component, ControlPlane, ControlPlaneOptions, Family, Identity, Lab,
    ProbeRequest, Protocol, Result, TcpRequest, address, eventually,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
/// Until a change is in use, on a busy machine.
const SOON: Duration = Duration::from_secs(40);

/// Two nodes; a client on the first, servers on the second.
fn lab(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["client"])
        .pods("worker-2", ["b1", "b2"])
        .up()?;
    for name in ["b1", "b2"] {
        lab.pod(name).serve(TARGET_PORT)?;
    }
    Ok(lab)
}

fn control_plane(lab: &Lab) -> Result<&ControlPlane> {
    lab.start_control_plane(&ControlPlaneOptions::default().without_controllers())
}

fn agent(cluster: &ControlPlane) -> Result<AgentOptions> {
    let kubeconfig = cluster.kubeconfig(&Identity::KubeProxy)?;
    Ok(AgentOptions::source("kube")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .arg("--log-level")
        .arg("info,proxy_agent::source=debug")
        .ready_within(Duration::from_mins(1)))
}

/// The first one is the API server's own.
fn vip(number: u16) -> address::Pair {
    address::cluster_ip(100 + number)
}

fn service(number: u16) -> Service {
    Service::new(&format!("web-{number}"))
        .cluster_ips(vip(number))
        .both(PORT)
}

/// Creates or changes a Service with this pod as its endpoint.
fn put(lab: &Lab, cluster: &ControlPlane, number: u16, pod: &str) -> Result<()> {
    cluster.api().put(service(number))?;
    let pod = lab.pod(pod);
    for family in Family::ALL {
        let slice = service(number).slice_of(family, TARGET_PORT, [pod]);
        cluster.api().put(slice)?;
    }
    Ok(())
}

fn delete(cluster: &ControlPlane, number: u16) -> Result<()> {
    for family in Family::ALL {
        let slice = service(number).slice(family, TARGET_PORT);
        cluster.api().delete(slice)?;
    }
    cluster.api().delete(service(number))
}

/// The servers that answer at a Service's `ClusterIP`s; empty if connections fail.
fn servers(lab: &Lab, number: u16) -> Result<BTreeSet<String>> {
    let mut servers = BTreeSet::new();
    for family in Family::ALL {
        let to = (vip(number).of(family), PORT).into();
        let request = TcpRequest::to(to).times(2).timeout(Duration::from_secs(1));
        for exchange in lab.pod("client").tcp_all(request)? {
            servers.extend(exchange.server().map(str::to_owned));
        }
    }
    Ok(servers)
}

fn until_served_by(lab: &Lab, number: u16, pods: &[&str]) -> Result<Duration> {
    let wanted: BTreeSet<String> = pods.iter().map(|&name| name.to_owned()).collect();
    eventually(&format!("Service {number} at {pods:?}"), SOON, || {
        Ok(servers(lab, number)? == wanted)
    })
}

/// How often the log of the last agent on worker-1 contains `words`.
fn said(lab: &Lab, words: &str) -> usize {
    let log = lab.node("worker-1").agent_logs().pop();
    let text = std::fs::read_to_string(log.expect("an agent was started"));
    text.expect("can be read").matches(words).count()
}

/// The same for the lines of a kind.
fn said_of(lab: &Lab, kind: &str, words: &str) -> usize {
    let log = lab.node("worker-1").agent_logs().pop();
    let text = std::fs::read_to_string(log.expect("an agent was started")).expect("can be read");
    let kind = format!("kind=\"{kind}\"");
    let is_of_kind = |line: &&str| line.contains(&kind) && line.contains(words);
    text.lines().filter(is_of_kind).count()
}

/// Whether the agent is connected to the API server or kept from it: what it sends there is answered by a reset.
fn connect(lab: &Lab, cluster: &ControlPlane, connected: bool) -> Result<()> {
    let port = cluster.address().port();
    lab.node("worker-1").nft(&if connected {
        "delete table inet cut".to_owned()
    } else {
        format!(
            "add table inet cut\n\
             add chain inet cut output {{ type filter hook output priority 0; }}\n\
             add rule inet cut output tcp dport {port} reject with tcp reset\n"
        )
    })
}

#[test]
fn changes_arrive_also_after_the_api_server_died_or_hung() -> Result<()> {
    if proxy_lab::control_plane::skipped() {
        return Ok(());
    }
    let lab = lab("apiout")?;
    let cluster = control_plane(&lab)?;
    put(&lab, cluster, 1, "b1")?;
    let agent = lab.node("worker-1").spawn_agent(&agent(cluster)?)?;
    until_served_by(&lab, 1, &["b1"])?;

    // Created, changed, deleted.
    put(&lab, cluster, 2, "b1")?;
    let created = until_served_by(&lab, 2, &["b1"])?;
    put(&lab, cluster, 1, "b2")?;
    let changed = until_served_by(&lab, 1, &["b2"])?;
    delete(cluster, 1)?;
    until_served_by(&lab, 1, &[])?;
    eprintln!("in use after: created {created:?}, changed {changed:?}");

    // The API server dies.
    let probe = lab.pod("client").probe(ProbeRequest {
        protocol: Protocol::Tcp,
        to: (vip(2).v4, PORT).into(),
        interval: Duration::from_millis(10),
        timeout: Duration::from_secs(3),
    })?;
    cluster.kill_component(Component::ApiServer)?;
    std::thread::sleep(Duration::from_secs(4));
    cluster.start_component(Component::ApiServer)?;
    put(&lab, cluster, 2, "b2")?;
    delete(cluster, 2)?;
    put(&lab, cluster, 2, "b2")?;
    put(&lab, cluster, 3, "b1")?;
    let known = until_served_by(&lab, 3, &["b1"])?;
    until_served_by(&lab, 2, &["b2"])?;
    assert_eq!(said(&lab, "answers again"), 1);
    let told = said(&lab, "can't be followed; what");
    assert!((1..=4).contains(&told), "told {told} times");
    eprintln!("changes of the time after the restart in use {known:?} after they were made");

    // It hangs.
    cluster.freeze_component(Component::ApiServer)?;
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(servers(&lab, 2)?, BTreeSet::from(["b2".to_owned()]));
    cluster.thaw_component(Component::ApiServer)?;
    put(&lab, cluster, 3, "b2")?;
    until_served_by(&lab, 3, &["b2"])?;
    let report = probe.stop()?;
    // The Service was deleted and created again once, and had no endpoints in between.
    eprintln!(
        "{} connections all the while, {} failed, slowest {:?}",
        report.attempts,
        report.failed(),
        report.slowest
    );
    agent.terminate()?;
    Ok(())
}

#[test]
fn what_happened_behind_a_compaction_is_found_out() -> Result<()> {
    if proxy_lab::control_plane::skipped() {
        return Ok(());
    }
    let lab = lab("apicomp")?;
    let options = ControlPlaneOptions::default()
        .without_controllers()
        .without_watch_cache();
    let cluster = lab.start_control_plane(&options)?;
    for number in 1..=3 {
        put(&lab, cluster, number, "b1")?;
    }
    let agent = lab.node("worker-1").spawn_agent(&agent(cluster)?)?;
    until_served_by(&lab, 3, &["b1"])?;

    // Something to answer to: what the agent then sends ends its connections.
    connect(&lab, cluster, false)?;
    put(&lab, cluster, 5, "b1")?;
    // Each kind is told once, when its watch can't be opened again.
    let told = |words| ["Service", "EndpointSlice"].map(|kind| said_of(&lab, kind, words));
    eventually("both watches are cut", SOON, || {
        Ok(told("can't be followed; what") == [1, 1])
    })?;
    delete(cluster, 1)?;
    put(&lab, cluster, 2, "b2")?;
    put(&lab, cluster, 4, "b2")?;
    cluster.compact()?;
    assert_eq!(servers(&lab, 1)?, BTreeSet::from(["b1".to_owned()]));
    let probe = lab.pod("client").probe(ProbeRequest {
        protocol: Protocol::Tcp,
        to: (vip(3).v4, PORT).into(),
        interval: Duration::from_millis(5),
        timeout: Duration::from_secs(3),
    })?;
    assert_eq!(told(" listed "), [1, 1]);
    connect(&lab, cluster, true)?;
    until_served_by(&lab, 4, &["b2"])?;
    until_served_by(&lab, 2, &["b2"])?;
    until_served_by(&lab, 1, &[])?;
    assert_eq!(told(" listed "), [2, 2]);
    assert_eq!(told("can't be followed; what"), [1, 1]);
    assert_eq!(told(" again kind="), [1, 1], "that it is over");
    let report = probe.stop()?;
    assert_eq!(report.failed(), 0, "{:?}", report.failures);
    agent.terminate()?;
    Ok(())
}

#[test]
fn an_agent_may_be_there_before_the_api_server() -> Result<()> {
    if proxy_lab::control_plane::skipped() {
        return Ok(());
    }
    let lab = lab("apilate")?;
    let cluster = control_plane(&lab)?;
    put(&lab, cluster, 1, "b1")?;
    let options = agent(cluster)?;
    let node = lab.node("worker-1");

    for pinned in [false, true] {
        cluster.kill_component(Component::ApiServer)?;
        let started = std::thread::scope(|scope| {
            let starting = scope.spawn(|| node.spawn_agent(&options));
            eventually("the agent waits", SOON, || {
                Ok(node.agent_logs().len() == 1 + usize::from(pinned)
                    && said(&lab, "can't be followed; what") > 0)
            })?;
            // What an earlier agent left serves on; without one there is nothing.
            let left: &[&str] = if pinned { &["b1"] } else { &[] };
            until_served_by(&lab, 1, left)?;
            assert!(!starting.is_finished(), "ready without the API server");
            cluster.start_component(Component::ApiServer)?;
            put(&lab, cluster, 1, if pinned { "b2" } else { "b1" })?;
            starting.join().expect("does not panic")
        })?;
        until_served_by(&lab, 1, if pinned { &["b2"] } else { &["b1"] })?;
        started.terminate()?;
    }
    Ok(())
}

#[test]
fn owners_of_wrong_objects_are_told() -> Result<()> {
    if proxy_lab::control_plane::skipped() {
        return Ok(());
    }
    let lab = lab("apievt")?;
    let cluster = control_plane(&lab)?;
    for number in [1, 2] {
        let external = service(number).external_ip(address::external_ip(1).v4);
        cluster.api().put(external)?;
        // The younger one loses, by the second.
        std::thread::sleep(Duration::from_millis(1100));
    }
    let options = agent(cluster)?;
    let agents = proxy_lab::spawn_agents(&lab, &options)?;
    let told = || {
        let events = cluster.kubectl([
            "get",
            "events.v1.events.k8s.io",
            "-o",
            "jsonpath={range .items[*]}{.reportingController}/{.regarding.name}: {.note}{\"\\n\"}{end}",
        ])?;
        // The API server itself also reports Services, whose addresses it has not allocated.
        let ours = events
            .lines()
            .filter_map(|line| line.strip_prefix("kube-proxy-ebpf/"));
        Ok(ours.map(str::to_owned).collect::<Vec<_>>())
    };
    // One for each protocol of the port, which come up to 5 s after each other.
    let all = |told: &[String]| {
        let of_loser = |line: &String| line.starts_with("web-2: external IP");
        told.len() == 2 && told.iter().all(of_loser)
    };
    let found = eventually("Events", SOON, || Ok(all(&told()?)));
    assert!(found.is_ok(), "{found:?}: {:?}", told()?);
    // By then both agents have found the problem and reported it once.
    std::thread::sleep(Duration::from_secs(6));
    let told = told()?;
    assert!(all(&told), "{told:?}");
    let described = cluster.kubectl(["describe", "service", "web-2"])?;
    assert!(described.contains("LeftOut"), "{described}");
    for agent in agents {
        agent.terminate()?;
    }
    Ok(())
}
