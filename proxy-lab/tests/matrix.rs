//! Every kind of client reaches every kind of backend through every kind of frontend, over both protocols and
//! families and with each CNI; and the backend sees the client that it should (semantics S1, S4, S6, L5, A1, A2,
//! P1). All nodes filter reverse paths strictly and drop what conntrack calls INVALID.

use std::net::{IpAddr, SocketAddr};

use proxy_lab::{
    AgentOptions, Cni, Family, Host, Lab, NodeSpec, PodSpec, Protocol, TcpRequest, UdpRequest,
    address,
    objects::{Endpoint, Service},
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const NODE_PORTS: u16 = 30_100;

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    NodeProcess,
    PodBySockets,
    PodByTc,
    Outside,
    AnotherNode,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Backend {
    PodHere,
    PodElsewhere,
    HostNetworkHere,
    HostNetworkElsewhere,
    WithoutNodeName,
    PodBySocketsItself,
    PodByTcItself,
}

/// What it connects to. Node ports are tried on the client's own node (`worker-1`) and on another.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Frontend {
    ClusterIp,
    NodePort,
    NodePortElsewhere,
    LoadBalancer,
    ExternalIp,
}

const CLIENTS: [Client; 5] = [
    Client::NodeProcess,
    Client::PodBySockets,
    Client::PodByTc,
    Client::Outside,
    Client::AnotherNode,
];
const BACKENDS: [Backend; 7] = [
    Backend::PodHere,
    Backend::PodElsewhere,
    Backend::HostNetworkHere,
    Backend::HostNetworkElsewhere,
    Backend::WithoutNodeName,
    Backend::PodBySocketsItself,
    Backend::PodByTcItself,
];
const FRONTENDS: [Frontend; 5] = [
    Frontend::ClusterIp,
    Frontend::NodePort,
    Frontend::NodePortElsewhere,
    Frontend::LoadBalancer,
    Frontend::ExternalIp,
];

impl Client {
    fn host(self, lab: &Lab) -> &Host {
        match self {
            Self::NodeProcess => lab.node("worker-1"),
            Self::PodBySockets => lab.pod("sockets"),
            Self::PodByTc => lab.pod("packets"),
            Self::Outside => lab.workstation(),
            Self::AnotherNode => lab.node("worker-2"),
        }
    }
}

impl Backend {
    fn host(self, lab: &Lab) -> &Host {
        match self {
            Self::PodHere => lab.pod("here"),
            Self::PodElsewhere => lab.pod("elsewhere"),
            Self::HostNetworkHere => lab.node("worker-1"),
            Self::HostNetworkElsewhere => lab.node("worker-2"),
            Self::WithoutNodeName => lab.pod("nameless"),
            Self::PodBySocketsItself => lab.pod("sockets"),
            Self::PodByTcItself => lab.pod("packets"),
        }
    }

    /// The node that it runs on.
    fn node(self) -> &'static str {
        match self {
            Self::PodHere
            | Self::HostNetworkHere
            | Self::PodBySocketsItself
            | Self::PodByTcItself => "worker-1",
            Self::PodElsewhere | Self::HostNetworkElsewhere | Self::WithoutNodeName => "worker-2",
        }
    }

    fn is_pod(self) -> bool {
        !matches!(self, Self::HostNetworkHere | Self::HostNetworkElsewhere)
    }

    fn number(self) -> u16 {
        BACKENDS.iter().position(|b| *b == self).expect("is listed") as u16 + 1
    }

    fn endpoint(self, lab: &Lab, family: Family) -> Endpoint {
        let at = Endpoint::at(self.host(lab).ip(family));
        if self == Self::WithoutNodeName {
            at
        } else {
            at.on(self.node())
        }
    }

    fn service(self) -> Service {
        let n = self.number();
        let (lb, external) = (
            address::load_balancer(n as u8),
            address::external_ip(n as u8),
        );
        Service::new(&format!("matrix-{n}"))
            .cluster_ips(address::cluster_ip(n))
            .both(PORT)
            .node_port(NODE_PORTS + n)
            .load_balancer(lb.v4)
            .load_balancer(lb.v6)
            .external_ip(external.v4)
            .external_ip(external.v6)
    }
}

impl Frontend {
    fn address(self, lab: &Lab, backend: Backend, family: Family) -> SocketAddr {
        let n = backend.number();
        match self {
            Self::ClusterIp => (address::cluster_ip(n).of(family), PORT),
            Self::NodePort => (lab.node("worker-1").ip(family), NODE_PORTS + n),
            Self::NodePortElsewhere => (lab.node("worker-2").ip(family), NODE_PORTS + n),
            Self::LoadBalancer => (address::load_balancer(n as u8).of(family), PORT),
            Self::ExternalIp => (address::external_ip(n as u8).of(family), PORT),
        }
        .into()
    }
}

/// The node whose uplink a connection comes in by, if it goes over one before it is translated.
fn entry(client: Client, frontend: Frontend) -> Option<&'static str> {
    match (client, frontend) {
        (Client::Outside, Frontend::NodePortElsewhere) => Some("worker-2"),
        (Client::Outside, _) | (Client::AnotherNode, Frontend::NodePort) => Some("worker-1"),
        (Client::AnotherNode, _) => None,
        (_, Frontend::NodePortElsewhere) => Some("worker-2"),
        _ => None,
    }
}

