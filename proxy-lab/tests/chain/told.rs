//! The agent reports a stateful program of another component on a pod's device, with the device's name (ADR
//! 17).

use std::time::Duration;

use proxy_agent::dataplane::sys::link::{self, AttachType, Order};
use proxy_agent::dataplane::sys::object;
use proxy_lab::{Cni, Result, eventually, skipped};

use crate::counter::{Counter, stateful};
use crate::watch::{add_pinned_filter, device_of};
use crate::{MARKED, lab, start_agent};

/// It looks a second after a device is new.
const TOLD: Duration = Duration::from_secs(10);

#[test]
fn stateful_programs_on_devices_of_pods_are_told() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("chaintold", Cni::Ptp)?;
    let node = lab.node("worker-1");
    let attach = |program: &std::os::fd::OwnedFd, device: &str| {
        let ifindex = device_of(node, device).0;
        let attached = node.netns().run(|| {
            Ok(link::attach_tcx(
                program,
                ifindex,
                AttachType::TcxIngress,
                Order::First,
            ))
        });
        attached.expect("the node is there").expect("tcx is there")
    };
    // In a tcx chain, in a clsact filter; on an uplink, where it harms nobody; and one that only counts.
    let programs =
        ["flows_tcx", "flows_clsact", "flows_uplink"].map(|table| stateful(table).expect("loads"));
    let _links = [attach(&programs[0], "v-a"), attach(&programs[2], "eth0")];
    let pin = node.bpffs().with_file_name("stateful");
    object::pin(&programs[1], &pin).expect("can be pinned");
    add_pinned_filter(node, "v-b", AttachType::TcxEgress, &pin);
    let counter = Counter::of(MARKED).expect("loads");
    let ifindex = device_of(node, "v-server").0;
    let counting = node
        .netns()
        .run(|| Ok(counter.attach(ifindex, AttachType::TcxIngress, Order::First)))?;

    let agent = start_agent(&lab, "auto")?;
    let log = || std::fs::read_to_string(agent.log()).unwrap_or_default();
    let said = |device: &str, side: &str, table: &str| {
        let log = log();
        let mut lines = log
            .lines()
            .filter(|line| line.contains("another component's tc program"));
        lines.any(|line| {
            [
                &format!("({device})"),
                &format!("at their {side}"),
                &format!("{table:?}"),
            ]
            .iter()
            .all(|words| line.contains(words.as_str()))
        })
    };
    eventually("both are told", TOLD, || {
        Ok(said("v-a", "ingress", "flows_tcx") && said("v-b", "egress", "flows_clsact"))
    })?;
    // Another look, for a new device, tells nothing twice and nothing else.
    lab.replug(lab.pod("server"))?;
    std::thread::sleep(Duration::from_secs(3));
    let log = log();
    assert_eq!(
        log.matches("another component's tc program").count(),
        2,
        "{log}"
    );
    drop(counting);
    Ok(())
}
