//! Health, health checks and metrics as probes, load balancers and scrapers meet them (semantics H1–H3, B5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use proxy_lab::objects::{Endpoint, NodeObject, Service, Slice};
use proxy_lab::{
    Agent, AgentOptions, Family, Folder, Host, HttpAnswer, Lab, Protocol, Result, TcpRequest,
    address, agent_binary, eventually, skipped,
};

const TARGET_PORT: u16 = 8080;
const HEALTHZ: u16 = 10_256;
const METRICS: u16 = 10_249;
const CHECK: u16 = 32_100;
/// Time from a change of files or sockets to the report of it. The agent retries an occupied port after
/// five seconds.
const FOLLOWED: Duration = Duration::from_secs(15);

/// worker-1 has the agent; there are two pods on it and one elsewhere.
fn lab(
    label: &str,
    options: impl FnOnce(AgentOptions) -> AgentOptions,
) -> Result<(Lab, Folder, Agent)> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["here", "also-here"])
        .pods("worker-2", ["there"])
        .up()?;
    for pod in lab.pods() {
        pod.serve(TARGET_PORT)?;
    }
    let source = lab.source()?;
    source.put(NodeObject::of(lab.node("worker-1")))?;
    let web = web();
    source.put(slice(&lab, &web, []))?;
    source.put(web)?;
    let agent = lab
        .node("worker-1")
        .spawn_agent(&options(AgentOptions::files(source.path())))?;
    Ok((lab, source, agent))
}

fn web() -> Service {
    Service::new("web")
        .cluster_ip(address::cluster_ip(1).v4)
        .port("http", Protocol::Tcp, 80)
        .load_balancer(address::load_balancer(1).v4)
        .external_local()
        .health_check(CHECK)
}

/// A slice with a ready endpoint elsewhere, and these.
fn slice(lab: &Lab, of: &Service, here: impl IntoIterator<Item = Endpoint>) -> Slice {
    of.slice_of(Family::V4, TARGET_PORT, [lab.pod("there")])
        .endpoints(here)
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn ask(client: &Host, to: SocketAddr, path: &str) -> Result<HttpAnswer> {
    let answer = client.http(to, path)?;
    Ok(answer.unwrap_or_else(|error| panic!("{} to {to}{path}: {error}", client.name())))
}

/// What a load balancer outside hears.
fn check(lab: &Lab) -> Result<Option<HttpAnswer>> {
    let to = lab.node("worker-1").at(Family::V4, CHECK);
    Ok(lab.workstation().http(to, "/healthz")?.ok())
}

fn weight(answer: &HttpAnswer) -> Option<&str> {
    let weight = answer.headers.get("x-load-balancing-endpoint-weight");
    weight.map(String::as_str)
}

/// Waits until a load balancer hears this status and number of endpoints, and both are told in all ways.
fn assert_checked(lab: &Lab, what: &str, status: u16, endpoints: u64) -> Result<()> {
    eventually(what, FOLLOWED, || {
        let answer = check(lab)?;
        Ok(answer.is_some_and(|answer| {
            answer.status == status
                && answer.json()["localEndpoints"] == endpoints
                && weight(&answer) == Some(&endpoints.to_string())
        }))
    })
    .map(drop)
}

#[test]
fn h1_a_load_balancer_outside_hears_of_ready_endpoints_here_only() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, source, _agent) = lab("hcheck", |options| options)?;
    let web = web();
    let pod = |name: &str| Endpoint::of(lab.pod(name), Family::V4);
    let set = |endpoints: Vec<Endpoint>| source.put(slice(&lab, &web, endpoints));

    assert_checked(&lab, "none here", 503, 0)?;
    set(vec![pod("here"), pod("also-here")])?;
    assert_checked(&lab, "two are ready", 200, 2)?;
    let answer = check(&lab)?.expect("it is served");
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    let service = serde_json::json!({"namespace": "default", "name": "web"});
    assert_eq!(answer.json()["service"], service);
    assert_eq!(answer.json()["serviceProxyHealthy"], true);
    // The report is correct: the load balancer's traffic reaches a pod.
    let vip = (address::load_balancer(1).v4, 80).into();
    let exchange = lab.workstation().tcp(vip)?;
    assert!(
        matches!(exchange.server(), Some("here" | "also-here")),
        "{exchange:?}"
    );

    set(vec![pod("here"), pod("also-here").terminating(true)])?;
    assert_checked(&lab, "one is ready", 200, 1)?;
    set(vec![
        pod("here").not_ready(),
        pod("also-here").terminating(true),
    ])?;
    assert_checked(&lab, "one is terminating, which does not count", 503, 0)?;
    let exchange = lab.workstation().tcp(vip)?;
    assert_eq!(
        exchange.server(),
        Some("also-here"),
        "it serves all the same"
    );

    // IPv6 has no answer for a Service without it.
    let v6 = lab.node("worker-1").at(Family::V6, CHECK);
    assert!(lab.workstation().http(v6, "/")?.is_err());
    // The health check port is closed with `externalTrafficPolicy: Local`, and opens again.
    source.put(web.clone().spec("externalTrafficPolicy", "Cluster"))?;
    eventually(
        "the port is closed",
        FOLLOWED,
        || Ok(check(&lab)?.is_none()),
    )?;
    set(vec![pod("here")])?;
    source.put(web.clone())?;
    assert_checked(&lab, "the port is open again", 200, 1)?;
    source.remove(web)?;
    eventually("the port is closed for good", FOLLOWED, || {
        Ok(check(&lab)?.is_none())
    })?;
    Ok(())
}