/// The client's address as the backend must see it, or why the cell cannot be.
fn seen(
    lab: &Lab,
    client: Client,
    backend: Backend,
    frontend: Frontend,
    family: Family,
) -> Result<IpAddr, &'static str> {
    if client == Client::Outside && frontend == Frontend::ClusterIp {
        return Err("a ClusterIP is not reachable from outside (S6)");
    }
    let own = client.host(lab).ip(family);
    if let Some(entry) = entry(client, frontend) {
        // A2: the client, where the backend is on the node it came in by; that node otherwise.
        return Ok(if backend.node() == entry {
            own
        } else {
            lab.node(entry).ip(family)
        });
    }
    if client == Client::PodByTc && backend == Backend::PodByTcItself {
        // A1: a hairpinned pod sees the VIP when it is translated per packet.
        return Ok(frontend.address(lab, backend, family).ip());
    }
    // A node speaks to its own pods from the pods' gateway address, as with real CNIs.
    let node = match client {
        Client::NodeProcess => Some("worker-1"),
        Client::AnotherNode => Some("worker-2"),
        _ => None,
    };
    Ok(match node {
        Some(node) if backend.is_pod() && backend.node() == node => {
            lab.node(node).pod_gateway().of(family)
        }
        _ => own,
    })
}

fn lab(label: &str, cni: Cni) -> Lab {
    let lab = Lab::builder(label)
        .node(NodeSpec::new("worker-1").cni(cni))
        .node(NodeSpec::new("worker-2").cni(cni))
        .pods("worker-1", ["here", "sockets"])
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .pods("worker-2", ["elsewhere", "nameless"])
        .up()
        .unwrap_or_else(|error| panic!("{}", error.chain()));
    for node in lab.nodes() {
        for iptables in ["iptables", "ip6tables"] {
            for chain in ["INPUT", "FORWARD"] {
                node.exec([
                    iptables,
                    "-A",
                    chain,
                    "-m",
                    "conntrack",
                    "--ctstate",
                    "INVALID",
                    "-j",
                    "DROP",
                ])
                .unwrap_or_else(|error| panic!("{}", error.chain()));
            }
        }
    }
    for host in lab.hosts() {
        host.serve(TARGET_PORT)
            .unwrap_or_else(|error| panic!("{}", error.chain()));
    }
    lab
}

fn run(label: &str, cni: Cni) {
    if let Some(reason) = proxy_lab::skip_reason() {
        eprintln!("skipped: {reason}");
        return;
    }
    let lab = lab(label, cni);
    let source = lab.source().expect("a folder");
    for backend in BACKENDS {
        let service = backend.service();
        for family in Family::ALL {
            let slice = service
                .slice(family, TARGET_PORT)
                .endpoint(backend.endpoint(&lab, family));
            source.put(slice).expect("written");
        }
        source.put(service).expect("written");
    }
    let _agents: Vec<_> = lab
        .nodes()
        .iter()
        .map(|node| {
            node.spawn_agent(&AgentOptions::files(source.path()))
                .unwrap_or_else(|error| panic!("{}", error.chain()))
        })
        .collect();

    let (mut cells, mut wrong) = (0, Vec::new());
    let mut impossible = std::collections::BTreeMap::new();
    for client in CLIENTS {
        for backend in BACKENDS {
            for frontend in FRONTENDS {
                for family in Family::ALL {
                    for protocol in Protocol::ALL {
                        let expected = match seen(&lab, client, backend, frontend, family) {
                            Ok(expected) => expected,
                            Err(why) => {
                                *impossible.entry(why).or_insert(0) += 1;
                                continue;
                            }
                        };
                        cells += 1;
                        let to = frontend.address(&lab, backend, family);
                        if let Err(why) = cell(
                            client.host(&lab),
                            protocol,
                            to,
                            backend.host(&lab).name(),
                            expected,
                        ) {
                            wrong.push(format!("{client:?} → {backend:?} by {frontend:?} {family} {protocol}: {why}"));
                        }
                    }
                }
            }
        }
    }
    eprintln!(
        "{label}: {cells} cells, {} wrong; cannot be: {impossible:?}",
        wrong.len()
    );
    assert!(
        wrong.is_empty(),
        "{} of {cells} cells:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Two exchanges, since the second of a flow goes another way through the datapath than the first.
fn cell(
    client: &Host,
    protocol: Protocol,
    to: SocketAddr,
    server: &str,
    seen: IpAddr,
) -> Result<(), String> {
    let timeout = std::time::Duration::from_millis(1_500);
    let exchanges = match protocol {
        Protocol::Tcp => client.tcp_all(TcpRequest::to(to).times(2).timeout(timeout)),
        Protocol::Udp => client.udp_all(UdpRequest::to(to).times(2).timeout(timeout)),
    }
    .map_err(|error| error.chain())?;
    for exchange in exchanges {
        let identity = exchange.outcome.map_err(|failure| failure.to_string())?;
        if identity.server != server {
            return Err(format!("{} answered", identity.server));
        }
        if identity.client.ip() != seen {
            return Err(format!(
                "the backend saw {}, not {seen}",
                identity.client.ip()
            ));
        }
        if exchange.peer != Some(to) {
            return Err(format!("the client saw {:?}, not {to}", exchange.peer));
        }
    }
    Ok(())
}

#[test]
fn matrix_with_ptp_pods() {
    run("mxptp", Cni::Ptp);
}

#[test]
fn matrix_with_a_bridge_and_bridge_nf_call_iptables() {
    run("mxbr1", Cni::BRIDGE);
}

#[test]
fn matrix_with_a_bridge_without_bridge_nf_call_iptables() {
    run(
        "mxbr0",
        Cni::Bridge {
            hairpin: false,
            nf_call_iptables: false,
        },
    );
}
