//! A simulated node together with its model, and the actions that change both.

mod checks;

use proptest::prelude::*;
use proxy_common::{
    abi::{
        counter::Counter,
        frontend::FrontendKind,
        protocol::{SCTP, TCP, UDP, has_connections},
        settings::PortRange,
        target::BackendState,
    },
    datapath::Verdict,
    host::{Service, World},
    parse::{sctp_chunk, tcp_flags},
};

use crate::{
    fixture::Hook,
    model::{
        Backend, Client, Conversation, Frontend, Model, Tuple, Way, backend_of, backends, clients,
        frontends, shape,
    },
    node::{HAIRPIN_PORT, Names, SNAT_PORT, at, node},
    properties::{Action, Asking},
};

/// Role of a packet in its conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    First,
    Answer,
    Later,
    Fin,
    Reset,
}

impl Part {
    const fn flags(self) -> u8 {
        match self {
            Self::First => tcp_flags::SYN,
            Self::Answer => tcp_flags::SYN | tcp_flags::ACK,
            Self::Later => tcp_flags::ACK,
            Self::Fin => tcp_flags::FIN | tcp_flags::ACK,
            Self::Reset => tcp_flags::RST | tcp_flags::ACK,
        }
    }

    const fn chunk(self) -> u8 {
        match self {
            Self::First => sctp_chunk::INIT,
            Self::Answer => sctp_chunk::INIT_ACK,
            Self::Later => sctp_chunk::DATA,
            Self::Fin => sctp_chunk::SHUTDOWN,
            Self::Reset => sctp_chunk::ABORT,
        }
    }
}

/// Expected values of counters.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    drops: Vec<(Counter, u64)>,
    confirmed: u64,
}

pub struct Scene {
    names: &'static Names,
    world: World,
    model: Model,
    tally: Tally,
    clients: [Client; 5],
    frontends: [Frontend; 5],
    backends: [Backend; 6],
    /// For each backend, its ids in `BACKENDS`: one per Service that has it.
    ids: [Vec<u32>; 6],
    packets: u16,
}

impl Scene {
    pub fn new(names: &'static Names) -> Self {
        let world = node(names);
        let range = |first, count| PortRange {
            first,
            last: first + count - 1,
        };
        world.configure(|settings| {
            settings.snat_ports[0] = range(SNAT_PORT, 400);
            settings.hairpin_ports = range(HAIRPIN_PORT, 100);
        });
        let mut scene = Self {
            names,
            world,
            model: Model::default(),
            tally: Tally::default(),
            clients: clients(names),
            frontends: frontends(names),
            backends: backends(names),
            ids: Default::default(),
            packets: 0,
        };
        for protocol in [TCP, UDP, SCTP] {
            scene.add_services(protocol);
        }
        scene
    }

    fn add_services(&mut self, protocol: u8) {
        for frontend in &self.frontends {
            let service = Service::new(protocol);
            let is_node_port = frontend.at == at(self.names.node, 30_001);
            let service = if is_node_port {
                service.node_port(self.names.family, 30_001)
            } else if frontend.for_outside {
                service.frontend(FrontendKind::LoadBalancer, &frontend.at)
            } else {
                service.frontend(FrontendKind::ClusterIp, &frontend.at)
            };
            let service = frontend.backends.iter().fold(service, |service, &index| {
                let backend = &self.backends[index];
                match backend.remote_by {
                    Some(_) => service.backend(&backend.at()),
                    None => service.local_backend(&backend.at()),
                }
            });
            let placed = self.world.add_service(&service);
            for (&index, id) in frontend.backends.iter().zip(placed.backends) {
                self.ids[index].push(id);
            }
        }
    }

    pub fn play(&mut self, action: &Action) {
        match action {
            Action::Open(asking) => {
                let outer = self.outer(asking);
                if self.ask(outer, asking, Part::First) {
                    self.answer(outer, Part::Answer);
                    self.ask(outer, asking, Part::Later);
                    self.answer(outer, Part::Later);
                }
            }
            Action::Knock(asking) => {
                let outer = self.outer(asking);
                self.ask(outer, asking, Part::First);
            }
            Action::Stray(asking) => {
                let outer = self.outer(asking);
                self.ask(outer, asking, Part::Later);
            }
            Action::Answer(which) => {
                let all: Vec<Tuple> = self.model.conversations.keys().copied().collect();
                if !all.is_empty() {
                    self.answer(*which.get(&all), Part::Answer);
                }
            }
            Action::Speak(which) => self.speak(*which),
            Action::Finish(which, by_client, reset) => self.finish(*which, *by_client, *reset),
            Action::Straight {
                protocol,
                client,
                port,
                backend,
            } => self.straight(*protocol, *client, *port, *backend),
            Action::Wait(tenths) => {
                let ticks = self.world.settings.get().hz * tenths / 10;
                self.world.clock.set(self.world.clock.get() + ticks);
            }
            Action::Toggle(backend) => {
                let down = &mut self.model.down[*backend];
                *down = !*down;
                let state = if *down {
                    BackendState::NotServing
                } else {
                    BackendState::Serving
                };
                for &id in &self.ids[*backend] {
                    self.world.set_backend_state(id, state);
                }
            }
        }
        self.check_tables();
    }

