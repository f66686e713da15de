use std::net::IpAddr;

use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
use proxy_common::addr::Family;

use super::*;

fn name(name: &str) -> ServiceName {
    ServiceName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(address: &str, port: u16) -> ClaimKey {
    ClaimKey {
        address: match address {
            "node" => FrontendAddress::Node(Family::V4),
            text => FrontendAddress::Ip(ip(text)),
        },
        port,
        protocol: Protocol::Tcp,
    }
}

fn set(
    claims: &mut Claims,
    service: &str,
    created: Option<i64>,
    of: &[(ClaimKey, FrontendKind)],
) -> Outcome {
    claims.set(&name(service), created, of.iter().copied().collect())
}

fn owner(claims: &Claims, key: ClaimKey) -> Option<&str> {
    claims.owner(&key).map(|c| c.service.name.as_str())
}

fn replanned(outcome: &Outcome) -> Vec<&str> {
    outcome.replan.iter().map(|n| n.name.as_str()).collect()
}

const VIP: &str = "203.0.113.10";

#[test]
fn s7_the_older_service_has_it() {
    let mut claims = Claims::default();
    let vip = key(VIP, 80);
    assert_eq!(
        set(&mut claims, "young", Some(20), &[(vip, ExternalIp)]),
        Outcome::default()
    );
    let outcome = set(&mut claims, "old", Some(10), &[(vip, LoadBalancer)]);
    assert_eq!(replanned(&outcome), ["young"]);
    assert_eq!(outcome.lost, [(name("young"), vip)]);
    assert_eq!(owner(&claims, vip), Some("old"));
    let rival = claims.rival(&vip, &name("young")).unwrap();
    assert_eq!(rival.service, name("old"));
    assert!(claims.rival(&vip, &name("old")).is_none());
}

#[test]
fn s7_same_age_is_decided_by_name_and_unknown_age_is_young() {
    let mut claims = Claims::default();
    let vip = key(VIP, 80);
    set(&mut claims, "b", None, &[(vip, ExternalIp)]);
    set(&mut claims, "a", None, &[(vip, ExternalIp)]);
    assert_eq!(owner(&claims, vip), Some("a"));
    set(&mut claims, "z", Some(5), &[(vip, ExternalIp)]);
    assert_eq!(owner(&claims, vip), Some("z"));
    set(&mut claims, "y", Some(5), &[(vip, ExternalIp)]);
    assert_eq!(owner(&claims, vip), Some("y"));
}

#[test]
fn s7_the_next_takes_over_at_once() {
    let mut claims = Claims::default();
    let vip = key(VIP, 80);
    set(&mut claims, "old", Some(10), &[(vip, ExternalIp)]);
    let outcome = set(&mut claims, "young", Some(20), &[(vip, ExternalIp)]);
    assert_eq!(outcome.lost, [(name("young"), vip)]);
    assert!(outcome.replan.is_empty());
    let outcome = set(&mut claims, "old", Some(10), &[]);
    assert_eq!(replanned(&outcome), ["young"]);
    assert!(outcome.lost.is_empty());
    assert_eq!(owner(&claims, vip), Some("young"));
}

#[test]
fn s7_other_ports_and_protocols_are_no_conflict() {
    let mut claims = Claims::default();
    let udp = ClaimKey {
        protocol: Protocol::Udp,
        ..key(VIP, 80)
    };
    set(&mut claims, "a", Some(1), &[(key(VIP, 80), LoadBalancer)]);
    let outcome = set(
        &mut claims,
        "b",
        Some(2),
        &[(key(VIP, 81), LoadBalancer), (udp, LoadBalancer)],
    );
    assert_eq!(outcome, Outcome::default());
}

#[test]
fn s7_a_cluster_ip_goes_before_older_external_ips() {
    let mut claims = Claims::default();
    let ip = key("10.96.0.10", 53);
    set(&mut claims, "thief", Some(1), &[(ip, ExternalIp)]);
    let outcome = set(&mut claims, "dns", Some(9), &[(ip, ClusterIp)]);
    assert_eq!(owner(&claims, ip), Some("dns"));
    assert_eq!(outcome.lost, [(name("thief"), ip)]);
}

#[test]
fn s7_node_ports_are_claimed_too() {
    let mut claims = Claims::default();
    set(&mut claims, "b", Some(2), &[(key("node", 30000), NodePort)]);
    let outcome = set(&mut claims, "a", Some(1), &[(key("node", 30000), NodePort)]);
    assert_eq!(replanned(&outcome), ["b"]);
}

#[test]
fn s7_on_a_node_address_the_node_port_of_another_goes_first() {
    let mut claims = Claims::default();
    let node = key("192.0.2.1", 30000);
    claims.set_node_addresses([ip("192.0.2.1")].into());
    set(&mut claims, "thief", Some(1), &[(node, ExternalIp)]);
    assert_eq!(owner(&claims, node), Some("thief"));
    let outcome = set(
        &mut claims,
        "web",
        Some(9),
        &[(key("node", 30000), NodePort)],
    );
    assert_eq!(replanned(&outcome), ["thief"]);
    assert_eq!(outcome.lost, [(name("thief"), node)]);
    assert_eq!(owner(&claims, node), None);
    assert_eq!(
        claims.rival(&node, &name("thief")).unwrap().service,
        name("web")
    );

    let outcome = set(&mut claims, "web", Some(9), &[]);
    assert_eq!(replanned(&outcome), ["thief"]);
    assert_eq!(owner(&claims, node), Some("thief"));
}

#[test]
fn s7_a_services_own_node_port_is_no_rival() {
    let mut claims = Claims::default();
    let node = key("192.0.2.1", 30000);
    claims.set_node_addresses([ip("192.0.2.1")].into());
    let both = [(node, ExternalIp), (key("node", 30000), NodePort)];
    let outcome = set(&mut claims, "web", Some(9), &both);
    assert_eq!(outcome, Outcome::default());
    // An older claim to the address alone loses all the same.
    set(&mut claims, "thief", Some(1), &[(node, ExternalIp)]);
    assert_eq!(owner(&claims, node), Some("web"));
}

#[test]
fn s7_node_addresses_come_and_go() {
    let mut claims = Claims::default();
    let node = key("192.0.2.1", 30000);
    set(
        &mut claims,
        "web",
        Some(9),
        &[(key("node", 30000), NodePort)],
    );
    set(&mut claims, "lb", Some(1), &[(node, ExternalIp)]);
    assert_eq!(owner(&claims, node), Some("lb"));
    let outcome = claims.set_node_addresses([ip("192.0.2.1"), ip("192.0.2.2")].into());
    assert_eq!(replanned(&outcome), ["lb"]);
    assert_eq!(outcome.lost, [(name("lb"), node)]);
    assert_eq!(
        claims.set_node_addresses([ip("192.0.2.1")].into()),
        Outcome::default()
    );
    let outcome = claims.set_node_addresses(BTreeSet::new());
    assert_eq!(replanned(&outcome), ["lb"]);
    assert!(outcome.lost.is_empty());
}

#[test]
fn the_same_again_changes_nothing() {
    let mut claims = Claims::default();
    set(&mut claims, "a", Some(1), &[(key(VIP, 80), LoadBalancer)]);
    set(&mut claims, "b", Some(2), &[(key(VIP, 80), LoadBalancer)]);
    let again = set(&mut claims, "b", Some(2), &[(key(VIP, 80), LoadBalancer)]);
    assert_eq!(again, Outcome::default());
    assert_eq!(claims.lost().count(), 1);
}

#[test]
fn each_of_many_losses_is_told_once() {
    let keys: Vec<_> = (1..=2_000)
        .map(|port| (key(VIP, port), ExternalIp))
        .collect();
    let lost = |service: &str| -> Vec<_> { keys.iter().map(|k| (name(service), k.0)).collect() };
    let mut claims = Claims::default();
    set(&mut claims, "a", Some(2), &keys);
    assert_eq!(set(&mut claims, "b", Some(1), &keys).lost, lost("a"));
    assert_eq!(set(&mut claims, "b", Some(9), &keys).lost, lost("b"));
    assert_eq!(set(&mut claims, "c", Some(5), &keys).lost, lost("c"));
}
