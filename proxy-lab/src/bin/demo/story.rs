//! The story, part by part. Every sentence with a mark is an outcome that was looked at, not foretold.

mod evidence;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proxy_lab::protocol::Identity;
use proxy_lab::{Family, Host, Result, TcpRequest, agent_command, eventually};

use crate::cluster::{Cluster, NODES};
use crate::terminal::{Terminal, say, seconds};
use evidence::{
    address, addresses, all_answered, backends, clients, failures, folded_ipv4, servers, services,
    unready,
};

const MLFLOW: (&str, &str) = ("10.96.50.10:5000", "[fd00:10:96::5010]:5000");
const GRAFANA: (&str, &str) = ("203.0.113.10:80", "[2001:db8:113::10]:80");
const NODE_PORT: u16 = 30001;

/// Connections of a chart.
const MANY: usize = 60;
/// Connections that are held while the agent dies.
const HELD: usize = 30;

/// Tells it all.
pub fn tell(cluster: &mut Cluster, terminal: &mut Terminal) -> Result<()> {
    before(cluster, terminal)?;
    agents(cluster, terminal)?;
    cluster_ip(cluster, terminal)?;
    readiness(cluster, terminal)?;
    node_port(cluster, terminal)?;
    load_balancer(cluster, terminal)?;
    maps(cluster, terminal)?;
    without_agent(cluster, terminal)
}

fn before(cluster: &Cluster, terminal: &mut Terminal) -> Result<()> {
    terminal.part("00  Without a proxy");
    let to = address(MLFLOW.0);
    let request = TcpRequest::to(to).timeout(Duration::from_millis(500));
    let attempts = cluster.lab.pod("notebook").tcp_all(request)?;
    let text = format!(
        "pod notebook cannot reach mlflow at {to}{}",
        failures(&attempts)
    );
    terminal.observe(
        attempts.iter().all(|attempt| attempt.outcome.is_err()),
        &text,
    );
    Ok(())
}

fn agents(cluster: &mut Cluster, terminal: &mut Terminal) -> Result<()> {
    let start = Instant::now();
    cluster.start_agents()?;
    let text = format!(
        "an agent on each of {} nodes has programmed the kernel, {} after their start",
        NODES.len(),
        seconds(start.elapsed())
    );
    terminal.observe(cluster.agents.len() == NODES.len(), &text);
    Ok(())
}

fn cluster_ip(cluster: &Cluster, terminal: &mut Terminal) -> Result<()> {
    let (v4, v6) = (address(MLFLOW.0), address(MLFLOW.1));
    terminal.part("01  ClusterIP: MLflow, port 5000, three replicas on two workers");
    let notebook = cluster.lab.pod("notebook");
    say(&format!(
        "pod notebook ({}, worker-1) connects to {v4}, {MANY} times:",
        notebook.addresses().v4
    ));
    let exchanges = notebook.tcp_all(TcpRequest::to(v4).times(MANY))?;
    let counts = servers(&exchanges);
    terminal.chart(&counts, |name| cluster.place(name));
    let replicas = ["mlflow-0", "mlflow-1", "mlflow-2"];
    let spread = counts.keys().map(String::as_str).eq(replicas)
        && counts.values().all(|&count| count >= MANY / 10);
    terminal.observe(
        all_answered(&exchanges),
        &format!(
            "all {MANY} connections were answered{}",
            failures(&exchanges)
        ),
    );
    terminal.observe(spread, "each of the three replicas has a share");
    let own = notebook.ip(Family::V4);
    terminal.observe(
        clients(&exchanges) == [own].into(),
        &format!("the replicas see the pod itself as the client, {own}"),
    );
    let kept = exchanges.iter().all(|exchange| exchange.peer == Some(v4));
    terminal.observe(
        kept,
        &format!("the pod's sockets say that they are connected to {v4}"),
    );

    let exchanges = notebook.tcp_all(TcpRequest::to(v6).times(10))?;
    terminal.observe(
        all_answered(&exchanges),
        &format!("the same over IPv6, {v6}{}", failures(&exchanges)),
    );

    let sandbox = cluster.lab.pod("sandbox");
    let exchanges = sandbox.tcp_all(TcpRequest::to(v4).times(10))?;
    let own = sandbox.ip(Family::V4);
    let text = format!(
        "a sandboxed pod (as of Kata or gVisor: the node has no hold of its sockets) is served packet by packet{}",
        failures(&exchanges)
    );
    terminal.observe(
        all_answered(&exchanges) && clients(&exchanges) == [own].into(),
        &text,
    );

    let exchanges = cluster
        .lab
        .node("worker-2")
        .tcp_all(TcpRequest::to(v4).times(10))?;
    terminal.observe(
        all_answered(&exchanges),
        &format!(
            "processes of a node itself reach it too{}",
            failures(&exchanges)
        ),
    );
    Ok(())
}

