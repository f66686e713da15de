//! The servers, asked over the loopback.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Instant,
};

use jiff::Timestamp;
use proxy_common::addr::Family;

use super::*;
use crate::{
    health::TIMEOUT,
    plan::{HealthCheck, ServiceName},
};

struct Fixture {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    checks: watch::Sender<Checks>,
    problems: mpsc::UnboundedReceiver<Problem>,
    at: SocketAddr,
    metrics_at: SocketAddr,
}

/// A port that nobody has, just now.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

impl Fixture {
    fn start() -> Self {
        let health = Arc::new(Health::new(Instant::now()));
        health.caught_up(Timestamp::now(), 0);
        let metrics = Arc::new(Metrics::new().unwrap());
        let checks = watch::Sender::new(Checks::default());
        let (tell, problems) = mpsc::unbounded_channel();
        let (at, metrics_at) = (free_port(), free_port());
        let config = ServeConfig {
            healthz: Some(at),
            metrics: Some(metrics_at),
            hard_fail: true,
            local: None,
        };
        let shown = Shown {
            health: Arc::clone(&health),
            metrics: Arc::clone(&metrics),
            checks: checks.subscribe(),
            problems: tell,
        };
        start(&config, shown).unwrap();
        checks.send_if_modified(|checks| checks.set_addresses([Ipv4Addr::LOCALHOST.into()].into()));
        Self {
            health,
            metrics,
            checks,
            problems,
            at,
            metrics_at,
        }
    }

    /// Says that a Service has a health check, or none.
    fn set(&self, service: &str, check: Option<(u16, usize)>) {
        let check = check.map(|(port, ready)| HealthCheck {
            port,
            ready: BTreeMap::from([(Family::V4, ready)]),
        });
        self.checks
            .send_if_modified(|checks| checks.set(name(service), check));
    }

    fn sample(&self, sample: &str) -> Option<f64> {
        let text = self.metrics.text().unwrap();
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(sample))?;
        line.trim().parse().ok()
    }
}

