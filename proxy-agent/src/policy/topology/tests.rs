//! Tables in the manner of kube-proxy's `TestCategorizeEndpoints`: one letter for an endpoint, so that a case is a line.

use std::collections::BTreeSet;

use super::*;

const NODE: &str = "here";

/// An endpoint: `r` ready, `t` serving and terminating, `n` not ready, `x` terminating and not serving, `R` ready and
/// terminating (published although not ready); then `@` for this node, `zX` zone hints, `nX` node hints.
fn endpoint(index: usize, text: &str) -> Endpoint {
    let mut words = text.split(' ');
    let state = words.next().unwrap();
    let (ready, serving, terminating) = match &state[..1] {
        "r" => (true, true, false),
        "t" => (false, true, true),
        "n" => (false, false, false),
        "x" => (false, false, true),
        "R" => (true, true, true),
        other => panic!("{other}"),
    };
    let mut endpoint = Endpoint {
        address: std::net::Ipv4Addr::from(0x0a00_0000 + index as u32).into(),
        node: Some(if state.ends_with('@') { NODE } else { "there" }.to_owned()),
        zone: None,
        ready,
        serving,
        terminating,
        node_hints: BTreeSet::new(),
        zone_hints: BTreeSet::new(),
    };
    for word in words {
        let (kind, name) = word.split_at(1);
        match kind {
            "z" => endpoint.zone_hints.insert(name.to_owned()),
            "n" => endpoint.node_hints.insert(name.to_owned()),
            other => panic!("{other}"),
        };
    }
    endpoint
}

/// Checks the lists, given as indexes.
#[track_caller]
fn check(zone: Option<&str>, endpoints: &[&str], cluster: &[usize], local: &[usize], any: bool) {
    let endpoints: Vec<_> = endpoints
        .iter()
        .enumerate()
        .map(|(index, text)| endpoint(index, text))
        .collect();
    let candidates: Vec<_> = endpoints.iter().map(|e| Candidate::new(e, 80, 1)).collect();
    let here = Here {
        name: NODE,
        zone,
        addresses: &BTreeSet::new(),
    };
    let categories = categorize(&candidates, here);
    let indexes = |list: &[Candidate<'_>]| -> Vec<usize> {
        list.iter()
            .map(|c| endpoints.iter().position(|e| e == c.endpoint()).unwrap())
            .collect()
    };
    assert_eq!(indexes(&categories.cluster), cluster, "cluster");
    assert_eq!(indexes(&categories.local), local, "local");
    assert_eq!(categories.any, any, "any");
}

#[test]
fn b2_all_ready_endpoints_without_hints() {
    check(Some("a"), &["r", "r@", "n", "n@"], &[0, 1], &[1], true);
    check(None, &["r", "r"], &[0, 1], &[], true);
}

#[test]
fn b2_same_zone_if_all_are_hinted_and_one_is_for_it() {
    check(
        Some("a"),
        &["r za", "r zb", "r zc", "r za"],
        &[0, 3],
        &[],
        true,
    );
    check(
        Some("c"),
        &["r za zb zc", "r zb zc", "r zb zd", "r zc"],
        &[0, 1, 3],
        &[],
        true,
    );
}

#[test]
fn b2_zone_hints_are_ignored_if_one_is_missing() {
    check(
        Some("a"),
        &["r za", "r zb", "r", "r za"],
        &[0, 1, 2, 3],
        &[],
        true,
    );
}

#[test]
fn b2_zone_hints_are_ignored_if_none_is_for_it_or_it_is_unknown() {
    check(Some("b"), &["r za", "r zc"], &[0, 1], &[], true);
    check(None, &["r za", "r zb"], &[0, 1], &[], true);
}

#[test]
fn b2_hints_of_endpoints_that_are_not_ready_do_not_count() {
    check(Some("a"), &["r za", "r zb", "n"], &[0], &[], true);
    check(
        Some("a"),
        &["n za", "r zb", "r zc", "n za"],
        &[1, 2],
        &[],
        true,
    );
    check(Some("a"), &["t za", "r zb"], &[1], &[], true);
}

#[test]
fn b2_same_node_goes_before_same_zone() {
    check(Some("a"), &["r nhere zb", "r nthere za"], &[0], &[], true);
    check(Some("a"), &["r nthere zb", "r nthere za"], &[1], &[], true);
    check(
        Some("a"),
        &["r nhere za", "r za", "r zb"],
        &[0, 1],
        &[],
        true,
    );
    check(None, &["r nhere", "r nthere"], &[0], &[], true);
    check(None, &["r nhere", "r"], &[0, 1], &[], true);
}

#[test]
fn b2_falls_back_to_serving_and_terminating_without_topology() {
    check(
        Some("a"),
        &["t za", "t@ zb", "n za", "x za"],
        &[0, 1],
        &[1],
        true,
    );
    check(None, &["t", "r"], &[1], &[], true);
    check(None, &["R", "t"], &[0], &[], true);
}

#[test]
fn b3_local_list_ignores_topology() {
    check(
        Some("a"),
        &["r@ za", "r@ zb", "r zc", "r za"],
        &[0, 3],
        &[0, 1],
        true,
    );
    check(
        Some("a"),
        &["r@ za", "r@ zb", "r za", "r zb"],
        &[0, 2],
        &[0, 1],
        true,
    );
}

#[test]
fn b3_local_list_falls_back_to_terminating() {
    check(None, &["r", "n@", "t@", "t"], &[0], &[2], true);
    check(None, &["r@", "t@"], &[0], &[0], true);
    check(None, &["t@", "x@"], &[0], &[0], true);
}

#[test]
fn b5_remote_endpoints_are_some() {
    check(None, &["r", "r"], &[0, 1], &[], true);
    check(None, &["t", "t"], &[0, 1], &[], true);
}

#[test]
fn b5_nothing_that_could_serve_is_none() {
    check(None, &[], &[], &[], false);
    check(None, &["n", "n@", "x@"], &[], &[], false);
}