#[test]
fn h1_a_port_is_one_services_and_another_process_may_have_it_first() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, source, agent) = lab("hports", |options| {
        options
            .arg("--nodeport-addresses")
            .arg(format!("{},fd00:30::/64", "172.30.0.0/24"))
    })?;
    let node = lab.node("worker-1");
    let pod = Endpoint::of(lab.pod("here"), Family::V4);
    source.put(slice(&lab, &web(), [pod.clone()]))?;
    assert_checked(&lab, "the older Service has the port", 200, 1)?;
    // Where node ports do not answer, there is no health check either.
    assert!(node.http(loopback(CHECK), "/")?.is_err());

    let rival = Service::new("a-rival")
        .cluster_ip(address::cluster_ip(2).v4)
        .port("http", Protocol::Tcp, 80)
        .load_balancer(address::load_balancer(2).v4)
        .external_local()
        .health_check(CHECK);
    source.put(web().created("2020-01-01T00:00:00Z"))?;
    source.put(rival.clone().created("2021-01-01T00:00:00Z"))?;
    let told = |what: &str| {
        let log = std::fs::read_to_string(agent.log()).expect("the agent's log");
        log.contains(what)
    };
    eventually("the rival is told", FOLLOWED, || {
        Ok(told(
            "health check node port 32100 belongs to Service default/web",
        ))
    })?;
    assert_checked(&lab, "the older Service keeps the port", 200, 1)?;
    source.remove(web())?;
    eventually("the rival takes over", FOLLOWED, || {
        let answer = check(&lab)?;
        Ok(answer.is_some_and(|answer| answer.json()["service"]["name"] == "a-rival"))
    })?;
    source.remove(rival)?;
    eventually(
        "the port is closed",
        FOLLOWED,
        || Ok(check(&lab)?.is_none()),
    )?;

    // A process of the node has the port, for a while.
    let squatter = node.server(Protocol::Tcp, Family::V4, CHECK)?;
    source.put(web())?;
    eventually("the failure is told", FOLLOWED, || {
        Ok(told("can't listen on 172.30.0.11:32100 of this node"))
    })?;
    let metrics = ask(node, loopback(METRICS), "/metrics")?;
    let failed = metrics.sample("proxy_health_check_ports{state=\"failed\"}");
    assert_eq!(failed, Some(1.0));
    squatter.stop()?;
    assert_checked(&lab, "the port is taken when it is free", 200, 1)
}