fn name(service: &str) -> ServiceName {
    ServiceName {
        namespace: "default".to_owned(),
        name: service.to_owned(),
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let prefix = format!("{name}: ");
        let mut lines = self.head.lines();
        lines
            .find_map(|line| line.strip_prefix(&prefix))
            .unwrap_or_else(|| panic!("{name} is missing in {}", self.head))
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn ask(at: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(Answer {
        status: head[9..12].parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

fn get(at: SocketAddr, path: &str) -> Answer {
    ask(at, path).unwrap()
}

/// Waits for what the server's thread does by itself.
#[track_caller]
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Nothing has been programmed for longer than it may take.
fn long_ago() -> Instant {
    let since_boot = Instant::now().checked_sub(TIMEOUT + Duration::from_secs(1));
    since_boot.expect("the machine is up for longer than a minute")
}

#[test]
fn h2_healthz_and_livez_say_how_the_proxy_does() {
    let fixture = Fixture::start();
    let (health, life) = (get(fixture.at, "/healthz"), get(fixture.at, "/livez"));
    assert_eq!((health.status, life.status), (200, 200));
    assert_eq!(health.header("content-type"), "application/json");
    assert_eq!(health.header("x-content-type-options"), "nosniff");
    assert_eq!(health.json()["nodeEligible"], true);
    assert_eq!(health.json()["healthy"], true);
    assert_eq!(life.json().get("nodeEligible"), None);

    fixture.health.set_leaving(true);
    let (health, life) = (get(fixture.at, "/healthz"), get(fixture.at, "/livez"));
    assert_eq!((health.status, life.status), (503, 200));
    assert_eq!(health.json()["nodeEligible"], false);
    assert_eq!(health.json()["healthy"], true);

    fixture.health.set_leaving(false);
    fixture.health.behind(long_ago());
    let (health, life) = (get(fixture.at, "/healthz"), get(fixture.at, "/livez"));
    assert_eq!((health.status, life.status), (503, 503));
    assert_eq!(health.json()["healthy"], false);
    fixture.health.caught_up(Timestamp::now(), 0);
    assert_eq!(get(fixture.at, "/healthz").status, 200);

    assert_eq!(get(fixture.at, "/metrics").status, 404);
    for (sample, count) in [
        ("kubeproxy_proxy_healthz_total{code=\"200\"}", 2.0),
        ("kubeproxy_proxy_healthz_total{code=\"503\"}", 2.0),
        ("kubeproxy_proxy_livez_total{code=\"200\"}", 2.0),
        ("kubeproxy_proxy_livez_total{code=\"503\"}", 1.0),
    ] {
        assert_eq!(fixture.sample(sample), Some(count), "{sample}");
    }
}

#[test]
fn h2_metrics_and_proxy_mode() {
    let fixture = Fixture::start();
    let mode = get(fixture.metrics_at, "/proxyMode");
    assert_eq!((mode.status, mode.body.as_str()), (200, "ebpf"));
    assert_eq!(mode.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(get(fixture.metrics_at, "/healthz").body, "ok");
    let metrics = get(fixture.metrics_at, "/metrics");
    assert_eq!(metrics.status, 200);
    assert_eq!(metrics.header("content-type"), Metrics::CONTENT_TYPE);
    assert!(metrics.body.contains("\nproxy_services 0\n"));
}

#[test]
fn h1_a_services_health_check_counts_its_ready_endpoints() {
    let fixture = Fixture::start();
    let at = free_port();
    fixture.set("web", Some((at.port(), 2)));
    eventually("the port is served", || ask(at, "/").is_ok());
    let answer = get(at, "/whatever");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("x-load-balancing-endpoint-weight"), "2");
    assert_eq!(
        answer.body,
        "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
    );

    fixture.set("web", Some((at.port(), 0)));
    let answer = get(at, "/healthz");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("x-load-balancing-endpoint-weight"), "0");
    assert_eq!(answer.json()["localEndpoints"], 0);

    fixture.set("web", Some((at.port(), 1)));
    fixture.health.set_leaving(true);
    assert_eq!(
        get(at, "/").status,
        200,
        "the proxy is asked for, not the node"
    );
    fixture.health.behind(long_ago());
    let answer = get(at, "/");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["serviceProxyHealthy"], false);
    assert_eq!(answer.json()["localEndpoints"], 1);
}

#[test]
fn h1_health_checks_come_and_go_and_take_their_connections_with_them() {
    let fixture = Fixture::start();
    let (first, second) = (free_port(), free_port());
    fixture.set("web", Some((first.port(), 1)));
    eventually("the port is served", || ask(first, "/").is_ok());
    let mut kept = TcpStream::connect(first).unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    kept.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    kept.read_exact(&mut [0]).expect("an answer");
    eventually("one socket is counted", || {
        fixture.sample("proxy_health_check_ports{state=\"serving\"}") == Some(1.0)
    });

    fixture.set("web", Some((second.port(), 1)));
    eventually("the other port is served", || ask(second, "/").is_ok());
    assert!(TcpStream::connect(first).is_err(), "the first is closed");
    // What was answered before comes first.
    let end = kept
        .read_to_end(&mut Vec::new())
        .map_err(|error| error.kind());
    assert!(
        matches!(end, Ok(_) | Err(io::ErrorKind::ConnectionReset)),
        "and its connection: {end:?}"
    );

    // The port changes hands at once: without a moment in which it can't be had.
    fixture.checks.send_modify(|checks| {
        let check = checks.get(&name("web")).cloned();
        checks.set(name("web"), None);
        checks.set(name("another"), check);
    });
    eventually("the other Service is asked for", || {
        ask(second, "/").is_ok_and(|answer| answer.json()["service"]["name"] == "another")
    });
    assert!(fixture.problems.is_empty());

    fixture.set("another", None);
    eventually("nothing is served", || TcpStream::connect(second).is_err());
}

#[test]
fn h1_a_port_that_another_process_has_is_told_once_and_taken_when_it_is_free() {
    let mut fixture = Fixture::start();
    let squatter = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = squatter.local_addr().unwrap();
    fixture.set("web", Some((at.port(), 1)));
    let problem = fixture.problems.blocking_recv().unwrap();
    assert_eq!(problem.object.to_string(), "Service default/web");
    assert!(problem.message.contains(&at.to_string()), "{problem}");
    // Another Service is served meanwhile; the failure is no news.
    let other = free_port();
    fixture.set("other", Some((other.port(), 1)));
    eventually("the other is served", || ask(other, "/").is_ok());
    eventually("the failure is counted", || {
        fixture.sample("proxy_health_check_ports{state=\"failed\"}") == Some(1.0)
    });
    assert!(fixture.problems.try_recv().is_err());
    drop(squatter);
    eventually("the port is served", || {
        ask(at, "/").is_ok_and(|answer| answer.status == 200)
    });
    assert_eq!(
        fixture.sample("proxy_health_check_ports{state=\"failed\"}"),
        Some(0.0)
    );
}

#[test]
fn h2_a_port_that_is_taken_stops_the_agent_only_if_it_is_told_to() {
    let squatter = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = squatter.local_addr().unwrap();
    let open = |hard_fail| Server::open("/healthz", Some(at), Router::new(), hard_fail);
    let Err(ServeError::Bind { at: named, .. }) = open(true) else {
        panic!("the port is taken");
    };
    assert_eq!(named, at);
    let Ok(Some(server)) = open(false) else {
        panic!("it is tried again");
    };
    assert!(server.listener.is_none());
}

#[test]
fn h2_until_the_first_list_is_in_the_maps_nothing_but_life_is_claimed() {
    let fixture = Fixture::start();
    let statuses = |health: &Arc<Health>, metrics: &Arc<Metrics>| {
        let at = free_port();
        let router = proxy::health(health, metrics);
        let server = Server::open("/healthz", Some(at), router, true)
            .unwrap()
            .unwrap();
        let clients = Clients::new(Limits::of(1024), metrics.own.connections_given_way.clone());
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(server.run(clients));
        });
        ["/healthz", "/livez", "/readyz"].map(|path| get(at, path).status)
    };
    let health = Arc::new(Health::new(Instant::now()));
    assert_eq!(statuses(&health, &fixture.metrics), [503, 200, 503]);
    health.serves_earlier();
    assert_eq!(statuses(&health, &fixture.metrics), [200, 200, 503]);
    health.caught_up(Timestamp::now(), 0);
    assert_eq!(statuses(&health, &fixture.metrics), [200, 200, 200]);
    health.end();
    assert_eq!(statuses(&health, &fixture.metrics), [503, 503, 503]);
}

mod flood;
mod local;
