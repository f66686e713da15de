//! What is printed, as Prometheus reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use proxy_common::addr::Family;

use super::*;
use crate::model::{ObjectRef, Problem};

fn text(metrics: &Metrics) -> String {
    String::from_utf8(metrics.text().unwrap()).unwrap()
}

/// Samples by name and labels.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name, value.parse().unwrap())
        })
        .collect()
}

/// Family, type and labels of each metric: `name gauge map`.
fn printed(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    lines
        .map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            format!("{name} {kind} {}", labels(text, name))
        })
        .collect()
}

/// Names of the labels of a family, but for those of buckets.
fn labels(text: &str, family: &str) -> String {
    let line = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.contains("_bucket{"))
        .find(|line| {
            let name = line.split(['{', ' ']).next().unwrap();
            let stem = name.trim_end_matches("_sum").trim_end_matches("_count");
            name == family || stem == family
        });
    let line = line.unwrap_or_else(|| panic!("{family} has no sample"));
    let labels = line.split_once('{').map_or("", |(_, rest)| rest);
    let names = labels.split(',').filter_map(|pair| pair.split_once('='));
    names.map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

#[test]
fn h3_the_documentation_lists_what_is_printed() {
    let document = include_str!("../../../docs/metrics.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeSet<String> = rows
        .map(|row| {
            let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`'));
            let mut next = || cells.next().unwrap_or_default().replace('`', "");
            format!("{} {} {}", next(), next(), next())
        })
        .collect();
    let printed = printed(&text(&Metrics::new().unwrap()));
    assert_eq!(
        documented, printed,
        "docs/metrics.md and what /metrics prints differ"
    );
}

#[test]
fn h3_every_metric_has_a_help_text() {
    let text = text(&Metrics::new().unwrap());
    let names = |prefix: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
        lines
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("# HELP "), names("# TYPE "));
}

/// The buckets of a histogram, as they are written.
fn buckets(text: &str, histogram: &str) -> Vec<String> {
    let prefix = format!("{histogram}_bucket{{ip_family=\"IPv4\",le=\"");
    let lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
    lines
        .map(|line| line.split('"').next().unwrap().to_owned())
        .collect()
}

#[test]
fn h3_buckets_are_kube_proxys() {
    let text = text(&Metrics::new().unwrap());
    let sync = [
        "0.001", "0.002", "0.004", "0.008", "0.016", "0.032", "0.064", "0.128", "0.256", "0.512",
        "1.024", "2.048", "4.096", "8.192", "16.384", "+Inf",
    ];
    for kind in ["", "full_", "partial_"] {
        let name = format!("kubeproxy_sync_{kind}proxy_rules_duration_seconds");
        assert_eq!(buckets(&text, &name), sync, "{name}");
    }
    let programming = buckets(&text, "kubeproxy_network_programming_duration_seconds");
    let mut expected = vec!["0.25".to_owned(), "0.5".to_owned()];
    expected.extend((1..=59).map(|n| n.to_string()));
    expected.extend((0..12).map(|n| (60 + 5 * n).to_string()));
    expected.extend((0..7).map(|n| (120 + 30 * n).to_string()));
    expected.push("+Inf".to_owned());
    assert_eq!(programming, expected);
}

#[test]
fn h3_what_happens_is_counted() {
    let metrics = Metrics::new().unwrap();
    let time = Timestamp::from_millisecond(1_700_000_000_500).unwrap();
    let kube_proxy = &metrics.kube_proxy;
    kube_proxy.queued(time);
    kube_proxy.endpoint_changes_pending.set(3);
    kube_proxy.observe_sync(true, Duration::from_millis(3));
    kube_proxy.observe_network_programming(Family::V6, Duration::from_millis(300));
    kube_proxy.set_no_local_endpoints(Policy::External, Family::V4, 7);
    kube_proxy.answered_healthz(false);
    kube_proxy.answered_livez(true);
    metrics.own.count_problem(&Problem {
        object: ObjectRef::plain("file", "a b.yaml"),
        message: String::new(),
    });
    let before = text(&metrics);
    kube_proxy.synced(time);
    let (before, after) = (samples(&before), text(&metrics));
    let after = samples(&after);
    for (sample, value) in [
        (
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv6\"}",
            1_700_000_000.5,
        ),
        (
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
            0.0,
        ),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", 3.0),
        (
            "kubeproxy_sync_full_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.004\"}",
            1.0,
        ),
        (
            "kubeproxy_sync_full_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.002\"}",
            0.0,
        ),
        (
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
            1.0,
        ),
        (
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
            0.0,
        ),
        (
            "kubeproxy_network_programming_duration_seconds_sum{ip_family=\"IPv6\"}",
            0.3,
        ),
        (
            "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}",
            0.0,
        ),
        (
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"}",
            7.0,
        ),
        ("kubeproxy_proxy_healthz_total{code=\"503\"}", 1.0),
        ("kubeproxy_proxy_healthz_total{code=\"200\"}", 0.0),
        ("kubeproxy_proxy_livez_total{code=\"200\"}", 1.0),
        ("proxy_problems_total{kind=\"file\"}", 1.0),
        ("proxy_drops_total{reason=\"no_local_endpoint\"}", 0.0),
        ("proxy_datapath_events_total{event=\"flow_created\"}", 0.0),
    ] {
        assert_eq!(before.get(sample), Some(&value), "{sample}");
    }
    let pending = "kubeproxy_sync_proxy_rules_endpoint_changes_pending";
    assert_eq!(after.get(pending), Some(&0.0));
    let last = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}";
    assert_eq!(after.get(last), Some(&1_700_000_000.5));
}