fn readiness(cluster: &Cluster, terminal: &mut Terminal) -> Result<()> {
    let to = address(MLFLOW.0);
    let file = cluster.objects.path().join("mlflow.yaml");
    let text = std::fs::read_to_string(&file).map_err(|source| proxy_lab::LabError::File {
        action: "reading",
        path: file,
        source,
    })?;
    let node = cluster.lab.node("worker-1");
    let start = Instant::now();
    cluster.objects.write(
        "mlflow.yaml",
        &unready(&text, &["10.244.2.10", "fd00:10:244:2::10"]),
    )?;
    eventually("mlflow-2 leaves the maps", Duration::from_secs(10), || {
        Ok(backends(&services(cluster, "worker-1")?, to) == 2)
    })?;
    let took = start.elapsed();
    let exchanges = cluster
        .lab
        .pod("notebook")
        .tcp_all(TcpRequest::to(to).times(MANY))?;
    let counts = servers(&exchanges);
    let text_end = format!(
        "mlflow-2 is not ready any more: {} later it is out of the maps of {}, and the other two answer all of {MANY} connections{}",
        seconds(took),
        node.name(),
        failures(&exchanges)
    );
    terminal.observe(
        all_answered(&exchanges) && counts.len() == 2 && !counts.contains_key("mlflow-2"),
        &text_end,
    );
    cluster.objects.write("mlflow.yaml", &text)?;
    eventually(
        "mlflow-2 is back in the maps",
        Duration::from_secs(10),
        || Ok(backends(&services(cluster, "worker-1")?, to) == 3),
    )?;
    terminal.observe(true, "it is ready again, and back");
    Ok(())
}

fn node_port(cluster: &Cluster, terminal: &mut Terminal) -> Result<()> {
    terminal.part(&format!(
        "02  NodePort: Triton, port {NODE_PORT} of every node, one replica"
    ));
    let workstation = cluster.lab.workstation();
    let outside = workstation.ip(Family::V4);
    say(&format!(
        "the workstation ({outside}, outside of the cluster) asks each node; triton-0 is on worker-2:"
    ));
    for name in NODES {
        let node = cluster.lab.node(name);
        let to = node.at(Family::V4, NODE_PORT);
        let exchanges = workstation.tcp_all(TcpRequest::to(to).times(5))?;
        let (expected, how) = if name == "worker-2" {
            (outside, "which it has itself: the pod sees the workstation")
        } else {
            (
                node.ip(Family::V4),
                "which has no such pod: it forwards, and answers in its own name",
            )
        };
        let seen = clients(&exchanges);
        let fine = all_answered(&exchanges)
            && servers(&exchanges).contains_key("triton-0")
            && seen == [expected].into();
        terminal.observe(
            fine,
            &format!(
                "{to:<19} {name}, {how} ({}){}",
                addresses(&seen),
                failures(&exchanges)
            ),
        );
    }
    for name in NODES {
        let to = cluster.lab.node(name).at(Family::V6, NODE_PORT);
        let exchanges = workstation.tcp_all(TcpRequest::to(to).times(5))?;
        terminal.observe(
            all_answered(&exchanges),
            &format!("{to} {name}, over IPv6{}", failures(&exchanges)),
        );
    }
    let to = address(&format!("127.0.0.1:{NODE_PORT}"));
    let exchange = cluster.lab.node("worker-1").tcp(to)?;
    terminal.observe(
        exchange.server() == Some("triton-0"),
        &format!("{to} for processes on worker-1{}", failures(&[exchange])),
    );
    Ok(())
}

