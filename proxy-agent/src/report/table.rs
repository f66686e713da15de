//! A [`Report`] as a table for people.

use std::{fmt, net::IpAddr};

use comfy_table::{ContentArrangement, Table, presets};

use crate::text;

use super::{Algorithm, Backend, Empty, Frontend, Protocol, Report, Scope};

/// Backends that are shown of one frontend.
const SHOWN_BACKENDS: usize = 8;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(["FRONTEND", "FROM", "KIND", "SERVICE", "BACKENDS"]);
        let mut rows = self.frontends.iter().peekable();
        while let Some(row) = rows.next() {
            // The two scopes of one frontend follow each other; one row says it where they are the same.
            let same = rows
                .next_if(|next| is_the_same_but_scope(row, next))
                .is_some();
            let from = match (same, row.scope) {
                (true, _) => "anywhere",
                (false, Scope::Cluster) => "node, pods",
                (false, Scope::External) => "outside",
            };
            table.add_row([
                format!("{} {}", endpoint(row.address, row.port), name(row.protocol)),
                from.to_owned(),
                format!("{:?}", row.kind),
                service(row),
                backends(row),
            ]);
        }
        let node = text::plain(&self.node, text::NAME);
        writeln!(f, "node {node}: {} frontends", self.frontends.len())?;
        for line in table.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

fn is_the_same_but_scope(one: &Frontend, other: &Frontend) -> bool {
    let other = Frontend {
        scope: one.scope,
        ..other.clone()
    };
    *one == other
}

fn service(frontend: &Frontend) -> String {
    let service = text::plain(&frontend.service, 2 * text::NAME);
    if frontend.port_name.is_empty() {
        service.into_owned()
    } else {
        let port = text::plain(&frontend.port_name, text::NAME);
        format!("{service}:{port}")
    }
}

fn backends(frontend: &Frontend) -> String {
    let mut parts: Vec<String> = match frontend.empty {
        Some(Empty::Reject) => vec!["none: refused".to_owned()],
        Some(Empty::Drop) => vec!["none here: dropped".to_owned()],
        None => frontend
            .backends
            .iter()
            .take(SHOWN_BACKENDS)
            .map(backend)
            .collect(),
    };
    let more = frontend.backends.len().saturating_sub(SHOWN_BACKENDS);
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    let mut notes = vec![parts.join(", ")];
    match frontend.algorithm {
        Algorithm::Random => {}
        Algorithm::RoundRobin => notes.push("round robin".to_owned()),
        Algorithm::Maglev => notes.push("by Maglev's hash".to_owned()),
        Algorithm::LeastConnections => notes.push("by least connections".to_owned()),
    }
    if let Some(seconds) = frontend.affinity_seconds {
        notes.push(format!("clients stay for {seconds} s"));
    }
    if let Some(seconds) = frontend.slow_start_seconds {
        notes.push(format!("slow start in {seconds} s"));
    }
    if let Some(ranges) = &frontend.source_ranges {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        notes.push(if ranges.is_empty() {
            "for nobody".to_owned()
        } else {
            let but = if frontend.admits_node {
                ""
            } else {
                ", not for this node"
            };
            format!("for {} only{but}", ranges.join(", "))
        });
    }
    notes.join("; ")
}

fn backend(backend: &Backend) -> String {
    let address = endpoint(backend.address, backend.port);
    let node = backend.node.as_ref();
    let place = node.map_or_else(String::new, |node| {
        format!("@{}", text::plain(node, text::NAME))
    });
    let leaving = if backend.terminating {
        " (terminating)"
    } else {
        ""
    };
    format!("{address}{place}{leaving}")
}

fn endpoint(address: IpAddr, port: u16) -> String {
    match address {
        IpAddr::V4(v4) => format!("{v4}:{port}"),
        IpAddr::V6(v6) => format!("[{v6}]:{port}"),
    }
}

const fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Sctp => "SCTP",
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Kind, *};

    #[test]
    fn no_name_forges_a_row() {
        let hostile = || {
            format!(
                "web\n10.0.0.1:1 UDP anywhere\u{1b}[2J{}",
                "x".repeat(50_000)
            )
        };
        let report = Report {
            node: hostile(),
            frontends: vec![Frontend {
                service: hostile(),
                port_name: hostile(),
                kind: Kind::ClusterIP,
                address: "10.96.0.1".parse().unwrap(),
                port: 80,
                protocol: Protocol::Tcp,
                scope: Scope::Cluster,
                algorithm: Algorithm::Random,
                affinity_seconds: None,
                slow_start_seconds: None,
                source_ranges: None,
                admits_node: true,
                empty: None,
                backends: vec![Backend {
                    address: "10.244.0.1".parse().unwrap(),
                    port: 80,
                    node: Some(hostile()),
                    zone: None,
                    weight: 1,
                    terminating: false,
                }],
            }],
            warnings: Vec::new(),
        };
        let text = report.to_string();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.len() < 6000 && !text.contains('\u{1b}'), "{text}");
    }
}
