//! 05: Services without an address, and one that becomes another kind in place.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proxy_lab::{Family, Result, TcpRequest, eventually};
use serde_json::{Value, json};

use super::evidence::{all_answered, failures, frontends_of, servers, until_programmed};
use super::names::{By, look_up};
use super::{ARRIVES, NAME, shown};
use crate::terminal::{Terminal, say};
use crate::world::{NODES, Stage};

const SERVICE: (&str, &str) = ("monitoring", "dashboards");
const ALIAS: &str = "mlflow.mlops.svc.cluster.local";
const CLUSTER_IPS: [&str; 2] = ["10.96.50.50", "fd00:10:96::5050"];
const NODE_PORT: u16 = 30050;

pub fn tell(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    terminal
        .part("05  Headless and ExternalName: names alone; and a Service that changes its type");
    headless(stage, terminal)?;
    external_name(stage, terminal)?;
    to_cluster_ip(stage, terminal)?;
    to_node_port(stage, terminal)?;
    back(stage, terminal)
}

fn headless(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    let pods = stage.world.pods(&[(NAME, "mlflow")])?;
    let places = pods.iter().filter_map(|pod| stage.world.place(pod));
    let expected: BTreeSet<IpAddr> = places.map(|place| place.address).collect();
    let notebook = stage.lab().pod("notebook");
    let found = look_up(notebook, "mlflow-replicas", Family::V4, By::Udp)?;
    let words: Vec<_> = found.iter().map(ToString::to_string).collect();
    terminal.observe(
        found == expected && found.len() == 3,
        &format!(
            "mlflow-replicas (headless) is the pods themselves: {}",
            words.join(", ")
        ),
    );
    let programmed = programmed(stage, "mlops/mlflow-replicas")?;
    terminal.observe(programmed == 0, "nothing is programmed for it on any node");
    Ok(())
}

fn external_name(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    let (namespace, name) = SERVICE;
    let sandbox = stage.lab().pod("sandbox");
    let found = look_up(sandbox, name, Family::V4, By::Udp)?;
    let target = look_up(sandbox, ALIAS, Family::V4, By::Udp)?;
    let ip = found.first().copied();
    terminal.observe(
        found == target && found.len() == 1,
        &format!(
            "{name} (ExternalName, in {namespace}) is another name of {ALIAS}, {}",
            ip.map_or_else(|| "nobody".to_owned(), |ip| ip.to_string())
        ),
    );
    if let Some(ip) = ip {
        let exchange = sandbox.tcp((ip, 5000).into())?;
        let server = exchange.server().unwrap_or("nobody").to_owned();
        terminal.observe(
            exchange.outcome.is_ok(),
            &format!(
                "http://{name}:5000/ is answered by {server}{}",
                failures(&[exchange])
            ),
        );
    }
    let programmed = programmed(stage, &full_name())?;
    terminal.observe(programmed == 0, "nothing is programmed for it either");
    Ok(())
}

fn to_cluster_ip(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    say("now it gets pods of its own (Grafana's): type ClusterIP, port 80 → 3000");
    let spec = json!({
        "type": "ClusterIP",
        "externalName": null,
        "clusterIP": CLUSTER_IPS[0],
        "clusterIPs": CLUSTER_IPS,
        "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "PreferDualStack",
        "selector": {NAME: "grafana"},
        "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 3000}],
    });
    change(stage, terminal, &spec)?;
    until_programmed(stage, "its ClusterIPs are programmed", |report| {
        frontends_of(report, &full_name(), "ClusterIP").len() == 2
    })?;
    until_named(stage, CLUSTER_IPS[0])?;
    let sandbox = stage.lab().pod("sandbox");
    let exchanges = sandbox
        .tcp_all(TcpRequest::to(super::address(&format!("{}:80", CLUSTER_IPS[0]))).times(10))?;
    observe_grafana(
        stage,
        terminal,
        &exchanges,
        &format!("http://{}/ is {} now", SERVICE.1, CLUSTER_IPS[0]),
    )
}