fn load_balancer(cluster: &Cluster, terminal: &mut Terminal) -> Result<()> {
    let (v4, v6) = (address(GRAFANA.0), address(GRAFANA.1));
    terminal.part(&format!("03  LoadBalancer: Grafana, {v4} → 3000"));
    let workstation = cluster.lab.workstation();
    let outside = workstation.ip(Family::V4);
    say("the workstation opens Grafana; the network brings the address to worker-1:");
    let exchanges = workstation.tcp_all(TcpRequest::to(v4).times(5))?;
    let answer = exchanges
        .iter()
        .find_map(|exchange| exchange.outcome.as_ref().ok());
    let target = answer.map_or_else(
        || "nobody".to_owned(),
        |identity: &Identity| format!("{}, {}", identity.server, identity.local),
    );
    let fine =
        all_answered(&exchanges) && answer.is_some_and(|identity| identity.local.port() == 3000);
    terminal.observe(
        fine,
        &format!(
            "http://{}/ is answered by {target}{}",
            v4.ip(),
            failures(&exchanges)
        ),
    );
    terminal.observe(
        clients(&exchanges) == [outside].into(),
        &format!(
            "Grafana sees who asks, {} (externalTrafficPolicy: Local)",
            addresses(&clients(&exchanges))
        ),
    );
    let exchanges = workstation.tcp_all(TcpRequest::to(v6).times(5))?;
    terminal.observe(
        all_answered(&exchanges),
        &format!("the same over IPv6, {v6}{}", failures(&exchanges)),
    );
    let exchange = cluster.lab.pod("notebook").tcp(v4)?;
    terminal.observe(
        exchange.server() == Some("grafana-0"),
        &format!("pods reach it at {v4} too{}", failures(&[exchange])),
    );
    Ok(())
}

fn maps(cluster: &Cluster, terminal: &mut Terminal) -> Result<()> {
    terminal.part("04  What is in the maps of worker-1");
    let node = cluster.lab.node("worker-1");
    let table = agent_command(
        node,
        [
            "services",
            "--bpffs",
            &node.bpffs().display().to_string(),
            "-o",
            "table",
        ],
    )?;
    let (shown, others) = folded_ipv4(&table);
    say("proxy-agent services, read from the kernel alone:");
    terminal.quote(&shown);
    say(&format!("… and {others} more for IPv6"));
    let report = services(cluster, "worker-1")?;
    let expected = [
        (MLFLOW.0, 3),
        (MLFLOW.1, 3),
        ("172.30.0.11:30001", 1),
        (GRAFANA.0, 1),
        (GRAFANA.1, 1),
    ];
    let right = expected
        .iter()
        .all(|(frontend, count)| backends(&report, address(frontend)) == *count);
    terminal.observe(
        right,
        "the frontends that were used above are there, with their backends",
    );
    Ok(())
}

fn without_agent(cluster: &mut Cluster, terminal: &mut Terminal) -> Result<()> {
    terminal.part("05  Without the agent");
    let index = NODES
        .iter()
        .position(|name| *name == "worker-1")
        .unwrap_or_default();
    let agent = cluster.agents.remove(index);
    let lab = &cluster.lab;
    let clients: [(&str, &Host, SocketAddr); 3] = [
        ("ClusterIP", lab.pod("notebook"), address(MLFLOW.0)),
        (
            "NodePort",
            lab.workstation(),
            lab.node("worker-1").at(Family::V4, NODE_PORT),
        ),
        ("LoadBalancer", lab.workstation(), address(GRAFANA.0)),
    ];
    let holds: Vec<_> = clients
        .iter()
        .map(|(_, client, to)| client.hold(TcpRequest::to(*to).times(HELD)))
        .collect::<Result<_>>()?;
    say(&format!(
        "{HELD} connections are held through each; then the agent of worker-1 (pid {}) is killed:",
        agent.pid()
    ));
    agent.kill9()?;
    for ((kind, client, to), hold) in clients.iter().zip(&holds) {
        let held = hold.check(Duration::from_secs(3))?;
        let new = client.tcp_all(TcpRequest::to(*to).times(10))?;
        let fine = held.len() == HELD && all_answered(&held) && all_answered(&new);
        let text = format!(
            "{kind} {to}: all {HELD} live, and 10 new ones are answered{}{}",
            failures(&held),
            failures(&new)
        );
        terminal.observe(fine, &text);
    }
    let frontends = services(cluster, "worker-1")?["frontends"]
        .as_array()
        .map_or(0, Vec::len);
    terminal.observe(
        frontends > 0,
        &format!("`services` reads the maps without it: {frontends} frontends"),
    );

    let start = Instant::now();
    let agent = cluster
        .lab
        .node("worker-1")
        .spawn_agent(&cluster.options())?;
    let took = start.elapsed();
    let held = holds
        .iter()
        .map(|hold| hold.check(Duration::from_secs(3)))
        .collect::<Result<Vec<_>>>()?
        .concat();
    let text = format!(
        "a new agent is in charge after {}; all {} connections live{}",
        seconds(took),
        held.len(),
        failures(&held)
    );
    terminal.observe(
        held.len() == HELD * holds.len() && all_answered(&held),
        &text,
    );
    holds.into_iter().try_for_each(proxy_lab::Hold::close)?;
    cluster.agents.insert(index, agent);
    Ok(())
}
