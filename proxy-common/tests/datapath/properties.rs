//! Random sequences of packets in both directions, checked against the model. Replies are translated back to
//! what the client sent, no two live conversations share a tuple, a conversation keeps its backend, and each
//! event is counted once.

use proptest::prelude::*;
use proxy_common::abi::protocol::{SCTP, TCP, UDP};

use crate::{node::BOTH, scene::Scene};

/// Number of source ports per client. Small, so that tuples collide.
const PORTS: u8 = 3;

/// One action in a sequence.
#[derive(Clone, Debug)]
pub enum Action {
    /// A client sends a first packet and gets a reply; then both sides send another packet.
    Open(Asking),
    /// A client sends a first packet and gets no reply yet.
    Knock(Asking),
    /// A packet from the middle of a connection, whether or not that connection exists.
    Stray(Asking),
    /// The backend of a conversation replies.
    Answer(prop::sample::Index),
    /// Both sides of a live conversation send a packet.
    Speak(prop::sample::Index),
    /// One side of a live connection sends FIN (SHUTDOWN) or RST (ABORT). Fields: the connection, whether the
    /// client sends, whether it is a RST.
    Finish(prop::sample::Index, bool, bool),
    /// A client sends a SYN or INIT to a backend's own address.
    Straight {
        protocol: u8,
        client: usize,
        port: u8,
        backend: usize,
    },
    /// Time passes, in tenths of a second.
    Wait(u32),
    /// A backend stops serving, or serves again.
    Toggle(usize),
}

/// A client, one of its ports, and the frontend and protocol of its packet.
#[derive(Clone, Debug)]
pub struct Asking {
    pub client: usize,
    pub port: u8,
    pub frontend: usize,
    pub protocol: u8,
}

fn asking() -> impl Strategy<Value = Asking> {
    let protocol = prop::sample::select(vec![TCP, UDP, SCTP]);
    (0..5usize, 0..PORTS, 0..5usize, protocol).prop_map(|(client, port, frontend, protocol)| {
        Asking {
            client,
            port,
            frontend,
            protocol,
        }
    })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => asking().prop_map(Action::Open),
        4 => asking().prop_map(Action::Knock),
        2 => asking().prop_map(Action::Stray),
        4 => any::<prop::sample::Index>().prop_map(Action::Answer),
        6 => any::<prop::sample::Index>().prop_map(Action::Speak),
        3 => (any::<prop::sample::Index>(), any::<bool>(), any::<bool>())
            .prop_map(|(which, by_client, reset)| Action::Finish(which, by_client, reset)),
        2 => (prop::sample::select(vec![TCP, SCTP]), 0..5usize, 0..PORTS, 0..6usize).prop_map(
            |(protocol, client, port, backend)| Action::Straight { protocol, client, port, backend }),
        2 => (0..60u32).prop_map(Action::Wait),
        2 => (0..6usize).prop_map(Action::Toggle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn translation_is_what_the_model_says(
        v6 in any::<bool>(),
        actions in prop::collection::vec(action(), 1..120),
    ) {
        let mut scene = Scene::new(&BOTH[usize::from(v6)]);
        for action in &actions {
            scene.play(action);
        }
        scene.balance();
    }
}
