//! Pods behind `externalTrafficPolicy: Local` are replaced under load, and no connection is lost (semantics B3, B4, H1, KEP-1669).

use proxy_lab::rolling_update::{Proxy, run};
use proxy_lab::{Result, control_plane};

/// Connections a second. `cargo xtask bench rolling-update` takes five times as many, which leave two busy processors no
/// time for others.
const RATE: u32 = 200;

#[test]
fn h1_b3_no_connection_is_lost_when_local_pods_are_replaced() -> Result<()> {
    if control_plane::skipped() {
        return Ok(());
    }
    let report = run("rolling", Proxy::Agent, RATE)?;
    let connections = &report.balancer.connections;
    eprintln!(
        "{} connections in {:.1?} ({:.0}/s), {} failed, {} late, slowest {:?}; {} pods; health: {:?}; lost: {:?}",
        connections.attempts,
        report.elapsed,
        report.rate(),
        connections.failed(),
        report.balancer.late,
        connections.slowest,
        connections.servers.len(),
        report.balancer.turns,
        report.lost
    );
    assert_eq!(connections.failed(), 0, "{:?}", connections.failures);
    assert!(
        report.lost.is_empty(),
        "packets were lost: {:?}",
        report.lost
    );
    // The drained node was left by the balancer, and before that it had served with what terminated.
    let left = report.balancer.turns.iter().any(|(_, _, takes)| !takes);
    assert!(
        left,
        "the balancer never left a node: {:?}",
        report.balancer.turns
    );
    assert!(connections.servers.len() > 20, "{:?}", connections.servers);
    Ok(())
}