#[test]
fn h2_healthz_fails_while_the_node_is_being_deleted_and_livez_does_not() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, source, _agent) = lab("hnode", |options| options)?;
    let node = lab.node("worker-1");
    let v4 = node.at(Family::V4, HEALTHZ);
    let from_outside = |path| ask(lab.workstation(), v4, path);
    let health = from_outside("/healthz")?;
    assert_eq!(health.status, 200);
    assert_eq!(health.json()["nodeEligible"], true);
    assert_eq!(health.json()["status"]["IPv6"]["healthy"], true);
    assert_eq!(from_outside("/livez")?.status, 200);
    let v6 = node.at(Family::V6, HEALTHZ);
    assert_eq!(ask(lab.workstation(), v6, "/healthz")?.status, 200);

    let object = || NodeObject::of(node);
    source.put(object().taint("ToBeDeletedByClusterAutoscaler"))?;
    eventually("the node is leaving", FOLLOWED, || {
        Ok(from_outside("/healthz")?.status == 503)
    })?;
    assert_eq!(from_outside("/healthz")?.json()["nodeEligible"], false);
    assert_eq!(from_outside("/livez")?.status, 200);
    source.put(object().taint("another"))?;
    eventually("the node stays after all", FOLLOWED, || {
        Ok(from_outside("/healthz")?.status == 200)
    })?;

    // What is for administrators is on the loopback only.
    let metrics = |path| ask(node, loopback(METRICS), path);
    assert_eq!(metrics("/proxyMode")?.body, "ebpf");
    let codes = metrics("/metrics")?;
    assert_eq!(
        codes.sample("kubeproxy_proxy_livez_total{code=\"503\"}"),
        Some(0.0)
    );
    assert!(codes.sample("kubeproxy_proxy_healthz_total{code=\"503\"}") >= Some(1.0));
    let outside = node.at(Family::V4, METRICS);
    assert!(lab.workstation().http(outside, "/metrics")?.is_err());
    Ok(())
}

