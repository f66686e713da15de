//! Checksums are right on the wire, whoever had to compute them (semantics P1; ADR 2): with the sender's checksum offload on,
//! so that a packet is translated while its checksum is still pending, and off, so that it is there already and is mended.
//! All devices of worker-1, where everything is translated, have theirs off: what leaves them is final.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proxy_lab::objects::{Endpoint, Service};
use proxy_lab::{
    AgentOptions, Captured, Checksum, Cni, Exchange, Family, Host, Lab, NodeSpec, Offload, PodSpec,
    Protocol, Result, TcpRequest, UdpRequest, address, skipped,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const NODE_PORT: u16 = 30_500;
const TIMEOUT: Duration = Duration::from_secs(3);
/// More than one segment, and more than the kernel merges into one packet; an odd number.
const BULK: usize = 150_001;
/// A datagram that is no fragment yet; an odd number with the question.
const DATAGRAM: usize = 1_201;

/// Who answers, if anyone.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Backend {
    PodHere,
    PodElsewhere,
    HostNetworkHere,
    ClientItself,
    Nobody,
}

const BACKENDS: [Backend; 5] = [
    Backend::PodHere,
    Backend::PodElsewhere,
    Backend::HostNetworkHere,
    Backend::ClientItself,
    Backend::Nobody,
];

impl Backend {
    fn number(self) -> u8 {
        BACKENDS
            .iter()
            .position(|one| *one == self)
            .expect("listed") as u8
            + 1
    }

    fn host(self, lab: &Lab) -> Option<&Host> {
        match self {
            Self::PodHere => Some(lab.pod("here")),
            Self::PodElsewhere => Some(lab.pod("there")),
            Self::HostNetworkHere => Some(lab.node("worker-1")),
            Self::ClientItself => Some(lab.pod("packets")),
            Self::Nobody => None,
        }
    }

    fn endpoint(self, lab: &Lab, family: Family) -> Option<Endpoint> {
        let at = self.host(lab).map(|host| Endpoint::at(host.ip(family)));
        match self {
            Self::PodElsewhere => at.map(|at| at.on("worker-2")),
            _ => at.map(|at| at.on("worker-1")),
        }
    }

    fn service(self) -> Service {
        let number = self.number();
        Service::new(&format!("offload-{number}"))
            .cluster_ips(address::cluster_ip(number.into()))
            .both(PORT)
            .node_port(NODE_PORT + u16::from(number))
            .load_balancer(address::load_balancer(number).v4)
            .load_balancer(address::load_balancer(number).v6)
    }

    /// What clients call: a pod that sockets do not cover, and the world outside.
    fn frontends(self, lab: &Lab, client: &Host, family: Family) -> [SocketAddr; 2] {
        let number = self.number();
        let first = if client.name() == "packets" {
            (address::cluster_ip(number.into()).of(family), PORT).into()
        } else {
            lab.node("worker-1")
                .at(family, NODE_PORT + u16::from(number))
        };
        [
            first,
            (address::load_balancer(number).of(family), PORT).into(),
        ]
    }
}

fn lab(label: &str, cni: Cni) -> Result<Lab> {
    let lab = Lab::builder(label)
        .node(NodeSpec::new("worker-1").cni(cni))
        .node(NodeSpec::new("worker-2").cni(cni))
        .pods("worker-1", ["here"])
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .pods("worker-2", ["there"])
        .up()?;
    for host in lab.hosts() {
        host.serve(TARGET_PORT)?;
    }
    let node = lab.node("worker-1");
    for device in ["eth0", &node.device_of("here"), &node.device_of("packets")] {
        node.offload(device, Offload::TxChecksum, false)?;
    }
    Ok(lab)
}

/// Counts of frames that were judged, by what they are.
type Seen = BTreeMap<(&'static str, Family, u8), usize>;

fn run(label: &str, cni: Cni) -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab(label, cni)?;
    let source = lab.source()?;
    for backend in BACKENDS {
        let service = backend.service();
        for family in Family::ALL {
            let endpoints = backend.endpoint(&lab, family);
            source.put(service.slice(family, TARGET_PORT).endpoints(endpoints))?;
        }
        source.put(service)?;
    }
    // worker-2 has none: what its pods answer reaches worker-1 as they sent it.
    let _agent = lab
        .node("worker-1")
        .spawn_agent(&AgentOptions::files(source.path()))?;
    for senders in [true, false] {
        for host in [
            &**lab.pod("packets"),
            &**lab.pod("here"),
            &**lab.pod("there"),
            lab.workstation(),
        ] {
            host.offload("eth0", Offload::TxChecksum, senders)?;
        }
        let mut seen = Seen::new();
        for client in [&**lab.pod("packets"), lab.workstation()] {
            for backend in BACKENDS {
                let what = format!(
                    "{label}: {} to {backend:?}, senders' offload {senders}",
                    client.name()
                );
                for (key, count) in conversation(&lab, client, backend, &what)? {
                    *seen.entry(key).or_default() += count;
                }
            }
        }
        eprintln!("{label}, senders' offload {senders}: frames with right checksums {seen:?}");
    }
    Ok(())
}

/// TCP, UDP and ICMP as IP headers name them, for a family.
fn numbers(family: Family) -> (u8, u8, u8) {
    (6, 17, if family == Family::V4 { 1 } else { 58 })
}