fn to_node_port(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    say("… and a port of every node: type NodePort");
    let spec = json!({
        "type": "NodePort",
        "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 3000, "nodePort": NODE_PORT}],
    });
    change(stage, terminal, &spec)?;
    until_programmed(stage, "its node port is programmed", |report| {
        frontends_of(report, &full_name(), "NodePort").len() >= 2
    })?;
    let node = stage.lab().node("worker-2").at(Family::V4, NODE_PORT);
    let exchanges = stage
        .lab()
        .workstation()
        .tcp_all(TcpRequest::to(node).times(10))?;
    observe_grafana(
        stage,
        terminal,
        &exchanges,
        &format!("from outside, {node}"),
    )
}

fn back(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    say("… and only a name again: type ExternalName");
    let spec = json!({
        "type": "ExternalName",
        "externalName": ALIAS,
        "clusterIP": null,
        "clusterIPs": null,
        "ipFamilies": null,
        "ipFamilyPolicy": null,
        "selector": null,
        "ports": null,
    });
    change(stage, terminal, &spec)?;
    until_programmed(stage, "nothing of it is programmed", |report| {
        frontends_of(report, &full_name(), "").is_empty()
    })?;
    let node = stage.lab().node("worker-2").at(Family::V4, NODE_PORT);
    let exchange = stage.lab().workstation().tcp(node)?;
    terminal.observe(
        exchange.outcome.is_err(),
        &format!(
            "its frontends are gone from all nodes: nobody is at {node}{}",
            failures(&[exchange])
        ),
    );
    let alias = look_up(stage.lab().pod("sandbox"), ALIAS, Family::V4, By::Udp)?;
    let ip = alias.first().map(ToString::to_string).unwrap_or_default();
    until_named(stage, &ip)?;
    terminal.observe(true, &format!("{} is {ALIAS} again, {ip}", SERVICE.1));
    Ok(())
}

fn change(stage: &Stage, terminal: &Terminal, spec: &Value) -> Result<()> {
    let (namespace, name) = SERVICE;
    let patch = json!({"spec": spec});
    stage
        .world
        .patch("service", namespace, name, patch.clone())?;
    let command = format!("kubectl -n {namespace} patch service {name} --type merge -p '{patch}'");
    shown(terminal, &command);
    Ok(())
}

/// Waits until the Service's name stands for an address.
fn until_named(stage: &Stage, ip: &str) -> Result<()> {
    let sandbox = stage.lab().pod("sandbox");
    let what = format!("{} is {ip}", SERVICE.1);
    let named = || {
        let found = look_up(sandbox, SERVICE.1, Family::V4, By::Udp)?;
        Ok(found.iter().map(ToString::to_string).eq([ip]))
    };
    eventually(&what, ARRIVES, named).map(drop)
}

fn observe_grafana(
    stage: &Stage,
    terminal: &mut Terminal,
    exchanges: &[proxy_lab::Exchange],
    what: &str,
) -> Result<()> {
    let pods = stage.world.pods(&[(NAME, "grafana")])?;
    let counts = servers(exchanges);
    let names: Vec<_> = counts.keys().map(String::as_str).collect();
    terminal.observe(
        all_answered(exchanges) && counts.keys().eq(pods.iter()),
        &format!(
            "{what}: answered by {}{}",
            names.join(", "),
            failures(exchanges)
        ),
    );
    Ok(())
}

/// How many frontends a Service has, on all nodes together.
fn programmed(stage: &Stage, service: &str) -> Result<usize> {
    let mut sum = 0;
    for node in NODES {
        let report = super::evidence::services(stage, node)?;
        sum += frontends_of(&report, service, "").len();
    }
    Ok(sum)
}

fn full_name() -> String {
    format!("{}/{}", SERVICE.0, SERVICE.1)
}