#[test]
fn h3_metrics_say_what_was_programmed_and_what_was_dropped() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, source, _agent) = lab("hmetrics", |options| {
        options.arg("--healthz-bind-address").arg("off")
    })?;
    let node = lab.node("worker-1");
    let v6: IpAddr = Ipv6Addr::LOCALHOST.into();
    for nowhere in [loopback(HEALTHZ), (v6, HEALTHZ).into()] {
        assert!(node.http(nowhere, "/healthz")?.is_err(), "it is off");
    }
    let metrics = || ask(node, loopback(METRICS), "/metrics");
    let before = metrics()?;
    assert_eq!(before.sample("proxy_source_synced"), Some(1.0));
    assert_eq!(before.sample("proxy_services"), Some(1.0));
    assert_eq!(before.sample("proxy_services_pending"), Some(0.0));
    let full = "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}";
    assert_eq!(before.sample(full), Some(1.0));
    // There are endpoints, but none here.
    let nowhere = "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"}";
    assert_eq!(before.sample(nowhere), Some(1.0));
    let drops = "proxy_drops_total{reason=\"no_local_endpoint\"}";
    assert_eq!(before.sample(drops), Some(0.0));
    let vip: SocketAddr = (address::load_balancer(1).v4, 80).into();
    let request = || TcpRequest::to(vip).timeout(Duration::from_millis(1500));
    assert!(lab.workstation().tcp_all(request())?[0].server().is_none());
    assert!(metrics()?.sample(drops) >= Some(1.0), "each SYN is counted");

    // One comes: how long that took is measured from when the control plane saw it.
    let seen = lab
        .workstation()
        .exec(["date", "-u", "+%Y-%m-%dT%H:%M:%S.%NZ"])?;
    let here = slice(&lab, &web(), [Endpoint::of(lab.pod("here"), Family::V4)]);
    source.put(here.annotation(
        "endpoints.kubernetes.io/last-change-trigger-time",
        seen.trim(),
    ))?;
    let latency = "kubeproxy_network_programming_duration_seconds";
    eventually("the change is programmed", FOLLOWED, || {
        let count = metrics()?.sample(&format!("{latency}_count{{ip_family=\"IPv4\"}}"));
        Ok(count == Some(1.0))
    })?;
    let after = metrics()?;
    let sum = after.sample(&format!("{latency}_sum{{ip_family=\"IPv4\"}}"));
    assert!(
        sum.is_some_and(|sum| sum > 0.0 && sum < FOLLOWED.as_secs_f64()),
        "{sum:?}"
    );
    assert_eq!(after.sample(nowhere), Some(0.0));
    assert_eq!(
        after.sample("kubeproxy_sync_proxy_rules_endpoint_changes_pending"),
        Some(0.0)
    );
    let grew = |sample: &str| after.sample(sample) > before.sample(sample);
    for sample in [
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"}",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
        "proxy_map_operations_total{operation=\"flip_target\"}",
    ] {
        assert!(grew(sample), "{sample}");
    }
    assert_eq!(lab.workstation().tcp(vip)?.server(), Some("here"));
    let flows = "proxy_datapath_events_total{event=\"flow_created\"}";
    assert!(metrics()?.sample(flows) >= Some(1.0));

    // What is wrong with an object is counted.
    source.write("broken.yaml", "kind: Service\nmetadata: [\n")?;
    eventually("a problem is counted", FOLLOWED, || {
        Ok(metrics()?.sample("proxy_problems_total{kind=\"file\"}") >= Some(1.0))
    })
    .map(drop)
}

/// An agent whose API server is not there. It never becomes ready, and goes on trying.
fn spawn_without_api_server(node: &proxy_lab::Node) {
    let options = AgentOptions::source("kube")
        .arg("--api-server")
        .arg("https://127.0.0.1:1")
        .ready_within(Duration::from_secs(1));
    assert!(node.spawn_agent(&options).is_err(), "there is no list");
}

/// What `proxy-agent health` says on a node, as a probe runs it; `None` if it fails.
fn health(node: &proxy_lab::Node, question: &str) -> Option<String> {
    let agent = agent_binary().expect("is built");
    let bpffs = node.bpffs().as_os_str();
    let words = ["health", question, "--bpffs"].map(std::ffi::OsStr::new);
    let words = std::iter::once(agent.as_os_str())
        .chain(words)
        .chain([bpffs]);
    node.exec(words).ok()
}

#[test]
fn h2_without_an_api_server_a_node_is_healthy_only_if_an_earlier_run_serves_and_never_ready()
-> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _source, agent) = lab("hnever", |options| options)?;
    let (used, new) = (lab.node("worker-1"), lab.node("worker-2"));
    let state = |text: Option<String>, word: &str| {
        text.is_some_and(|text| text.contains(&format!("\"state\":\"{word}\"")))
    };
    assert!(state(health(used, "ready"), "serving"));

    spawn_without_api_server(new);
    eventually("it lives", FOLLOWED, || {
        Ok(state(health(new, "live"), "waiting"))
    })?;
    let to = new.at(Family::V4, HEALTHZ);
    let answer = ask(lab.workstation(), to, "/healthz")?;
    assert_eq!(
        (answer.status, &answer.json()["state"]),
        (503, &"waiting".into())
    );
    assert_eq!(ask(lab.workstation(), to, "/livez")?.status, 200);
    assert_eq!(ask(lab.workstation(), to, "/readyz")?.status, 503);
    assert!(health(new, "ready").is_none());

    // As kube-proxy, another has the port where the agent is replaced.
    agent.terminate()?;
    assert!(health(used, "live").is_none(), "nobody answers");
    let squatter = used.server(Protocol::Tcp, Family::V4, HEALTHZ)?;
    spawn_without_api_server(used);
    eventually("what the first one programmed is served", FOLLOWED, || {
        Ok(state(health(used, "node"), "earlier"))
    })?;
    assert!(state(health(used, "live"), "earlier"));
    assert!(health(used, "ready").is_none(), "a rollout stops here");
    squatter.stop()?;
    let to = used.at(Family::V4, HEALTHZ);
    eventually("load balancers find the node healthy", FOLLOWED, || {
        let answer = lab.workstation().http(to, "/healthz")?;
        Ok(answer.is_ok_and(|answer| answer.status == 200))
    })
    .map(drop)
}

