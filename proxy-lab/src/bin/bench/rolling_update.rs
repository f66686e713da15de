//! Connections that are lost while the pods of a Service with `externalTrafficPolicy: Local` are replaced.

use proxy_lab::rolling_update::{Proxy, run as replace};
use proxy_lab::{KubeProxyMode, Result};

use crate::figures::milliseconds;

/// Prints a table.
pub fn run(rate: u32) -> Result<()> {
    println!(
        "\n| proxy | connections | a second | failed | late | slowest ms | nodes left by the balancer |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, proxy) in [
        ("kube-proxy-ebpf", Proxy::Agent),
        (
            "kube-proxy, nftables",
            Proxy::KubeProxy(KubeProxyMode::Nftables),
        ),
    ] {
        let report = replace("benchroll", proxy, rate)?;
        let connections = &report.balancer.connections;
        let left = report.balancer.turns.iter().filter(|(.., takes)| !takes);
        println!(
            "| {name} | {} | {:.0} | {} | {} | {} | {} |",
            connections.attempts,
            report.rate(),
            connections.failed(),
            report.balancer.late,
            milliseconds(connections.slowest),
            left.count(),
        );
        for (when, failure) in connections.failures.iter().take(5) {
            eprintln!("{name}: after {when:?}: {failure}");
        }
        for (sample, value) in &report.lost {
            eprintln!("{name}: {sample} {value}");
        }
    }
    Ok(())
}