    fn outer(&self, asking: &Asking) -> Tuple {
        let client = &self.clients[asking.client];
        let src = at(client.address, 50_000 + u16::from(asking.port));
        Tuple::new(asking.protocol, &src, &self.frontends[asking.frontend].at)
    }

    /// Sends a client's packet to a frontend and checks the result. Returns whether it was translated.
    fn ask(&mut self, outer: Tuple, asking: &Asking, part: Part) -> bool {
        let client = self.clients[asking.client];
        let hook = if client.is_pod {
            Hook::Pod(client.device)
        } else {
            Hook::In(client.device)
        };
        let known = self.model.conversations.get(&outer).copied();
        let live = self.model.is_live(&outer);
        let created = self.world.counted(Counter::FlowCreated);
        let (verdict, inner) = self.put(hook, outer, part);
        let created = self.world.counted(Counter::FlowCreated) - created;

        let frontend = self.frontends[asking.frontend].clone();
        let begins = part == Part::First || outer.protocol == UDP;
        let way = match verdict {
            Verdict::Continue => Way::On,
            Verdict::Forward { ifindex } => Way::Out(ifindex),
            Verdict::Bounce => Way::Round,
            Verdict::Send { .. } => {
                panic!("only XDP returns Send, and `with_and_without` converts it")
            }
            Verdict::Masquerade => panic!("masquerading is off"),
            Verdict::Pass => {
                // The frontend is not served to clients outside (semantics S6), or the packet belongs to no
                // flow (semantics P5).
                let not_for_it = !client.is_pod && !frontend.for_outside;
                assert!(not_for_it || !begins, "{outer:?} was passed");
                assert!(!live, "{outer:?} is live and was passed");
                return false;
            }
            Verdict::Drop(reason) => {
                assert!(!live, "{outer:?} is live and was dropped: {reason:?}");
                let none_serves = frontend.backends.iter().any(|&b| self.model.down[b]);
                assert!(
                    reason == Counter::DropStaleBackend && none_serves,
                    "{outer:?} was dropped: {reason:?}"
                );
                // A previous flow with this tuple has ended.
                self.model.conversations.remove(&outer);
                return false;
            }
        };
        assert!(
            client.is_pod || frontend.for_outside,
            "S6: {outer:?} was translated"
        );

        let backend = backend_of(self.names, &frontend, inner.dst)
            .unwrap_or_else(|| panic!("{outer:?} went to {inner:?}, not one of its backends"));
        let (source, expected) = shape(&client, outer.dst, &self.backends[backend]);
        assert_eq!(
            (inner.src.ip(), way),
            (source.ip(), expected),
            "{outer:?} became {inner:?}"
        );
        self.check_port(&outer, &inner, way);
        if live || known.is_some_and(|known| known.confirmed && !begins) {
            let known = known.expect("a live conversation is known");
            assert_eq!(inner, known.inner, "{outer:?} did not keep its tuple");
            assert_eq!(created, 0, "{outer:?} was created again");
        }
        if created == 1 {
            assert!(
                !self.model.down[backend],
                "{outer:?} went to a backend that is down"
            );
        }
        assert!(
            created == 1 || known.is_some(),
            "{outer:?} is new, but was not created"
        );
        let kept = known.filter(|known| known.inner == inner && created == 0);
        self.model.became(
            outer,
            Conversation {
                inner,
                backend,
                client: asking.client,
                confirmed: kept.is_some_and(|kept| kept.confirmed),
                closed: kept
                    .is_some_and(|kept| kept.closed || part == Part::Fin || part == Part::Reset),
            },
        );
        true
    }

    /// Checks the translated source port: the client's own, or one from the ranges.
    fn check_port(&self, outer: &Tuple, inner: &Tuple, way: Way) {
        let settings = self.world.settings.get();
        let (own, port) = (outer.src.port(), inner.src.port());
        let fits = match way {
            Way::Round => settings.hairpin_ports.contains(port),
            Way::Out(_) => settings.snat_ports[0].contains(port),
            Way::On => port == own || settings.snat_ports[0].contains(port),
        };
        assert!(
            fits,
            "{outer:?} became {inner:?}: a port outside the ranges"
        );
    }

