//! Observations, in a form that can be checked and printed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use proxy_lab::{Exchange, LabError, Result, agent_command, eventually};
use serde_json::Value;

use super::ARRIVES;
use crate::world::{NODES, Stage};

/// The JSON report of the live maps of a node.
pub(super) fn services(stage: &Stage, node: &str) -> Result<Value> {
    let node = stage.lab().node(node);
    let text = agent_command(
        node,
        [
            "services",
            "--bpffs",
            &node.bpffs().display().to_string(),
            "-o",
            "json",
        ],
    )?;
    serde_json::from_str(&text).map_err(|error| LabError::Command {
        command: "proxy-agent services -o json".to_owned(),
        ending: format!("wrote something that is not JSON: {error}"),
    })
}

/// Waits until the maps of every node are as asked for.
pub(super) fn until_programmed(
    stage: &Stage,
    what: &str,
    mut is_so: impl FnMut(&Value) -> bool,
) -> Result<()> {
    for node in NODES {
        eventually(&format!("{what} on {node}"), ARRIVES, || {
            Ok(is_so(&services(stage, node)?))
        })?;
    }
    Ok(())
}

/// Addresses of the backends of a TCP frontend for clients in the cluster; none if it is not there.
pub(super) fn backends(report: &Value, frontend: SocketAddr) -> BTreeSet<IpAddr> {
    let is = |item: &&Value| {
        ip(item) == Some(frontend.ip())
            && item["port"] == frontend.port()
            && item["protocol"] == "TCP"
            && item["scope"] == "cluster"
    };
    let found = frontends(report).find(is);
    found
        .and_then(|item| item["backends"].as_array())
        .into_iter()
        .flatten()
        .filter_map(ip)
        .collect()
}

/// The frontends of a Service, of one kind, or of any if that is empty; for clients in the cluster.
pub(super) fn frontends_of<'a>(report: &'a Value, service: &str, kind: &str) -> Vec<&'a Value> {
    frontends(report)
        .filter(|item| item["service"] == service && item["scope"] == "cluster")
        .filter(|item| kind.is_empty() || item["kind"] == kind)
        .collect()
}

fn frontends(report: &Value) -> impl Iterator<Item = &Value> {
    report["frontends"].as_array().into_iter().flatten()
}

fn ip(item: &Value) -> Option<IpAddr> {
    item["address"].as_str()?.parse().ok()
}

/// A table's rows but those for IPv6, with backends one below the other; and how many rows are left out.
pub(super) fn folded_ipv4(table: &str) -> (String, usize) {
    let (left_out, shown): (Vec<_>, Vec<_>) = table
        .lines()
        .partition(|line| line.trim_start().starts_with('['));
    let header = shown.iter().find_map(|line| line.find("BACKENDS"));
    let fold = |line: &str| match header.filter(|&at| line.is_char_boundary(at)) {
        Some(at) => line[..at].to_owned() + &line[at..].replace(", ", &format!("\n{:at$}", "")),
        None => line.to_owned(),
    };
    let lines: Vec<_> = shown.into_iter().map(fold).collect();
    (lines.join("\n"), left_out.len())
}

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is an address"))
}

pub(super) fn all_answered(exchanges: &[Exchange]) -> bool {
    !exchanges.is_empty() && exchanges.iter().all(|exchange| exchange.outcome.is_ok())
}

/// How often each server answered.
pub(super) fn servers(exchanges: &[Exchange]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for server in exchanges.iter().filter_map(Exchange::server) {
        *counts.entry(server.to_owned()).or_default() += 1;
    }
    counts
}

/// The clients' addresses that the servers saw.
pub(super) fn clients(exchanges: &[Exchange]) -> BTreeSet<IpAddr> {
    exchanges
        .iter()
        .filter_map(|exchange| exchange.outcome.as_ref().ok())
        .map(|identity| identity.client.ip())
        .collect()
}

pub(super) fn addresses(set: &BTreeSet<IpAddr>) -> String {
    let words: Vec<_> = set.iter().map(ToString::to_string).collect();
    if words.is_empty() {
        "nobody".to_owned()
    } else {
        words.join(", ")
    }
}

/// What failed, in brackets; nothing if nothing did.
pub(super) fn failures(exchanges: &[Exchange]) -> String {
    let failures: Vec<_> = exchanges
        .iter()
        .filter_map(|exchange| exchange.outcome.as_ref().err())
        .collect();
    match failures.first() {
        None => String::new(),
        Some(only) if exchanges.len() == 1 => format!(" ({only})"),
        Some(first) => format!(
            " ({} of {} failed; {first})",
            failures.len(),
            exchanges.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_folded_at_their_last_column() {
        let table = "FRONTEND  BACKENDS\n1.1.1.1:1 2.2.2.2:2, 3.3.3.3:3\n[::1]:1   [::2]:2\n";
        let (shown, others) = folded_ipv4(table);
        assert_eq!(
            shown,
            "FRONTEND  BACKENDS\n1.1.1.1:1 2.2.2.2:2\n          3.3.3.3:3"
        );
        assert_eq!(others, 1);
    }
}
