//! Datagrams larger than a frame (semantics P3): all fragments go where the first goes, there and back, by every way that
//! packets are translated.

use std::net::SocketAddr;

use proxy_lab::objects::Service;
use proxy_lab::{
    AgentOptions, Cni, Family, Host, Lab, NodeSpec, PodSpec, Result, UdpRequest, address, skipped,
    spawn_agents,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
/// Of the Service whose one backend is on worker-1, and of that whose one is on worker-2.
const HERE: u8 = 1;
const THERE: u8 = 2;
/// In two fragments, and in seven.
const SIZES: [usize; 2] = [1_900, 9_000];
const TIMES: usize = 5;

fn node_port(number: u8) -> u16 {
    30_700 + u16::from(number)
}

/// Who asks, and by which address: a pod's packets, turned round to itself too, and the outside at a node.
fn ways(lab: &Lab, number: u8, family: Family) -> Vec<(&Host, SocketAddr)> {
    let cluster_ip = (address::cluster_ip(number.into()).of(family), PORT).into();
    let at_node = lab.node("worker-1").at(family, node_port(number));
    let mut ways: Vec<(&Host, SocketAddr)> = vec![
        (lab.pod("client"), cluster_ip),
        (lab.pod("bridged"), cluster_ip),
        (lab.pod("client"), at_node),
        (lab.workstation(), at_node),
    ];
    if number == HERE {
        ways.push((lab.pod("here"), cluster_ip));
    }
    ways
}

#[test]
fn p3_datagrams_larger_than_a_frame_come_through() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::builder("fragments")
        .node("worker-1")
        .node(NodeSpec::new("worker-2").cni(Cni::BRIDGE))
        .pod(PodSpec::new("client", "worker-1").not_covered_by_sockets())
        .pod(PodSpec::new("here", "worker-1").not_covered_by_sockets())
        .pod(PodSpec::new("bridged", "worker-2").not_covered_by_sockets())
        .pod(PodSpec::new("there", "worker-2").not_covered_by_sockets())
        .fit_for_xdp()
        .up()?;
    let source = lab.source()?;
    for (number, name) in [(HERE, "here"), (THERE, "there")] {
        lab.pod(name).serve(TARGET_PORT)?;
        let service = Service::new(name)
            .cluster_ips(address::cluster_ip(number.into()))
            .both(PORT)
            .node_port(node_port(number));
        for family in Family::ALL {
            source.put(service.slice_of(family, TARGET_PORT, [lab.pod(name)]))?;
        }
        source.put(service)?;
    }
    for xdp in ["off", "native"] {
        let options = AgentOptions::files(source.path()).xdp(xdp);
        let agents = spawn_agents(&lab, &options)?;
        for (number, name) in [(HERE, "here"), (THERE, "there")] {
            for family in Family::ALL {
                for (client, to) in ways(&lab, number, family) {
                    for size in SIZES {
                        let request = UdpRequest::to(to).times(TIMES).padded(size);
                        let exchanges = client.udp_all(request)?;
                        let answers = exchanges
                            .iter()
                            .filter(|exchange| exchange.server() == Some(name));
                        assert_eq!(
                            answers.count(),
                            TIMES,
                            "{} to {to}, {size} bytes, XDP {xdp}: {exchanges:?}",
                            client.name()
                        );
                    }
                }
            }
        }
        for agent in agents {
            agent.terminate()?;
        }
    }
    Ok(())
}