    /// Sends the backend's reply on the conversation's translated tuple, and checks its translation.
    fn answer(&mut self, outer: Tuple, part: Part) {
        let Some(&conversation) = self.model.conversations.get(&outer) else {
            return;
        };
        if !self.model.owns(&outer) {
            return;
        }
        let client = self.clients[conversation.client];
        let (_, way) = shape(&client, outer.dst, &self.backends[conversation.backend]);
        let (hook, expected) = match way {
            Way::On if client.is_pod => (Hook::Out(client.device), Verdict::Continue),
            Way::On => (Hook::Out(client.device), Verdict::Continue),
            Way::Round => (Hook::Pod(client.device), Verdict::Bounce),
            Way::Out(device) => {
                let ifindex = client.device;
                (Hook::In(device), Verdict::Forward { ifindex })
            }
        };
        let confirmed = self.world.counted(Counter::FlowConfirmed);
        let (verdict, came) = self.put(hook, conversation.inner.inverted(), part);
        assert_eq!(verdict, expected, "the reply to {outer:?}");
        assert_eq!(came, outer.inverted(), "the reply to {outer:?}");
        let confirmed = self.world.counted(Counter::FlowConfirmed) - confirmed;
        assert_eq!(confirmed, u64::from(!conversation.confirmed), "{outer:?}");
        self.tally.confirmed += confirmed;
        let closes = matches!(part, Part::Fin | Part::Reset);
        if let Some(conversation) = self.model.conversations.get_mut(&outer) {
            conversation.confirmed = true;
            conversation.closed |= closes;
        }
    }

    fn speak(&mut self, which: prop::sample::Index) {
        let live = self.model.live();
        if live.is_empty() {
            return;
        }
        let outer = *which.get(&live);
        if let Some(asking) = self.asking_of(&outer) {
            assert!(self.ask(outer, &asking, Part::Later));
            self.answer(outer, Part::Later);
        }
    }

    fn finish(&mut self, which: prop::sample::Index, by_client: bool, reset: bool) {
        let live = self.model.live();
        let connections: Vec<Tuple> = live
            .into_iter()
            .filter(|outer| has_connections(outer.protocol))
            .collect();
        if connections.is_empty() {
            return;
        }
        let outer = *which.get(&connections);
        let part = if reset { Part::Reset } else { Part::Fin };
        match self.asking_of(&outer) {
            Some(asking) if by_client => {
                self.ask(outer, &asking, part);
            }
            Some(_) => self.answer(outer, part),
            None => {}
        }
    }

    fn asking_of(&self, outer: &Tuple) -> Option<Asking> {
        let conversation = self.model.conversations.get(outer)?;
        let frontend = self
            .frontends
            .iter()
            .position(|frontend| frontend.at == outer.dst.to_string())?;
        Some(Asking {
            client: conversation.client,
            port: (outer.src.port() - 50_000) as u8,
            frontend,
            protocol: outer.protocol,
        })
    }

    /// Sends a SYN or INIT to a backend's own address. It must pass unchanged, unless its tuple is that of a
    /// live conversation.
    fn straight(&mut self, protocol: u8, client: usize, port: u8, backend: usize) {
        let who = self.clients[client];
        if who.address == self.backends[backend].address {
            return;
        }
        let src = at(who.address, 50_000 + u16::from(port));
        let outer = Tuple::new(protocol, &src, &self.backends[backend].at());
        let hook = if who.is_pod {
            Hook::Pod(who.device)
        } else {
            Hook::In(who.device)
        };
        let (verdict, inner) = self.put(hook, outer, Part::First);
        if verdict == Verdict::Pass {
            self.model.straight(outer);
            self.model.conversations.remove(&outer);
            return;
        }
        assert_eq!(verdict, Verdict::Continue, "{outer:?}");
        assert_eq!((inner.src.ip(), inner.dst), (outer.src.ip(), outer.dst));
        assert_ne!(inner.src.port(), outer.src.port(), "{outer:?}");
        let known = self.model.conversations.get(&outer).copied();
        let kept = known.filter(|known| known.inner == inner);
        self.model.became(
            outer,
            Conversation {
                inner,
                backend,
                client,
                confirmed: kept.is_some_and(|kept| kept.confirmed),
                closed: kept.is_some_and(|kept| kept.closed),
            },
        );
    }
}

impl Tally {
    fn drop(&mut self, reason: Counter) {
        match self.drops.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, times)) => *times += 1,
            None => self.drops.push((reason, 1)),
        }
    }
}
