//! The tests for service proxies in Kubernetes' own end-to-end suite (sig-network, `test/e2e/network`), by
//! file. Each is covered by a case here that names it, or has a reason why it is not.

/// A test of the Kubernetes suite.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// Its name, in their words.
    pub name: &'static str,
    /// It belongs to Kubernetes' conformance.
    pub conformance: bool,
    /// Why there is no case for it.
    pub without: Option<&'static str>,
}

impl Test {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            conformance: false,
            without: None,
        }
    }

    const fn conformance(name: &'static str) -> Self {
        Self {
            conformance: true,
            ..Self::new(name)
        }
    }

    const fn without(name: &'static str, reason: &'static str) -> Self {
        Self {
            without: Some(reason),
            ..Self::new(name)
        }
    }
}

/// The API server's own validation or bookkeeping.
const API: &str = "the API server's own work: the same with any proxy";
/// Another component's work.
const CNI: &str = "the network plugin's own work: no Service is involved";
const CLOUD: &str = "needs a cloud's load balancer";
/// The lab's servers speak TCP and UDP.
const SCTP: &str = "needs SCTP sockets, which the lab's kernels need not have (`CONFIG_IP_SCTP`): \
    `proxy-lab/tests/sctp` plays associations with frames, over the same paths";
const SCTP_OF_NODE: &str = "upstream skips it (kubernetes #96482); hooks on sockets do not see SCTP, and ours translates none \
    of the node's own processes";

/// All of them, by file.
pub const FILES: &[(&str, &[Test])] = &[
    ("service.go", SERVICE),
    ("networking.go", NETWORKING),
    ("conntrack.go", CONNTRACK),
    ("kube_proxy.go", KUBE_PROXY),
    ("traffic_distribution.go", TRAFFIC_DISTRIBUTION),
    (
        "topology_hints.go",
        &[Test::new("should distribute endpoints evenly")],
    ),
    ("dual_stack.go", DUAL_STACK),
    ("loadbalancer.go", LOAD_BALANCER),
    ("endpointslice.go", ENDPOINT_SLICE),
    ("other files", OTHERS),
];

/// Each test with its file.
pub fn all() -> impl Iterator<Item = (&'static str, &'static Test)> {
    FILES
        .iter()
        .flat_map(|(file, tests)| tests.iter().map(move |test| (*file, test)))
}

const SERVICE: &[Test] = &[
    Test::conformance("should provide secure master service"),
    Test::conformance("should serve a basic endpoint from pods"),
    Test::conformance("should serve multiport endpoints from pods"),
    Test::new("should be updated after adding or deleting ports"),
    Test::new("should preserve source pod IP for traffic thru service cluster IP"),
    Test::new("should allow pods to hairpin back to themselves through services"),
    Test::new("should be able to up and down services"),
    Test::new("should work after the service has been recreated"),
    Test::new("should work after restarting kube-proxy"),
    Test::new("should work after restarting apiserver"),
    Test::conformance("should be able to create a functioning NodePort service"),
    Test::new(
        "should be possible to connect to a service via ExternalIP when the external IP is not assigned to a node",
    ),
    Test::new(
        "should be able to update service type to NodePort listening on same port number but different protocols",
    ),
    Test::conformance("should be able to change the type from ExternalName to ClusterIP"),
    Test::conformance("should be able to change the type from ExternalName to NodePort"),
    Test::conformance("should be able to change the type from ClusterIP to ExternalName"),
    Test::conformance("should be able to change the type from NodePort to ExternalName"),
    Test::without("should prevent NodePort collisions", API),
    Test::without("should check NodePort out-of-range", API),
    Test::new("should release NodePorts on delete"),
    Test::new("should create endpoints for unready pods"),
    Test::new(
        "should be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is true",
    ),
    Test::new(
        "should not be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is false",
    ),
    Test::conformance("should have session affinity work for service with type clusterIP"),
    Test::new("should have session affinity timeout work for service with type clusterIP"),
    Test::conformance("should be able to switch session affinity for service with type clusterIP"),
    Test::conformance("should have session affinity work for NodePort service"),
    Test::new("should have session affinity timeout work for NodePort service"),
    Test::conformance("should be able to switch session affinity for NodePort service"),
    Test::new("should implement service.kubernetes.io/service-proxy-name"),
    Test::new("should implement service.kubernetes.io/headless"),
    Test::new("should be rejected when no endpoints exist"),
    Test::new("should be rejected for evicted pods (no endpoints exist)"),
    Test::new("should respect internalTrafficPolicy=Local Pod to Pod"),
    Test::new("should respect internalTrafficPolicy=Local Pod to Pod (hostNetwork: true)"),
    Test::new("should respect internalTrafficPolicy=Local Pod (hostNetwork: true) to Pod"),
    Test::new("should fail health check node port if there are only terminating endpoints"),
    Test::new(
        "should fallback to terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Cluster",
    ),
    Test::new(
        "should fallback to local terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Local",
    ),
    Test::new(
        "should fallback to terminating endpoints when there are no ready endpoints with externalTrafficPolicy=Cluster",
    ),
    Test::new(
        "should fallback to local terminating endpoints when there are no ready endpoints with externalTrafficPolicy=Local",
    ),
    Test {
        without: Some(API),
        ..Test::conformance("should find a service from listing all namespaces")
    },
    Test::conformance("should test the lifecycle of an Endpoint"),
    Test::conformance("should complete a service status lifecycle"),
    Test::conformance("should delete a collection of services"),
    Test::conformance("should serve endpoints on same port and different protocols"),
    Test::new("should serve the same port and different protocols on a LoadBalancer"),
    Test::without(
        "should allow creating a basic SCTP service with pod and endpoints",
        API,
    ),
];

