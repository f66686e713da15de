//! Clients reach pods here and elsewhere over every form of network that CNIs make (semantics S1, S4, L5, A1, A2, P1): pods on
//! a bridge or behind a veth each, other nodes by routes, by a vxlan or by a device without Ethernet headers. And what
//! changes in such a network while traffic runs is followed.

mod changes;
mod devices;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proxy_common::abi::counter::Counter;
use proxy_lab::capture::Checksum;
use proxy_lab::objects::Service;
use proxy_lab::{
    Agent, AgentOptions, Cni, Exchange, Family, Host, Lab, NodeSpec, Overlay, PodSpec, Protocol,
    Result, TcpRequest, UdpRequest, address, spawn_agents,
};

use devices::{counted, described};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
/// The Service of the pod on `worker-1`, and that of the pod on `worker-2`.
const BACKENDS: [(&str, u16); 2] = [("here", 1), ("elsewhere", 2)];
/// The Service of a pod that reaches itself by it.
const ITSELF: (&str, u16) = ("packets", 3);

const fn node_port(number: u16) -> u16 {
    30_400 + number
}

/// Clients on `worker-1`, backends there and on `worker-2`.
fn lab(label: &str, cni: Cni, overlay: Overlay) -> Result<Lab> {
    let lab = Lab::builder(label)
        .node(NodeSpec::new("worker-1").cni(cni))
        .node(NodeSpec::new("worker-2").cni(cni))
        .overlay(overlay)
        .pods("worker-1", ["here", "sockets"])
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .pods("worker-2", ["elsewhere"])
        .up()?;
    for (name, _) in BACKENDS.into_iter().chain([ITSELF]) {
        lab.pod(name).serve(TARGET_PORT)?;
    }
    Ok(lab)
}

fn start(lab: &Lab) -> Result<Vec<Agent>> {
    let source = lab.source()?;
    for (name, number) in BACKENDS.into_iter().chain([ITSELF]) {
        let lb = address::load_balancer(number as u8);
        let service = Service::new(name)
            .cluster_ips(address::cluster_ip(number))
            .both(PORT)
            .node_port(node_port(number))
            .load_balancer(lb.v4)
            .load_balancer(lb.v6);
        for family in Family::ALL {
            source.put(service.slice_of(family, TARGET_PORT, [lab.pod(name)]))?;
        }
        source.put(service)?;
    }
    spawn_agents(lab, &AgentOptions::files(source.path()))
}

/// The address that masquerading takes for what goes to another node's pods.
fn masqueraded(lab: &Lab, overlay: Overlay, family: Family) -> IpAddr {
    let node = lab.node("worker-1");
    match overlay {
        Overlay::Direct => node.ip(family),
        Overlay::Vxlan | Overlay::Tun => node.overlay_address().of(family),
    }
}

/// Bytes of a question and of its answer: a few, and many full segments in both directions.
const SIZES: [(Protocol, usize); 3] = [
    (Protocol::Tcp, 0),
    (Protocol::Tcp, 1_000_000),
    (Protocol::Udp, 1_200),
];

fn ask(client: &Host, to: SocketAddr, server: &str, seen: IpAddr) -> Vec<String> {
    let mut wrong = Vec::new();
    for (protocol, padding) in SIZES {
        let timeout = Duration::from_secs(5);
        let exchanges = match protocol {
            Protocol::Tcp => {
                client.tcp_all(TcpRequest::to(to).padded(padding).times(2).timeout(timeout))
            }
            Protocol::Udp => {
                client.udp_all(UdpRequest::to(to).padded(padding).times(2).timeout(timeout))
            }
        };
        let answers = exchanges
            .unwrap_or_else(|error| panic!("{}", error.chain()))
            .into_iter()
            .map(|exchange| match exchange.outcome {
                Ok(identity) if identity.server != server => {
                    Some(format!("{} answered", identity.server))
                }
                Ok(identity) if identity.client.ip() != seen => {
                    Some(format!("{server} saw {}, not {seen}", identity.client.ip()))
                }
                Ok(_) => None,
                Err(failure) => Some(failure.to_string()),
            });
        wrong.extend(answers.flatten().map(|why| {
            format!(
                "{} → {to} {protocol} with {padding} bytes: {why}",
                client.name()
            )
        }));
    }
    wrong
}

