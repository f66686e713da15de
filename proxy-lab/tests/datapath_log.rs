//! `--datapath-log` reports lost packets and new flows with reason, source, destination and backend
//! (semantics P6).

use std::net::SocketAddr;
use std::time::Duration;

use proxy_lab::objects::Service;
use proxy_lab::{
    Agent, AgentOptions, Family, Folder, Host, Lab, PodSpec, Protocol, Result, TcpRequest, address,
    eventually, skipped,
};
use serde_json::Value;

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
/// How long the agent may take to read the programs' messages.
const TOLD: Duration = Duration::from_secs(3);

fn lab(label: &str) -> Result<(Lab, Folder)> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node("worker-2")
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .pods("worker-2", ["server"])
        .up()?;
    lab.pod("server").serve(TARGET_PORT)?;
    let source = lab.source()?;
    let served = Service::new("served")
        .cluster_ips(address::cluster_ip(1))
        .both(PORT)
        .load_balancer(address::load_balancer(1).v4)
        .load_balancer(address::load_balancer(1).v6)
        .external_local();
    for family in Family::ALL {
        source.put(served.slice_of(family, TARGET_PORT, [lab.pod("server")]))?;
    }
    source.put(served)?;
    let guarded = Service::new("guarded")
        .cluster_ips(address::cluster_ip(3))
        .both(PORT)
        .load_balancer(address::load_balancer(2).v4)
        .load_balancer(address::load_balancer(2).v6)
        .source_ranges(["198.51.100.0/24", "2001:db8:100::/48"]);
    for family in Family::ALL {
        source.put(guarded.slice_of(family, TARGET_PORT, [lab.pod("server")]))?;
    }
    source.put(guarded)?;
    source.put(
        Service::new("empty")
            .cluster_ips(address::cluster_ip(2))
            .both(PORT),
    )?;
    Ok((lab, source))
}

fn start(lab: &Lab, source: &Folder, of: &str) -> Result<Agent> {
    let options = AgentOptions::files(source.path())
        .arg("--log-json")
        .arg("--datapath-log")
        .arg(of);
    lab.node("worker-1").spawn_agent(&options)
}

/// The datapath messages in the agent's log.
fn told(agent: &Agent) -> Vec<Value> {
    let text = std::fs::read_to_string(agent.log()).expect("the log is there");
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|line| line["fields"].clone())
        .filter(|fields| fields["reason"].is_string())
        .collect()
}

fn cluster_ip(number: u16, family: Family) -> SocketAddr {
    (address::cluster_ip(number).of(family), PORT).into()
}

/// A drop, a refusal, a flow and a connection, of each family.
fn traffic(lab: &Lab, family: Family) -> Result<()> {
    let quick = |to| TcpRequest::to(to).timeout(Duration::from_millis(300));
    let balanced = SocketAddr::new(address::load_balancer(1).of(family), PORT);
    let dropped = lab.workstation().tcp_all(quick(balanced))?;
    assert!(
        dropped[0].outcome.is_err(),
        "worker-1 has no endpoint of its own: {dropped:?}"
    );
    let node = lab.node("worker-1");
    assert!(node.tcp(cluster_ip(2, family))?.outcome.is_err());
    let guarded = SocketAddr::new(address::load_balancer(2).of(family), PORT);
    assert!(
        node.tcp(guarded)?.outcome.is_err(),
        "no range has an address of the node"
    );
    let clients: [&Host; 2] = [lab.pod("packets"), node];
    for client in clients {
        let exchange = client.request(Protocol::Tcp, cluster_ip(1, family))?;
        assert_eq!(exchange.server(), Some("server"), "{exchange:?}");
    }
    Ok(())
}

/// Whether one message says this; `source` without its port.
fn says(
    told: &[Value],
    reason: &str,
    source: Option<&str>,
    to: SocketAddr,
    backend: Option<SocketAddr>,
) -> bool {
    told.iter().any(|one| {
        let from = one["source"].as_str();
        let from = from.map(|from| {
            from.parse::<SocketAddr>()
                .expect("an address")
                .ip()
                .to_string()
        });
        one["reason"] == reason
            && one["protocol"] == "TCP"
            && from.as_deref() == source
            && one["destination"] == to.to_string()
            && one["backend"].as_str() == backend.map(|b| b.to_string()).as_deref()
            && one["message"].as_str().is_some_and(|text| !text.is_empty())
    })
}

#[test]
fn p6_drops_refusals_and_flows_are_told_of_where_that_is_asked_for() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, source) = lab("dplog")?;
    for of in ["flows", "drops", "off"] {
        let agent = start(&lab, &source, of)?;
        for family in Family::ALL {
            traffic(&lab, family)?;
            let outside = lab.workstation().ip(family).to_string();
            let pod = lab.pod("packets").ip(family).to_string();
            let server = lab.pod("server").at(family, TARGET_PORT);
            let balanced = SocketAddr::new(address::load_balancer(1).of(family), PORT);
            let losses = |told: &[Value]| {
                let drop = "drop_no_local_endpoint";
                let empty = cluster_ip(2, family);
                let guarded = SocketAddr::new(address::load_balancer(2).of(family), PORT);
                [
                    says(told, drop, Some(&outside), balanced, None),
                    says(told, "refuse_no_endpoint", None, empty, None),
                    says(told, "drop_source_range", None, guarded, None),
                ]
            };
            let flows = |told: &[Value]| {
                let to = cluster_ip(1, family);
                [
                    says(told, "flow_created", Some(&pod), to, Some(server)),
                    says(told, "socket_translated", None, to, Some(server)),
                ]
            };
            if of == "off" {
                std::thread::sleep(Duration::from_millis(300));
            } else {
                eventually("losses are told of", TOLD, || {
                    Ok(losses(&told(&agent)) == [true; 3])
                })?;
            }
            if of == "flows" {
                eventually("flows are told of", TOLD, || {
                    Ok(flows(&told(&agent)) == [true; 2])
                })?;
            }
            let told = told(&agent);
            if of == "off" {
                assert_eq!(told, [] as [Value; 0]);
            }
            assert_eq!(flows(&told), [of == "flows"; 2], "{of}: {told:?}");
        }
        agent.terminate()?;
    }
    Ok(())
}