const NETWORKING: &[Test] = &[
    Test::new("should function for pod-Service: http"),
    Test::new("should function for pod-Service: udp"),
    Test::without("should function for pod-Service: sctp", SCTP),
    Test::new("should function for node-Service: http"),
    Test::new("should function for node-Service: udp"),
    Test::without("should function for node-Service: sctp", SCTP_OF_NODE),
    Test::new("should function for endpoint-Service: http"),
    Test::new("should function for endpoint-Service: udp"),
    Test::without("should function for endpoint-Service: sctp", SCTP),
    Test::new("should function for multiple endpoint-Services with same selector"),
    Test::new("should update endpoints: http"),
    Test::new("should update endpoints: udp"),
    Test::new("should update nodePort: http"),
    Test::new("should update nodePort: udp"),
    Test::new("should support basic nodePort: udp functionality"),
    Test::new("should function for client IP based session affinity: http"),
    Test::new("should function for client IP based session affinity: udp"),
    Test::new("should be able to handle large requests: http"),
    Test::new("should be able to handle large requests: udp"),
    Test::new("should function for service endpoints using hostNetwork"),
    Test::new("should check kube-proxy urls"),
    Test::without(
        "should recreate its iptables rules if they are deleted",
        "iptables' own: others write rules into the same chains; nobody else writes into our maps",
    ),
];

const CONNTRACK: &[Test] = &[
    Test::new(
        "should be able to preserve UDP traffic when server pod cycles for a NodePort service",
    ),
    Test::new(
        "should be able to preserve UDP traffic when server pod cycles for a ClusterIP service",
    ),
    Test::new("should be able to preserve UDP traffic when initial unready endpoints get ready"),
    Test::new(
        "should be able to preserve UDP traffic when server pod cycles for a NodePort service (hostNetwork)",
    ),
    Test::without(
        "should drop INVALID conntrack entries",
        "a guard against what conntrack does when it takes a backend's packet for invalid and sends it on untranslated; \
         translation without conntrack has no such state",
    ),
];

const KUBE_PROXY: &[Test] = &[
    Test::without(
        "should set TCP CLOSE_WAIT timeout",
        "a sysctl of conntrack, which is not used; how long flows are kept is tested beside the datapath",
    ),
    Test::without(
        "should update metric for tracking accepted packets destined for localhost nodeports",
        "counts packets by an nfacct object of iptables; a socket that is translated has no packets to count",
    ),
];

const TRAFFIC_DISTRIBUTION: &[Test] = &[
    Test::new("should route traffic to an endpoint in the same zone when using PreferClose"),
    Test::new(
        "should route traffic correctly between pods on multiple nodes when using PreferClose",
    ),
    Test::new("should route traffic to an endpoint in the same zone when using PreferSameZone"),
    Test::new(
        "should route traffic correctly between pods on multiple nodes when using PreferSameZone",
    ),
    Test::new(
        "should route traffic to an endpoint on the same node or fall back to same zone when using PreferSameNode",
    ),
    Test::new(
        "should route traffic to an endpoint on the same node when using PreferSameNode and fall back when the endpoint \
         becomes unavailable",
    ),
];

