//! The objects that measurements need.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use proxy_lab::objects::{Endpoint, Service, Slice};
use proxy_lab::{
    Agent, AgentOptions, ControlPlane, ControlPlaneOptions, Family, Identity, Lab, Protocol, Result,
};
use serde_json::{Value, json};

/// The node that is measured, and the one that serves.
pub const NODE: &str = "worker-1";
const OTHER: &str = "worker-2";
/// The pods that serve.
pub const SERVERS: [&str; 4] = ["b1", "b2", "b3", "b4"];
/// Where they listen.
pub const PORT: u16 = 8080;

/// A client on the measured node, four servers on the other.
pub fn lab(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label)
        .node(NODE)
        .node(OTHER)
        .pods(NODE, ["client"])
        .pods(OTHER, SERVERS)
        .up()?;
    for name in SERVERS {
        lab.pod(name).serve(PORT)?;
    }
    Ok(lab)
}

/// A control plane in which `EndpointSlices` are ours alone.
pub fn control_plane(lab: &Lab) -> Result<&ControlPlane> {
    lab.start_control_plane(&ControlPlaneOptions::default().without_controllers())
}

/// An agent on the measured node.
pub fn agent(lab: &Lab, cluster: &ControlPlane) -> Result<(Agent, Duration)> {
    let options = AgentOptions::kube(&cluster.kubeconfig(&Identity::KubeProxy)?);
    let start = Instant::now();
    let agent = lab
        .node(NODE)
        .spawn_agent(&options.ready_within(Duration::from_mins(5)))?;
    Ok((agent, start.elapsed()))
}

/// IPv4 Services `NAME-0`, `NAME-1`… with these endpoints each; their addresses are the API server's choice.
pub fn create(
    cluster: &ControlPlane,
    lab: &Lab,
    name: &str,
    count: usize,
    servers: &[&str],
) -> Result<Duration> {
    let start = Instant::now();
    let services = (0..count).map(|number| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("{name}-{number}"), "namespace": "default"},
            "spec": {"ports": [{"name": "tcp", "port": 80, "targetPort": PORT}]},
        })
    });
    cluster.api().create_all(services)?;
    cluster
        .api()
        .create_all((0..count).map(|number| slice(lab, name, number, servers)))?;
    Ok(start.elapsed())
}

/// The slice of one of them.
pub fn slice(lab: &Lab, name: &str, number: usize, servers: &[&str]) -> Slice {
    let slice = Service::new(&format!("{name}-{number}"))
        .port("tcp", Protocol::Tcp, 80)
        .slice(Family::V4, PORT);
    let endpoints = servers
        .iter()
        .map(|&server| Endpoint::of(lab.pod(server), Family::V4));
    endpoints.fold(slice, Slice::endpoint)
}

/// Where one of them is reached.
pub fn address(cluster: &ControlPlane, name: &str, number: usize) -> Result<SocketAddr> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("{name}-{number}"), "namespace": "default"},
    });
    let found = cluster.api().get(service)?.unwrap_or(Value::Null);
    let ip: Option<IpAddr> = found["spec"]["clusterIP"]
        .as_str()
        .and_then(|text| text.parse().ok());
    Ok(SocketAddr::new(
        ip.expect("the API server has given it an address"),
        80,
    ))
}
