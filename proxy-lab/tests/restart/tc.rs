//! What is on the two sides of a device: ours by tcx, ours by filters, and filters of others.

use proxy_agent::dataplane::sys::link::{self, AttachType};
use proxy_lab::Result;

use crate::cluster::Cluster;

/// The sides, as `tc` calls them.
pub const SIDES: [(&str, AttachType); 2] = [
    ("ingress", AttachType::TcxIngress),
    ("egress", AttachType::TcxEgress),
];

/// What is on one side of a device of worker-1.
#[derive(Debug, PartialEq)]
pub struct Attached {
    /// Programs in the tcx chain.
    pub links: usize,
    /// Our filters.
    pub ours: Vec<Ours>,
    /// How many filters come before ours, or are there without it.
    pub before: usize,
    /// How many come behind.
    pub behind: usize,
}

/// A filter of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Ours {
    pub priority: u64,
    pub name: String,
    /// Id of its program.
    pub program: u64,
}

impl Attached {
    pub fn of(cluster: &Cluster, device: &str, side: (&str, AttachType)) -> Result<Self> {
        let node = cluster.lab.node("worker-1");
        let ifindex = cluster.ifindex("worker-1", device)?;
        let chain = node.netns().run(|| Ok(link::tcx_chain(ifindex, side.1)))?;
        let text = node.exec(["tc", "-json", "filter", "show", "dev", device, side.0])?;
        let listed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let mut attached = Self {
            links: chain.expect("can be asked for").len(),
            ours: Vec::new(),
            before: 0,
            behind: 0,
        };
        for filter in listed.as_array().expect("a list") {
            let options = &filter["options"];
            let name = options["bpf_name"].as_str().unwrap_or_default();
            if let Some(name) = name.strip_prefix("kube-proxy-ebpf/") {
                attached.ours.push(Ours {
                    priority: filter["pref"].as_u64().expect("a number"),
                    name: name.to_owned(),
                    program: options["prog"]["id"].as_u64().expect("a number"),
                });
            } else if options["bytecode"].is_null() {
                // The head of a list.
            } else if attached.ours.is_empty() {
                attached.before += 1;
            } else {
                attached.behind += 1;
            }
        }
        Ok(attached)
    }

    pub fn has_qdisc(cluster: &Cluster, device: &str) -> Result<bool> {
        let node = cluster.lab.node("worker-1");
        let text = node.exec(["tc", "qdisc", "show", "dev", device])?;
        Ok(text.contains("clsact"))
    }
}

/// A program that lets everything go on: `return TC_ACT_UNSPEC`.
pub const PROGRAM: &[&str] = &["bpf", "direct-action", "bytecode", "1,6 0 0 4294967295,"];
/// A filter of another kind, for a protocol that nobody speaks.
pub const OTHER_KIND: &[&str] = &[
    "protocol", "ip", "u32", "match", "ip", "protocol", "254", "0xff",
];

/// Adds a filter of another's.
pub fn add_other(
    cluster: &Cluster,
    device: &str,
    side: &str,
    priority: u16,
    filter: &[&str],
) -> Result<()> {
    let node = cluster.lab.node("worker-1");
    // It may have one already.
    let _ = node.exec(["tc", "qdisc", "add", "dev", device, "clsact"]);
    let priority = priority.to_string();
    let words = ["tc", "filter", "add", "dev", device, side, "prio"];
    let words = words.into_iter().chain([&*priority]);
    let words = words.chain(filter.iter().copied());
    node.exec(words).map(drop)
}
