//! 04: names, from a DNS server that is itself behind a Service.

use std::time::Duration;

use proxy_lab::{Family, Host, Pod, Result, eventually};

use super::MLFLOW;
use super::evidence::{address, failures};
use super::names::{By, look_up, name_of};
use crate::terminal::{Terminal, say};
use crate::world::{DNS, Stage, resolv_conf};

pub fn tell(stage: &Stage, terminal: &mut Terminal) -> Result<()> {
    terminal.part(&format!(
        "04  Service discovery: a DNS server behind {DNS}, port 53"
    ));
    let lab = stage.lab();
    let notebook = lab.pod("notebook");
    let sandbox = lab.pod("sandbox");
    say(
        "pod notebook, of namespace mlops, looks names up with its C library; its resolv.conf is as the kubelet writes it:",
    );
    terminal.quote(&resolv_conf("mlops"));
    let (v4, v6) = (address(MLFLOW.0), address(MLFLOW.1));
    // The server may still be starting.
    eventually("the DNS server answers", Duration::from_secs(10), || {
        Ok(!look_up(notebook, "mlflow", Family::V4, By::Udp)?.is_empty())
    })?;
    let mut look = |pod: &Pod, name: &str, by: By, expected: &str, how: &str| -> Result<()> {
        let family = if expected.contains(':') {
            Family::V6
        } else {
            Family::V4
        };
        let found = look_up(pod, name, family, by)?;
        let fine = found.iter().map(ToString::to_string).eq([expected]);
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        terminal.observe(fine, &format!("{name} is {}{how}", found.join(", ")));
        Ok(())
    };
    look(notebook, "mlflow", By::Udp, &v4.ip().to_string(), "")?;
    look(
        notebook,
        "mlflow",
        By::Udp,
        &v6.ip().to_string(),
        ", its IPv6 address",
    )?;
    look(
        notebook,
        "mlflow",
        By::Tcp,
        &v4.ip().to_string(),
        ", over TCP too",
    )?;
    look(
        notebook,
        "grafana.monitoring",
        By::Udp,
        "10.96.50.30",
        ", of another namespace",
    )?;
    look(
        notebook,
        "grafana.monitoring.svc.cluster.local",
        By::Udp,
        "10.96.50.30",
        ", by its full name",
    )?;
    look(
        sandbox,
        "grafana",
        By::Udp,
        "10.96.50.30",
        " for pod sandbox, which is of that namespace (and whose questions go packet by packet)",
    )?;
    look(
        sandbox,
        "grafana",
        By::Tcp,
        "10.96.50.30",
        " for it over TCP too",
    )?;
    let none = look_up(notebook, "grafana", Family::V4, By::Udp)?;
    terminal.observe(
        none.is_empty(),
        "grafana alone is nobody for pod notebook: short names are of one's own namespace",
    );
    let name = name_of(notebook, v4.ip())?;
    terminal.observe(
        name.as_deref() == Some("mlflow.mlops.svc.cluster.local"),
        &format!(
            "and back: {} is {}",
            v4.ip(),
            name.as_deref().unwrap_or("nobody")
        ),
    );
    by_name(notebook, terminal)
}

/// A connection to what a name stands for.
fn by_name(pod: &Host, terminal: &mut Terminal) -> Result<()> {
    let found = look_up(pod, "mlflow", Family::V4, By::Udp)?;
    let Some(ip) = found.first() else {
        terminal.observe(false, "mlflow has no address");
        return Ok(());
    };
    let exchange = pod.tcp((*ip, 5000).into())?;
    let server = exchange.server().unwrap_or("nobody").to_owned();
    terminal.observe(
        exchange.outcome.is_ok(),
        &format!(
            "http://mlflow:5000/ is answered by {server}{}",
            failures(&[exchange])
        ),
    );
    Ok(())
}