/// Every client to every backend; returns how many ways there were.
fn ways(lab: &Lab, overlay: Overlay) -> usize {
    let (mut ways, mut wrong) = (0, Vec::new());
    for family in Family::ALL {
        for (server, number) in BACKENDS {
            let cluster_ip = (address::cluster_ip(number).of(family), PORT).into();
            for name in ["sockets", "packets"] {
                let pod = lab.pod(name);
                wrong.extend(ask(pod, cluster_ip, server, pod.ip(family)));
            }
            let outside = lab.workstation();
            let seen = if server == "here" {
                outside.ip(family)
            } else {
                masqueraded(lab, overlay, family)
            };
            let node_port = lab.node("worker-1").at(family, node_port(number));
            let balancer = (address::load_balancer(number as u8).of(family), PORT).into();
            for to in [node_port, balancer] {
                wrong.extend(ask(outside, to, server, seen));
            }
            ways += 4 * SIZES.len();
        }
        // L5, A1: translated per packet, it sees the Service.
        let (name, number) = ITSELF;
        let cluster_ip = address::cluster_ip(number).of(family);
        wrong.extend(ask(
            lab.pod(name),
            (cluster_ip, PORT).into(),
            name,
            cluster_ip,
        ));
        // A process of the node has the address that its kernel chooses for the way.
        let elsewhere = (address::cluster_ip(2).of(family), PORT).into();
        let seen = masqueraded(lab, overlay, family);
        wrong.extend(ask(lab.node("worker-1"), elsewhere, "elsewhere", seen));
        ways += 2 * SIZES.len();
    }
    assert!(wrong.is_empty(), "{ways} ways:\n{}", wrong.join("\n"));
    ways
}

/// A datagram that does not fit the overlay is answered (P2): the next is sent in fragments that do.
fn too_big_is_told(lab: &Lab) -> Result<()> {
    let node = lab.node("worker-1");
    for family in Family::ALL {
        let before = counted(node, Counter::TooBigAnswered);
        let to = node.at(family, node_port(2));
        // With its headers, and the few bytes of the question itself, all but the whole of the outside's MTU of 1500.
        let request = UdpRequest::to(to)
            .padded(1_430)
            .times(2)
            .timeout(Duration::from_millis(500));
        let outside = lab.workstation();
        let capture = outside.capture("eth0", &[])?;
        let exchanges = outside.udp_all(request)?;
        let captured = capture.stop()?;
        let told: Vec<_> = captured
            .frames
            .iter()
            .filter(|frame| frame.packet().and_then(|p| p.quoted_ends()).is_some())
            .collect();
        // The datagram's checksum was left to its device. Of the answer's, nothing is: not every device would know where.
        assert_eq!(told.len(), 1, "{told:?}");
        assert_ne!(told[0].checksum, Checksum::Partial, "{}", told[0]);
        assert_eq!(told[0].check_sums(), Ok(()), "{}", told[0]);
        let servers: Vec<_> = exchanges.iter().map(Exchange::server).collect();
        assert_eq!(servers, [None, Some("elsewhere")], "{family}");
        assert_eq!(
            counted(node, Counter::TooBigAnswered),
            before + 1,
            "{family}"
        );
    }
    Ok(())
}

fn run(label: &str, cni: Cni, overlay: Overlay, expected: &[(&str, &str)]) -> Result<()> {
    if proxy_lab::skipped() {
        return Ok(());
    }
    let lab = lab(label, cni, overlay)?;
    let _agents = start(&lab)?;
    let expected: Vec<_> = expected
        .iter()
        .map(|&(name, class)| (name.to_owned(), class.to_owned()))
        .collect();
    assert_eq!(described(lab.node("worker-1"))?, expected);
    let ways = ways(&lab, overlay);
    if overlay != Overlay::Direct {
        too_big_is_told(&lab)?;
    }
    eprintln!("{label}: {ways} ways");
    Ok(())
}

#[test]
fn flannel() -> Result<()> {
    run(
        "flannel",
        Cni::BRIDGE,
        Overlay::Vxlan,
        &[
            ("cni0", "bridge"),
            ("eth0", "uplink"),
            ("flannel.1", "overlay"),
            ("v-here", "pod of cni0"),
            ("v-packets", "pod of cni0"),
            ("v-sockets", "pod of cni0"),
        ],
    )
}

#[test]
fn calico_by_routes() -> Result<()> {
    run(
        "calico",
        Cni::Calico,
        Overlay::Direct,
        &[
            ("eth0", "uplink"),
            ("v-here", "pod"),
            ("v-packets", "pod"),
            ("v-sockets", "pod"),
        ],
    )
}

#[test]
fn calico_over_a_device_without_ethernet_headers() -> Result<()> {
    run(
        "calicotun",
        Cni::Calico,
        Overlay::Tun,
        &[
            ("eth0", "uplink"),
            ("tun0", "overlay, raw"),
            ("v-here", "pod"),
            ("v-packets", "pod"),
            ("v-sockets", "pod"),
        ],
    )
}

#[test]
fn veths_with_the_gateways_address_and_subnet_over_vxlan() -> Result<()> {
    run(
        "subnets",
        Cni::PtpSubnet,
        Overlay::Vxlan,
        &[
            ("eth0", "uplink"),
            ("flannel.1", "overlay"),
            ("v-here", "pod"),
            ("v-packets", "pod"),
            ("v-sockets", "pod"),
        ],
    )
}