const DUAL_STACK: &[Test] = &[
    Test::without("should have ipv4 and ipv6 internal node ip", API),
    Test::without("should create pod, add ipv6 and ipv4 ip to pod ips", CNI),
    Test::without("should be able to reach pod on ipv4 and ipv6 ip", CNI),
    Test::new("should create service with ipv4 cluster ip"),
    Test::new("should create service with ipv6 cluster ip"),
    Test::new("should create service with ipv4,v6 cluster ip"),
    Test::new("should create service with ipv6,v4 cluster ip"),
    Test::new("should function for pod-Service and node-Service over both families: http"),
    Test::new("should function for pod-Service and node-Service over both families: udp"),
];

const LOAD_BALANCER: &[Test] = &[
    Test::new("should be able to change the type and ports of a TCP service"),
    Test::new("should be able to change the type and ports of a UDP service"),
    Test::new("should only allow access from service loadbalancer source ranges"),
    Test::new(
        "should have session affinity work for LoadBalancer service with Local traffic policy",
    ),
    Test::new(
        "should be able to switch session affinity for LoadBalancer service with Local traffic policy",
    ),
    Test::new(
        "should have session affinity work for LoadBalancer service with Cluster traffic policy",
    ),
    Test::new(
        "should be able to switch session affinity for LoadBalancer service with Cluster traffic policy",
    ),
    Test::new("should be able to create LoadBalancer Service without NodePort and change it"),
    Test::new(
        "should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service",
    ),
    Test::new("should work for type=LoadBalancer (externalTrafficPolicy: Local)"),
    Test::new("should work for type=NodePort (externalTrafficPolicy: Local)"),
    Test::new("should only target nodes with endpoints (externalTrafficPolicy: Local)"),
    Test::new("should work from pods (externalTrafficPolicy: Local)"),
    Test::new("should handle updates to ExternalTrafficPolicy field"),
    Test::without(
        "should not have connectivity disruption during rolling update with externalTrafficPolicy=Cluster",
        CLOUD,
    ),
    Test::without(
        "should handle load balancer cleanup finalizer for service",
        CLOUD,
    ),
];

const ENDPOINT_SLICE: &[Test] = &[
    Test::without(
        "should have Endpoints and EndpointSlices pointing to API Server",
        API,
    ),
    Test::without(
        "should create and delete Endpoints and EndpointSlices for a Service with a selector specified",
        API,
    ),
    Test::new("should create Endpoints and EndpointSlices for Pods matching a Service"),
    Test::new("should support a Service with multiple ports specified in multiple EndpointSlices"),
    Test::new(
        "should support a Service with multiple endpoint IPs specified in multiple EndpointSlices",
    ),
];

const OTHERS: &[Test] = &[
    Test::new(
        "endpointslicemirroring.go: should mirror a custom Endpoints resource through create update and delete",
    ),
    Test::without(
        "service_latency.go: endpoints latency should not be very high",
        "a measurement: `cargo xtask bench api-latency` has it, beside kube-proxy",
    ),
    Test::without(
        "service_cidrs.go: should create Services and serve on different Service CIDRs",
        API,
    ),
    Test::without(
        "proxy.go: should proxy through a service and a pod",
        "the API server's own proxy for HTTP, which goes to pods and not through Services",
    ),
    Test::without(
        "hostport.go: validates that there is no conflict between pods with same hostPort",
        CNI,
    ),
    Test::without(
        "no_snat.go: should be able to send traffic between Pods without SNAT",
        CNI,
    ),
    Test::without(
        "funny_ips.go: IPv4 Service Type ClusterIP with leading zeros should work interpreted as decimal",
        "gone with Kubernetes 1.36, whose API server refuses such addresses; older ones are read as kube-proxy reads them, \
         by unit tests",
    ),
    Test::new(
        "localhost_nodeports: should accept connections to node ports on the loopback address",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cases;

    #[test]
    fn each_test_of_theirs_has_one_name_and_not_both_a_case_and_a_reason() {
        let names: BTreeSet<_> = all().map(|(_, test)| test.name).collect();
        assert_eq!(names.len(), all().count(), "a name is there twice");
        let covered: BTreeSet<_> = cases::all()
            .flat_map(|case| case.upstream)
            .copied()
            .collect();
        let unknown: Vec<_> = covered.difference(&names).collect();
        assert!(
            unknown.is_empty(),
            "cases name tests that are not listed: {unknown:?}"
        );
        let both: Vec<_> = all()
            .filter(|(_, test)| test.without.is_some() && covered.contains(test.name))
            .collect();
        assert!(
            both.is_empty(),
            "a case and a reason to have none: {both:?}"
        );
    }
}
