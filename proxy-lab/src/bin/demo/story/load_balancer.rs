//! 03: an address that the network brings to a node.

use proxy_lab::protocol::Identity;
use proxy_lab::{Family, Result, TcpRequest};

use super::evidence::{address, addresses, all_answered, clients, failures, servers};
use super::{GRAFANA, NAME};
use crate::terminal::{Terminal, say};
use crate::world::Stage;

pub fn tell(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    let (v4, v6) = (address(GRAFANA.0), address(GRAFANA.1));
    terminal.part(&format!("03  LoadBalancer: Grafana, {v4} → 3000"));
    let pods = stage.world.pods(&[(NAME, "grafana")])?;
    let lab = stage.lab();
    let workstation = lab.workstation();
    let outside = workstation.ip(Family::V4);
    say("the workstation opens Grafana; the network brings the address to worker-1:");
    let exchanges = workstation.tcp_all(TcpRequest::to(v4).times(5))?;
    let answer = exchanges
        .iter()
        .find_map(|exchange| exchange.outcome.as_ref().ok());
    let target = answer.map_or_else(
        || "nobody".to_owned(),
        |identity: &Identity| format!("{}, {}", identity.server, identity.local),
    );
    let fine = all_answered(&exchanges)
        && servers(&exchanges).keys().eq(pods.iter())
        && answer.is_some_and(|identity| identity.local.port() == 3000);
    terminal.observe(
        fine,
        &format!(
            "http://{}/ is answered by {target}{}",
            v4.ip(),
            failures(&exchanges)
        ),
    );
    terminal.observe(
        clients(&exchanges) == [outside].into(),
        &format!(
            "Grafana sees who asks, {} (externalTrafficPolicy: Local)",
            addresses(&clients(&exchanges))
        ),
    );
    let exchanges = workstation.tcp_all(TcpRequest::to(v6).times(5))?;
    terminal.observe(
        all_answered(&exchanges),
        &format!("the same over IPv6, {v6}{}", failures(&exchanges)),
    );
    let exchange = lab.pod("notebook").tcp(v4)?;
    terminal.observe(
        exchange.server() == pods.first().map(String::as_str),
        &format!("pods reach it at {v4} too{}", failures(&[exchange])),
    );
    Ok(())
}
