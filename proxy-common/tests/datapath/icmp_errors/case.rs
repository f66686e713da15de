//! Flows, and ICMP errors about their packets with the expected translation.

use proxy_common::{
    abi::{counter::Counter, frontend::FrontendKind, protocol},
    datapath::Verdict,
    host::{Segment, Service, World},
};

use crate::{
    fixture::{Cast, Fate, Hook, Step, packet, run},
    node::{Names, SNAT_PORT, at, node},
};

pub const HOPS: u8 = 64;

/// Type and code of each kind of ICMP error.
pub fn kinds(v4: bool) -> &'static [[u8; 2]] {
    if v4 {
        &[[3, 1], [3, 3], [3, 4], [3, 13], [4, 0], [11, 0], [12, 0]]
    } else {
        &[[1, 0], [1, 4], [2, 0], [3, 0], [4, 1]]
    }
}

/// A translated flow, as `address:port` each.
pub struct Flow {
    pub client: String,
    pub frontend: String,
    /// The client as the backend sees it.
    pub source: String,
    pub backend: String,
}

impl Flow {
    /// A packet to the client: as the client receives it, and as the backend sent it.
    pub fn answers(&self, cast: &Cast) -> [Segment; 2] {
        [
            cast.later(&self.frontend, &self.client),
            cast.later(&self.backend, &self.source),
        ]
    }

    /// A packet from the client: as the client sent it, and as the backend receives it.
    pub fn questions(&self, cast: &Cast) -> [Segment; 2] {
        [
            cast.later(&self.client, &self.frontend),
            cast.later(&self.source, &self.backend),
        ]
    }
}

/// A world with a Service that has this one backend.
pub fn world(cast: &Cast, backend: &str, local: bool) -> World {
    let names = cast.names;
    let world = node(names);
    let service = Service::new(cast.protocol)
        .frontend(FrontendKind::ClusterIp, &at(names.cluster_ip, 80))
        .frontend(FrontendKind::LoadBalancer, &at(names.load_balancer, 80))
        .node_port(names.family, 30_001);
    world.add_service(&if local {
        service.local_backend(backend)
    } else {
        service.backend(backend)
    });
    world
}

/// Three quotes of a packet: the minimum of 8 bytes, up to TCP's checksum, and longer. SCTP packets have no
/// checksum here, because a quoted one cannot be updated without the whole packet.
pub fn quotes(packet: &Segment) -> [Vec<u8>; 3] {
    let mut packet = packet.clone().payload(&[0x5a; 30]);
    if packet.protocol() == protocol::SCTP {
        packet = packet.without_checksum();
    }
    [8, 18, 34].map(|bytes| packet.quoted(bytes))
}

pub fn error(from: &str, to: &str, kind: [u8; 2], quoted: &[u8]) -> Segment {
    Segment::icmp_error(from, to, kind, quoted).rest(1400)
}

/// An ICMP error at a hook, and its expected translation and fate.
pub struct Case<'a> {
    pub hook: Hook,
    /// Sender, destination and quoted packet, before and after translation.
    pub before: (&'a str, &'a str, &'a Segment),
    pub after: (&'a str, &'a str, &'a Segment),
    pub fate: fn(Segment) -> Fate,
}

impl Case<'_> {
    /// Steps for every kind of error and every length of quote.
    pub fn steps(&self) -> Vec<Step<'static>> {
        let (from, to, about) = self.before;
        let (other_from, other_to, other) = self.after;
        let mut steps = Vec::new();
        for (index, kind) in kinds(about.is_v4()).iter().enumerate() {
            for (quoted, expected) in quotes(about).iter().zip(quotes(other)) {
                steps.push(packet(
                    "an error",
                    self.hook,
                    &error(from, to, *kind, quoted),
                    (self.fate)(error(other_from, other_to, *kind, &expected)),
                ));
            }
            steps.push(Step::Counted(
                Counter::IcmpTranslated,
                3 * (index as u64 + 1),
            ));
        }
        steps
    }
}

/// Opens the flow by its first packet at `hook`, and by a reply at `answered` if given.
pub fn open(cast: &Cast, world: &World, hook: Hook, flow: &Flow, answered: Option<Hook>) {
    let mut first = cast.first(&flow.client, &flow.frontend).frame();
    assert_ne!(run(world, hook, &mut first), Verdict::Pass);
    if let Some(hook) = answered {
        let mut answer = cast.answer(&flow.backend, &flow.source).frame();
        assert_ne!(run(world, hook, &mut answer), Verdict::Pass);
    }
}

pub fn here(names: &Names) -> Flow {
    Flow {
        client: at(names.client, 40_000),
        frontend: at(names.node, 30_001),
        source: at(names.client, 40_000),
        backend: at(names.pod_a, 8080),
    }
}

pub fn elsewhere(names: &Names) -> Flow {
    Flow {
        source: at(names.node, SNAT_PORT),
        backend: at(names.far_pod, 8080),
        ..here(names)
    }
}
