//! Known differences between a subject and the rules, with the reason for the rule. An unlisted difference
//! fails the run, and so does a listed one that should always occur and does not.

use crate::subject::Subject;

/// A known difference.
#[derive(Debug)]
pub struct Difference {
    /// The case's name.
    pub case: &'static str,
    /// Who differs.
    pub subjects: &'static [Subject],
    /// What they do, and why the rule is right.
    pub reason: &'static str,
}

const KUBE_PROXY: &[Subject] = &[Subject::Iptables, Subject::Nftables];
const NFTABLES: &[Subject] = &[Subject::Nftables];

/// Those that occur in every run.
pub const ALWAYS: &[Difference] = &[
    Difference {
        case: "cluster-ip-not-from-outside",
        subjects: KUBE_PROXY,
        reason: "kube-proxy forwards what any host sends to a ClusterIP through a node. A ClusterIP is meant for the cluster; \
                 who wants it reachable from outside says so (`--external-cluster-ip`).",
    },
    Difference {
        case: "external-cluster-shows-the-client-here",
        subjects: KUBE_PROXY,
        reason: "kube-proxy masquerades all that comes from outside by externalTrafficPolicy Cluster. Where the pod is on the node \
                 that was asked, the answer leaves through it anyway, so the pod may see its client. (`--masquerade-local` shows it the \
                 node, too.)",
    },
    Difference {
        case: "hairpin-is-seen-from-the-service",
        subjects: KUBE_PROXY,
        reason: "kube-proxy masquerades a pod that reaches itself with an address of the node. Any address that leads back will do; \
                 the Service's own tells the pod by which way the request came, and none of the node's ports is used up.",
    },
    Difference {
        case: "source-ranges-of-one-family",
        subjects: KUBE_PROXY,
        reason: "kube-proxy lets everybody in over a family of which no range is given. Who lists ranges means to let in those \
                 alone; a dual-stack Service must not be open to the world by the family that was forgotten.",
    },
    Difference {
        case: "node-port-on-the-ipv6-loopback-of-nodes",
        subjects: KUBE_PROXY,
        reason: "The kernel routes nothing from ::1 to another host, so kube-proxy cannot serve it. A socket that is translated when \
                 it connects never has that address.",
    },
    Difference {
        case: "node-port-on-the-loopback-of-nodes",
        subjects: NFTABLES,
        reason: "kube-proxy gave this up with nftables (KEP-3866), since it needs `route_localnet`, which opens the loopback to the \
                 network. A socket that is translated when it connects needs no such route.",
    },
    Difference {
        case: "node-port-on-all-addresses-of-a-node",
        subjects: NFTABLES,
        reason: "In nftables mode kube-proxy's default is the node's primary addresses, in iptables mode it is all. Ours is all, since \
                 clusters that come from iptables mode count on it (`--nodeport-addresses=primary` gives the other).",
    },
    Difference {
        case: "external-ip-does-not-take-a-nodes-own-traffic",
        subjects: KUBE_PROXY,
        reason: "Whoever may write a Service can take a port of a node from the process that listens on it, by naming the node's \
                 address as an external IP (CVE-2020-8554). Ours leaves such a port to its listener.",
    },
];

/// Those that come and go: races of a subject's own.
pub const SOMETIMES: &[Difference] = &[
    Difference {
        case: "udp-flow-moves-with-the-service",
        subjects: KUBE_PROXY,
        reason: "Not in every run: kube-proxy clears conntrack's entries of a removed endpoint after it has written its rules. Where \
                 that misses one, a client that goes on sending renews it for ever. A flow that knows its backend needs no clearing.",
    },
    Difference {
        case: "external-ip-of-two-services",
        subjects: KUBE_PROXY,
        reason: "Not in every run: kube-proxy knows no order among Services that claim one address, so which has it may change whenever \
                 it writes its rules. That the older one keeps it can be relied on.",
    },
];

/// Why a subject does not pass a case, if that is known.
pub fn reason(case: &str, subject: Subject) -> Option<&'static str> {
    find(ALWAYS, case, subject).or_else(|| find(SOMETIMES, case, subject))
}

/// Whether a subject is known to pass a case never.
pub fn is_certain(case: &str, subject: Subject) -> bool {
    find(ALWAYS, case, subject).is_some()
}

fn find(among: &[Difference], case: &str, subject: Subject) -> Option<&'static str> {
    let found = among
        .iter()
        .find(|difference| difference.case == case && difference.subjects.contains(&subject));
    found.map(|difference| difference.reason)
}
