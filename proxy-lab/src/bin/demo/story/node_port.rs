//! 02: a port of every node.

use proxy_lab::{Family, Result, TcpRequest};

use super::evidence::{address, addresses, all_answered, clients, failures, servers};
use super::{NAME, NODE_PORT};
use crate::terminal::{Terminal, say};
use crate::world::{NODES, Stage};

pub fn tell(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    terminal.part(&format!("02  NodePort: Triton, {NODE_PORT} on every node"));
    let pods = stage.world.pods(&[(NAME, "triton")])?;
    let pod = pods.first().map_or("", String::as_str);
    let home = stage.world.place(pod).map(|place| place.node);
    let home = home.unwrap_or_default();
    let lab = stage.lab();
    let workstation = lab.workstation();
    let outside = workstation.ip(Family::V4);
    say(&format!(
        "the workstation ({outside}, outside of the cluster) asks each node; {pod} is on {home}:"
    ));
    for name in NODES {
        let node = lab.node(name);
        let to = node.at(Family::V4, NODE_PORT);
        let exchanges = workstation.tcp_all(TcpRequest::to(to).times(5))?;
        let (expected, how) = if name == home {
            (outside, "which has it itself: the pod sees the workstation")
        } else {
            (
                node.ip(Family::V4),
                "which has no such pod: it forwards, and answers in its own name",
            )
        };
        let seen = clients(&exchanges);
        let fine = all_answered(&exchanges)
            && servers(&exchanges).contains_key(pod)
            && seen == [expected].into();
        terminal.observe(
            fine,
            &format!(
                "{to:<19} {name}, {how} ({}){}",
                addresses(&seen),
                failures(&exchanges)
            ),
        );
    }
    for name in NODES {
        let to = lab.node(name).at(Family::V6, NODE_PORT);
        let exchanges = workstation.tcp_all(TcpRequest::to(to).times(5))?;
        terminal.observe(
            all_answered(&exchanges),
            &format!("{to} {name}, over IPv6{}", failures(&exchanges)),
        );
    }
    let to = address(&format!("127.0.0.1:{NODE_PORT}"));
    let exchange = lab.node("worker-1").tcp(to)?;
    terminal.observe(
        exchange.server() == Some(pod),
        &format!("{to} for processes on worker-1{}", failures(&[exchange])),
    );
    Ok(())
}