#[test]
fn h2_a_busy_agent_answers_and_its_numbers_add_up() -> Result<()> {
    const SERVICES: u16 = 1_000;
    if skipped() {
        return Ok(());
    }
    let (lab, source, _agent) = lab("hbusy", |options| options)?;
    let node = lab.node("worker-1");
    let services = (0..SERVICES).flat_map(|number| {
        let [high, low] = number.to_be_bytes();
        let service = Service::new(&format!("s{number}"))
            .cluster_ip(IpAddr::from([10, 97, high, low]))
            .port("http", Protocol::Tcp, 80);
        let slice = service.slice_of(Family::V4, TARGET_PORT, lab.pods());
        [serde_json::Value::from(service), slice.into()]
    });
    source.put_together("many.yaml", services)?;
    let (mut longest, mut scrapes, mut services_seen) = (Duration::ZERO, 0, 0.0);
    eventually("all are programmed", Duration::from_mins(1), || {
        let start = Instant::now();
        let metrics = ask(node, loopback(METRICS), "/metrics")?;
        assert_eq!(ask(node, loopback(HEALTHZ), "/livez")?.status, 200);
        longest = longest.max(start.elapsed());
        scrapes += 1;
        let now = metrics.sample("proxy_services").expect("a sample");
        assert!(now >= services_seen, "none goes");
        services_seen = now;
        Ok(now >= f64::from(SERVICES))
    })?;
    let metrics = ask(node, loopback(METRICS), "/metrics")?;
    assert_eq!(
        metrics.sample("proxy_services"),
        Some(f64::from(SERVICES) + 1.0)
    );
    assert_eq!(metrics.sample("proxy_services_pending"), Some(0.0));
    println!(
        "{scrapes} scrapes and probes while {SERVICES} Services came: the slowest pair took {longest:?}"
    );
    Ok(())
}

#[test]
fn kube_proxys_configuration_file_stands_for_flags_that_are_not_given() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::builder("hconfig").node("worker-1").up()?;
    let source = lab.source()?;
    let node = lab.node("worker-1");
    // Not among the objects: no YAML file of theirs.
    source.write(
        "config.conf",
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\nhealthzBindAddress: 127.0.0.1:20256\nmetricsBindAddress: 127.0.0.1:20249\n",
    )?;
    let options = AgentOptions::files(source.path())
        .arg("--config")
        .arg(source.path().join("config.conf"))
        .arg("--metrics-bind-address")
        .arg("127.0.0.1:30249");
    let agent = node.spawn_agent(&options)?;
    assert_eq!(ask(node, loopback(20_256), "/livez")?.status, 200);
    let outside = node.at(Family::V4, 20_256);
    assert!(lab.workstation().http(outside, "/livez")?.is_err());
    assert_eq!(ask(node, loopback(30_249), "/proxyMode")?.body, "ebpf");
    assert!(
        node.http(loopback(20_249), "/proxyMode")?.is_err(),
        "the flag wins"
    );
    let log = std::fs::read_to_string(agent.log()).expect("the agent's log");
    assert!(log.contains("mode is not followed"), "{log}");
    Ok(())
}
