//! Random sequences of packets, both ways, against the model: answers are translated to what was asked, no two live
//! conversations share a tuple, a conversation keeps its backend, and every event is counted once.

use proptest::prelude::*;
use proxy_common::abi::protocol::{SCTP, TCP, UDP};

use crate::{node::BOTH, scene::Scene};

/// Source ports of clients: few, so that they meet.
const PORTS: u8 = 3;

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Action {
    /// A client asks a frontend, is answered, and both go on.
    Open(Asking),
    /// A client asks a frontend. Nobody answers, yet.
    Knock(Asking),
    /// A packet in the middle of a connection, of which perhaps nothing is known.
    Stray(Asking),
    /// A conversation is answered.
    Answer(prop::sample::Index),
    /// A live conversation goes on, both ways.
    Speak(prop::sample::Index),
    /// A connection ends, by a FIN (SHUTDOWN) or RST (ABORT) of the client or of the backend.
    Finish(prop::sample::Index, bool, bool),
    /// A client asks a backend by its own address, over TCP or SCTP.
    Straight {
        protocol: u8,
        client: usize,
        port: u8,
        backend: usize,
    },
    /// Time passes.
    Wait(u32),
    /// A backend stops serving, or serves again.
    Toggle(usize),
}

/// A client, one of its ports, a frontend, a protocol.
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
