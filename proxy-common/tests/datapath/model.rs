//! A simple model of translation: what a packet may become, and which conversation owns a tuple. It knows the
//! code under test only by the packets that come out.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::node::{Names, OVERLAY, POD_A, POD_C, UPLINK, at};

/// Protocol, source and destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    pub protocol: u8,
    pub src: SocketAddr,
    pub dst: SocketAddr,
}

impl Tuple {
    pub fn new(protocol: u8, src: &str, dst: &str) -> Self {
        let end = |text: &str| text.parse().expect("an address and port");
        Self {
            protocol,
            src: end(src),
            dst: end(dst),
        }
    }

    pub const fn inverted(self) -> Self {
        Self {
            protocol: self.protocol,
            src: self.dst,
            dst: self.src,
        }
    }
}

/// A client, the device that leads to it, and whether that is a pod's device.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub address: &'static str,
    pub device: u32,
    pub is_pod: bool,
}

pub fn clients(names: &Names) -> [Client; 5] {
    let client = |address, device, is_pod| Client {
        address,
        device,
        is_pod,
    };
    [
        client(names.pod_a, POD_A, true),
        client(names.pod_c, POD_C, true),
        client(names.client, UPLINK, false),
        client(names.elsewhere, UPLINK, false),
        client(names.overlay_pod, OVERLAY, false),
    ]
}

/// A backend. `remote_by`: if it is on another node, the device that leads there, and this node's address on
/// that device.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    pub address: &'static str,
    pub port: u16,
    pub remote_by: Option<(u32, &'static str)>,
}

impl Backend {
    pub fn at(&self) -> String {
        at(self.address, self.port)
    }

    fn end(&self) -> SocketAddr {
        self.at().parse().expect("an address and port")
    }
}

pub fn backends(names: &Names) -> [Backend; 6] {
    let backend = |address, port, remote_by| Backend {
        address,
        port,
        remote_by,
    };
    [
        backend(names.pod_a, 8080, None),
        backend(names.pod_c, 8080, None),
        backend(names.pod_d, 8080, None),
        backend(names.node, 9090, None),
        backend(names.far_pod, 8080, Some((UPLINK, names.node))),
        // One of the clients has the same address.
        backend(names.overlay_pod, 8080, Some((OVERLAY, names.overlay_node))),
    ]
}

/// A frontend, whether it is served to clients outside, and its backends by index.
#[derive(Clone, Debug)]
pub struct Frontend {
    pub at: String,
    pub for_outside: bool,
    pub backends: &'static [usize],
}

pub fn frontends(names: &Names) -> [Frontend; 5] {
    let frontend = |address, port, for_outside, backends| Frontend {
        at: at(address, port),
        for_outside,
        backends,
    };
    [
        frontend(names.cluster_ip, 80, false, &[0, 1, 2, 4]),
        frontend(names.other_cluster_ip, 80, false, &[0, 1, 2, 4]),
        frontend(names.load_balancer, 80, true, &[2, 4, 5]),
        frontend(names.external_ip, 80, true, &[4]),
        frontend(names.node, 30_001, true, &[0, 3, 4, 5]),
    ]
}

/// Where a client's packet goes after translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Into the kernel's stack.
    On,
    /// Out of this device.
    Out(u32),
    /// Back to the pod that sent it.
    Round,
}

/// The expected source of a client's packet to a backend (the port is not significant), and where it must go
/// (semantics A1, A2, L5).
pub fn shape(client: &Client, frontend: SocketAddr, backend: &Backend) -> (SocketAddr, Way) {
    let address = |text: &str| SocketAddr::new(text.parse().expect("an address"), 0);
    match backend.remote_by {
        _ if client.is_pod && client.address == backend.address => {
            (SocketAddr::new(frontend.ip(), 0), Way::Round)
        }
        Some((device, source)) if !client.is_pod => (address(source), Way::Out(device)),
        _ => (address(client.address), Way::On),
    }
}

/// Index of the backend with address `dst`, if it is one of the frontend's.
pub fn backend_of(names: &Names, frontend: &Frontend, dst: SocketAddr) -> Option<usize> {
    let all = backends(names);
    let mut listed = frontend.backends.iter().copied();
    listed.find(|&index| all[index].end() == dst)
}

/// A conversation of a client with a frontend, or with a backend directly.
#[derive(Clone, Copy, Debug)]
pub struct Conversation {
    /// The tuple of the client's packets after translation.
    pub inner: Tuple,
    pub backend: usize,
    pub client: usize,
    /// Whether the backend has replied.
    pub confirmed: bool,
    /// Whether either side has closed it.
    pub closed: bool,
}

/// All conversations, keyed by the tuple that the client sends.
#[derive(Debug, Default)]
pub struct Model {
    pub conversations: BTreeMap<Tuple, Conversation>,
    /// For each translated tuple, the conversation that used it last.
    owners: BTreeMap<Tuple, Tuple>,
    /// For each backend, whether it has stopped serving.
    pub down: [bool; 6],
}

impl Model {
    /// Whether a conversation is confirmed, and nothing can have ended it. Its translation must not change.
    pub fn is_live(&self, outer: &Tuple) -> bool {
        self.conversations.get(outer).is_some_and(|conversation| {
            conversation.confirmed && !conversation.closed && !self.down[conversation.backend]
        })
    }

    /// Whether a conversation is live and translated to `inner`.
    fn lives_as(&self, outer: &Tuple, inner: &Tuple) -> bool {
        self.is_live(outer) && self.conversations[outer].inner == *inner
    }

    /// Whether replies to the conversation's translated tuple belong to it.
    pub fn owns(&self, outer: &Tuple) -> bool {
        self.conversations
            .get(outer)
            .is_some_and(|conversation| self.owners.get(&conversation.inner) == Some(outer))
    }

    /// Records the translation of a client's packet. Panics if another live conversation has the same
    /// translated tuple.
    pub fn became(&mut self, outer: Tuple, conversation: Conversation) {
        let inner = conversation.inner;
        if let Some(owner) = self.owners.insert(inner, outer) {
            assert!(
                owner == outer || !self.lives_as(&owner, &inner),
                "{outer:?} became {inner:?}, which belongs to {owner:?}"
            );
        }
        self.conversations.insert(outer, conversation);
    }

    /// Records an untranslated packet from a client to a backend. Panics if a live conversation is translated
    /// to its tuple.
    pub fn straight(&mut self, outer: Tuple) {
        if let Some(owner) = self.owners.remove(&outer) {
            assert!(
                !self.lives_as(&owner, &outer),
                "{outer:?} was not translated, but belongs to {owner:?}"
            );
        }
    }

    /// All live conversations, sorted.
    pub fn live(&self) -> Vec<Tuple> {
        let all = self.conversations.keys().copied();
        all.filter(|outer| self.is_live(outer)).collect()
    }
}
