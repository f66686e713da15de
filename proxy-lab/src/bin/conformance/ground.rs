//! The environment of a case: the lab, its control plane, a subject on every node, and the case's own
//! namespace.

mod objects;
mod settled;
mod slices;
mod traffic;

use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::time::Duration;

use proxy_lab::address::{self, Pair};
use proxy_lab::control_plane::Api;
use proxy_lab::{
    ControlPlane, ControlPlaneOptions, Family, Host, Lab, LabError, Node, Result, eventually,
};
use serde_json::json;

use crate::case::{Failure, Outcome};
use crate::subject::Subject;
pub use objects::{PORT, Server, Service, TARGET};
pub use settled::BEACON;
pub use traffic::{Answers, Way};

/// Until a change is in use, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
/// The same where it is known that it will not be.
const LITTLE_PATIENCE: Duration = Duration::from_secs(8);

/// The nodes that pods run on, with their zones. The control plane's node is in the first zone.
pub const WORKERS: [(&str, &str); 2] = [("worker-1", "zone-a"), ("worker-2", "zone-b")];

/// The lab of a run: a control plane, two workers, and on each a pod that only asks.
pub fn lab() -> Result<Lab> {
    let lab = Lab::builder("judge")
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["client-1", BEACON])
        .pods("worker-2", ["client-2"])
        .up()?;
    lab.pod(BEACON).serve(TARGET)?;
    // Turn off the ICMP rate limit. Cases run at once and share clients, and kube-proxy refuses with
    // ICMP errors from the node's kernel, which sends each client one per second.
    for node in lab.nodes() {
        node.sysctl([
            ("net.ipv4.icmp_ratelimit", "0"),
            ("net.ipv6.icmp.ratelimit", "0"),
        ])?;
    }
    Ok(lab)
}

/// Its control plane.
pub fn control_plane(lab: &Lab) -> Result<&ControlPlane> {
    let options = ControlPlaneOptions::default().zone("control-plane", WORKERS[0].1);
    let options = WORKERS
        .iter()
        .fold(options, |options, (node, zone)| options.zone(node, zone));
    lab.start_control_plane(&options)
}

/// Allocates cluster-wide numbers to cases that run at the same time.
#[derive(Debug)]
pub struct Numbers {
    spaces: AtomicU16,
    addresses: AtomicU8,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            spaces: AtomicU16::new(1),
            addresses: AtomicU8::new(1),
        }
    }
}

impl Numbers {
    /// The next namespace.
    fn space(&self) -> u16 {
        self.spaces.fetch_add(1, Ordering::Relaxed)
    }

    /// 1 to 250, then again: cases that old are over.
    fn address(&self) -> u8 {
        self.addresses.fetch_add(1, Ordering::Relaxed) % 250 + 1
    }
}

/// Kills a subject's processes and starts them again.
pub type Restart<'a> = &'a (dyn Fn() -> Result<()> + Sync);

/// What a case stands on.
pub struct Ground<'a> {
    /// Hosts.
    pub lab: &'a Lab,
    /// The API server and its helpers.
    pub cluster: &'a ControlPlane,
    /// Who is judged.
    pub subject: Subject,
    restart: Restart<'a>,
    /// The case's own namespace.
    pub space: String,
    numbers: &'a Numbers,
    patience: Duration,
}

impl<'a> Ground<'a> {
    /// With a new namespace. `in_vain`: the case is known not to pass.
    pub fn new(
        lab: &'a Lab,
        cluster: &'a ControlPlane,
        (subject, restart): (Subject, Restart<'a>),
        numbers: &'a Numbers,
        in_vain: bool,
    ) -> Result<Self> {
        let space = format!("case-{}", numbers.space());
        cluster.api().put(namespace(&space))?;
        Ok(Self {
            lab,
            cluster,
            subject,
            restart,
            space,
            numbers,
            patience: if in_vain { LITTLE_PATIENCE } else { PATIENCE },
        })
    }

    /// Requests to the API server.
    pub fn api(&self) -> &'a Api {
        self.cluster.api()
    }

    /// A pod on the first worker that only asks.
    pub fn client(&self) -> &'a Host {
        self.lab.pod("client-1")
    }

    /// One on the second.
    pub fn far_client(&self) -> &'a Host {
        self.lab.pod("client-2")
    }

    /// A node.
    pub fn node(&self, name: &str) -> &'a Node {
        self.lab.node(name)
    }

    /// The client outside of the cluster.
    pub fn outside(&self) -> &'a Host {
        self.lab.workstation()
    }

    /// A LoadBalancer IP that is this case's own.
    pub fn load_balancer_ip(&self) -> Pair {
        address::load_balancer(self.numbers.address())
    }

    /// An external IP that is this case's own.
    pub fn external_ip(&self) -> Pair {
        address::external_ip(self.numbers.address())
    }

    /// Waits until the subject has done something, as long as it may take a change to be in use.
    pub fn eventually(&self, what: &str, ask: impl FnMut() -> Result<bool>) -> Outcome {
        match eventually(what, self.patience, ask) {
            Err(late @ LabError::NotInTime { .. }) => Err(Failure::differs(late.chain())),
            other => Ok(other.map(drop)?),
        }
    }

    /// Kills the subject on all nodes and starts it again; what it programmed stays. For cases that run alone.
    pub fn restart_proxies(&self) -> Result<()> {
        (self.restart)()
    }

    /// Removes what the case made: Services and pods at once, the rest with its namespace, in the background.
    pub fn clear(&self) -> Result<()> {
        self.delete_objects()?;
        self.api().delete(namespace(&self.space))
    }
}

/// Waits until the control plane has done its part.
fn until_prepared(what: &str, ask: impl FnMut() -> Result<bool>) -> Result<()> {
    eventually(what, PATIENCE, ask).map(drop)
}

/// Waits until no case's namespace is left.
pub fn wait_until_cleared(cluster: &ControlPlane) -> Result<()> {
    eventually(
        "all namespaces of cases are gone",
        Duration::from_mins(2),
        || {
            let names = cluster.kubectl(["get", "namespaces", "-o", "name"])?;
            Ok(!names.contains("/case-"))
        },
    )
    .map(drop)
}

/// The family's name in the API.
pub fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn namespace(name: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}
