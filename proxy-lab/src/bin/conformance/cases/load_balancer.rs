//! LoadBalancer IPs.

use serde_json::{Value, json};

use crate::case::{Case, Outcome};
use crate::ground::{Ground, PORT, Service, TARGET, Way};

pub const CASES: &[Case] = &[Case::new(
    "S1",
    "load-balancer-ip-from-everywhere",
    &["should serve the same port and different protocols on a LoadBalancer"],
    from_everywhere,
)];

/// A Service of the type LoadBalancer, whose first LoadBalancer IP is a cloud's.
fn balanced(
    ground: &Ground<'_>,
    spec: &Value,
    ip: std::net::Ipv4Addr,
) -> proxy_lab::Result<Service> {
    let mut all = json!({"type": "LoadBalancer"});
    for (name, value) in spec.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    let service = ground.service("web", &all)?;
    ground.set_ingress(&service, &json!([{"ip": ip}]))?;
    ground.get_service("web")
}

/// One port for TCP, then for both protocols.
fn from_everywhere(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let ip = ground.load_balancer_ip().v4;
    let tcp = json!({"ports": [{"name": "tcp", "port": PORT, "targetPort": TARGET}]});
    let service = balanced(ground, &tcp, ip)?;
    let to = (ip, PORT).into();
    ground.served_by([Way::tcp(ground.outside(), to)], [&a.name, &b.name])?;
    let ports = json!([
        {"name": "tcp", "port": PORT, "targetPort": TARGET},
        {"name": "udp", "port": PORT, "targetPort": TARGET, "protocol": "UDP"},
    ]);
    ground.change_service(&service, &json!({"ports": ports}))?;
    for client in [ground.outside(), ground.client(), ground.node("worker-2")] {
        ground.served_by(Way::both(client, to), [&a.name, &b.name])?;
    }
    Ok(())
}