/// All exchanges between a client and a backend, and the frames that worker-1 sent to either.
fn conversation(lab: &Lab, client: &Host, backend: Backend, what: &str) -> Result<Seen> {
    let at_client = client.capture("eth0", &[])?;
    // What goes to a pod is final at the pod, what goes to another node is final there.
    let at_backend = match backend {
        Backend::PodHere => Some(lab.pod("here").capture("eth0", &[])?),
        Backend::PodElsewhere => Some(lab.node("worker-2").capture("eth0", &[])?),
        _ => None,
    };
    let mut asked: Vec<SocketAddr> = Vec::new();
    let mut answers = Vec::new();
    for family in Family::ALL {
        for to in backend.frontends(lab, client, family) {
            asked.push(to);
            for protocol in Protocol::ALL {
                let all = exchanges(client, protocol, to)?;
                answers.extend(
                    all.into_iter()
                        .map(|one| (format!("{protocol} to {to}"), one)),
                );
            }
        }
    }
    // Frames first: what has a wrong checksum does not arrive, and the reason is here.
    let mut seen = Seen::new();
    let from_frontend = |source: IpAddr, _: IpAddr| asked.iter().any(|to| to.ip() == source);
    count(
        &mut seen,
        "to the client",
        &at_client.stop()?,
        what,
        from_frontend,
    );
    if let (Some(capture), Some(host)) = (at_backend, backend.host(lab)) {
        let to_backend =
            |_: IpAddr, destination: IpAddr| Family::ALL.iter().any(|f| host.ip(*f) == destination);
        count(
            &mut seen,
            "to the backend",
            &capture.stop()?,
            what,
            to_backend,
        );
    }
    for (asked, answer) in &answers {
        judge(answer, backend, &format!("{what}: {asked}"));
    }
    for family in Family::ALL {
        let (tcp, udp, icmp) = numbers(family);
        let at_least = |direction, protocol, least: usize| {
            let found = seen.get(&(direction, family, protocol)).copied();
            assert!(
                found >= Some(least),
                "{what}: {found:?} frames of protocol {protocol} {direction}, {family}"
            );
        };
        if backend == Backend::Nobody {
            // A reset for each frontend, and an ICMP error for each.
            at_least("to the client", tcp, 2);
            at_least("to the client", icmp, 2);
            continue;
        }
        let segments = BULK / 1_500;
        at_least("to the client", tcp, 2 * segments);
        at_least("to the client", udp, 4);
        if backend
            .host(lab)
            .is_some_and(|host| host.name() != "worker-1" && host.name() != "packets")
        {
            at_least("to the backend", tcp, 2 * segments);
            at_least("to the backend", udp, 4);
        }
    }
    Ok(seen)
}

/// Small and large.
fn exchanges(client: &Host, protocol: Protocol, to: SocketAddr) -> Result<Vec<Exchange>> {
    let mut all = Vec::new();
    for large in [false, true] {
        all.extend(match protocol {
            Protocol::Tcp => {
                let padding = if large { BULK } else { 0 };
                client.tcp_all(TcpRequest::to(to).padded(padding).timeout(TIMEOUT))?
            }
            Protocol::Udp => {
                let padding = if large { DATAGRAM } else { 0 };
                let request = UdpRequest::to(to).connected().padded(padding);
                client.udp_all(request.timeout(TIMEOUT))?
            }
        });
    }
    Ok(all)
}

fn judge(exchange: &Exchange, backend: Backend, what: &str) {
    match (&exchange.outcome, backend) {
        (Ok(_), Backend::Nobody) => panic!("{what}: was answered"),
        (Ok(_), _) => {}
        // A refusal with a wrong checksum never arrives.
        (Err(failure), Backend::Nobody) => {
            assert_eq!(failure.errno, Some(libc::ECONNREFUSED), "{what}: {failure}");
        }
        (Err(failure), _) => panic!("{what}: {failure}"),
    }
}

/// Counts the incoming frames that are ours to judge; each must be final and right.
fn count(
    seen: &mut Seen,
    direction: &'static str,
    captured: &Captured,
    what: &str,
    ours: impl Fn(IpAddr, IpAddr) -> bool,
) {
    assert_eq!(captured.missed, 0, "{what}: the capture is not whole");
    for frame in captured.frames.iter().filter(|frame| !frame.outgoing) {
        let Some(packet) = frame.packet() else {
            continue;
        };
        if !ours(packet.source, packet.destination) {
            continue;
        }
        assert_ne!(
            frame.checksum,
            Checksum::Partial,
            "{what}: not final: {frame}"
        );
        if let Err(flaw) = frame.check_sums() {
            panic!("{what}: {flaw}: {frame}");
        }
        let key = (direction, Family::of(packet.source), packet.protocol);
        *seen.entry(key).or_default() += 1;
    }
}

#[test]
fn p1_checksums_are_right_with_ptp_pods() -> Result<()> {
    run("sumptp", Cni::Ptp)
}

#[test]
fn p1_checksums_are_right_with_a_bridge() -> Result<()> {
    run("sumbr1", Cni::BRIDGE)
}

#[test]
fn p1_checksums_are_right_with_a_bridge_that_netfilter_does_not_see() -> Result<()> {
    run(
        "sumbr0",
        Cni::Bridge {
            hairpin: false,
            nf_call_iptables: false,
        },
    )
}
