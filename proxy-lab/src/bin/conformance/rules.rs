//! The rules of a Service, in short. `docs/conformance.md` has them as its headings.

/// A rule's number and what it is about.
pub const ALL: &[(&str, &str)] = &[
    (
        "S1",
        "frontends: each address, port and protocol of a Service",
    ),
    (
        "S2",
        "what is no Service of this proxy's, and changes between kinds in place",
    ),
    ("S3", "LoadBalancer IPs that the balancer keeps (ipMode)"),
    ("S4", "node ports: on which addresses"),
    ("S5", "endpoints from all slices; ports by name"),
    ("S6", "ClusterIPs are for nodes and pods of the cluster"),
    ("S7", "two that claim one address; external IPs"),
    ("B1", "conditions of endpoints"),
    (
        "B2",
        "endpoints of the cluster: topology, and those that terminate",
    ),
    ("B3", "endpoints of this node, and those that terminate"),
    ("B4", "internalTrafficPolicy and externalTrafficPolicy"),
    (
        "B5",
        "no endpoint: refused; none that the policy allows: dropped",
    ),
    ("B6", "no moment of a change without service"),
    ("L1", "choosing: each new connection by chance"),
    ("L2", "session affinity"),
    ("L3", "established connections stay; UDP follows the living"),
    ("L4", "endpoints that terminate"),
    ("L5", "a pod that reaches itself through its Service"),
    ("L6", "UDP sockets that are used again"),
    ("A1", "source addresses inside the cluster"),
    ("A2", "source addresses from outside"),
    ("A3", "loadBalancerSourceRanges"),
    ("H1", "health checks of Services for balancers"),
    ("H2", "the proxy's own health"),
    ("H3", "metrics"),
    (
        "P1",
        "both directions are translated, for a connection's whole life",
    ),
    ("P2", "ICMP errors"),
    ("P3", "fragments"),
    ("P4", "what is not ours passes untouched"),
];
