//! Frames: conversations through every frontend, and what noise makes of them.

use std::net::SocketAddr;

use proxy_common::{
    abi::{flow::FlowKey, protocol},
    datapath::Verdict,
    host::{MacPair, Segment, Transport},
    parse::{sctp_chunk, tcp_flags},
};

use crate::{
    chance::Chance,
    namespace::{OVERLAY, POD_A, POD_B, UPLINK, mac},
    sent::{Became, Hook, Sent},
    services::{BOTH, NODE_PORTS, Names, PORTS, TAKEN_PORT, at},
};

/// Who could speak to whom, and where that would be seen.
#[derive(Clone, Copy, Debug)]
struct Talk {
    hook: Hook,
    protocol: u8,
    src: SocketAddr,
    dst: SocketAddr,
}

pub struct Generator {
    chance: Chance,
    /// Packets that were translated, and the answers to them.
    known: Vec<Talk>,
}

/// Talks that are remembered.
const MEMORY: usize = 600;

impl Generator {
    pub const fn new(chance: Chance) -> Self {
        Self {
            chance,
            known: Vec::new(),
        }
    }

    pub const fn chance(&mut self) -> &mut Chance {
        &mut self.chance
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.chance.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.chance.below(from.len() as u64) as usize]
    }

    /// The next frame.
    pub fn next(&mut self) -> Sent {
        let talk = if self.known.is_empty() || self.one_in(2) {
            self.begin()
        } else {
            let talk = self.chance.below(self.known.len() as u64);
            self.known[talk as usize]
        };
        let segment = if talk.hook.ifindex() != OVERLAY && self.one_in(10) {
            self.icmp_error(&talk)
        } else {
            self.segment(&talk)
        };
        let mut sent = Sent {
            hook: match talk.hook {
                // XDP is before tc, where there is any.
                Hook::In(ifindex) if ifindex != OVERLAY && self.one_in(2) => Hook::Xdp(ifindex),
                hook => hook,
            },
            bytes: segment.bytes(),
            segment: 0,
            linear: 0,
            summed: self.one_in(2),
        };
        if self.one_in(4) {
            // As drivers deliver it: at least the Ethernet header is linear.
            sent.linear = 14 + self.chance.below(sent.bytes.len() as u64 - 13) as u32;
        }
        if sent.bytes.len() > 1000 && self.one_in(2) {
            sent.segment = 200 + self.chance.below(2000) as u32;
        }
        if self.one_in(4) {
            self.garble(&mut sent.bytes);
        }
        sent
    }

    /// Remembers what a frame became, for answers and more of the same.
    pub fn learn(&mut self, sent: &Sent, became: Became) {
        let (Some(before), Some(after)) = (became.before, became.after) else {
            return;
        };
        let back = match (sent.hook, became.verdict) {
            (Hook::Pod(ifindex) | Hook::In(ifindex), Verdict::Continue | Verdict::Masquerade) => {
                Hook::Out(ifindex)
            }
            (Hook::In(_), Verdict::Forward { ifindex })
            | (Hook::Xdp(_), Verdict::Send { ifindex })
            | (Hook::Xdp(ifindex), Verdict::Bounce) => Hook::In(ifindex),
            (hook, Verdict::Bounce) if self.one_in(3) => hook,
            (Hook::Xdp(ifindex), Verdict::Pass) => {
                // What XDP leaves alone is tc's next.
                if self.one_in(2) {
                    self.remember(Talk::of(Hook::In(ifindex), &before));
                }
                return;
            }
            _ => return,
        };
        self.remember(Talk::of(sent.hook, &before));
        self.remember(Talk::of(back, &after.inverted()));
        if back == Hook::Out(OVERLAY) {
            self.remember(Talk::of(back, &after.inverted()));
        }
        if self.one_in(8) {
            // Where answers come in, they must be left alone.
            self.remember(Talk::of(Hook::In(UPLINK), &after.inverted()));
            self.remember(Talk::of(Hook::Pod(POD_B), &after.inverted()));
        }
        if self.one_in(8) {
            // Straight to the backend.
            self.remember(Talk::of(sent.hook, &after));
        }
    }

    fn remember(&mut self, mut talk: Talk) {
        if let Hook::Xdp(ifindex) = talk.hook {
            talk.hook = Hook::In(ifindex);
        }
        if self.known.len() < MEMORY {
            self.known.push(talk);
        } else {
            let place = self.chance.below(MEMORY as u64);
            self.known[place as usize] = talk;
        }
    }

    /// A packet of somebody to some frontend, or near one.
    fn begin(&mut self) -> Talk {
        let names = &BOTH[self.chance.below(2) as usize];
        let (hook, client) = self.client(names);
        let addresses: Vec<&str> = names
            .vips
            .into_iter()
            .chain(names.load_balancers)
            .chain([names.node, names.node, names.quiet_node, names.far_pod])
            .collect();
        let address = self.pick(&addresses);
        let port = if address == names.node {
            let ports = [
                NODE_PORTS[0],
                NODE_PORTS[0],
                NODE_PORTS[1],
                8443,
                TAKEN_PORT,
                80,
            ];
            self.pick(&ports)
        } else {
            self.pick(&PORTS)
        };
        let source = 50_000 + self.chance.below(40) as u16;
        Talk {
            hook,
            protocol: self.pick(&[protocol::TCP, protocol::UDP, protocol::SCTP]),
            src: at(client, source).parse().expect("an address and port"),
            dst: at(address, port).parse().expect("an address and port"),
        }
    }

    fn client(&mut self, names: &'static Names) -> (Hook, &'static str) {
        match self.chance.below(14) {
            0..6 => {
                let (ifindex, pod) = self.pick(&names.pods);
                (Hook::Pod(ifindex), pod)
            }
            6..10 => (Hook::In(UPLINK), self.pick(&names.clients)),
            10..13 => (Hook::In(OVERLAY), names.overlay_pod),
            _ => (Hook::Out(self.pick(&[POD_A, OVERLAY])), names.overlay_pod),
        }
    }

    fn segment(&mut self, talk: &Talk) -> Segment {
        let to_frontend = talk.dst.port() < 32_768 && !(20_000..20_020).contains(&talk.dst.port());
        let flags = match self.chance.below(16) {
            0 => tcp_flags::FIN | tcp_flags::ACK,
            1 => tcp_flags::RST | tcp_flags::ACK,
            2..5 => tcp_flags::ACK,
            5 => self.chance.next() as u8,
            _ if to_frontend => tcp_flags::SYN,
            _ => tcp_flags::SYN | tcp_flags::ACK,
        };
        let transport = match talk.protocol {
            protocol::TCP => Transport::Tcp {
                flags,
                seq: self.chance.next() as u32,
                ack: self.chance.next() as u32,
                window: self.chance.next() as u16,
            },
            protocol::SCTP => Transport::Sctp {
                tag: self.chance.next() as u32,
                chunk: self.chunk(to_frontend),
                checksum: !self.one_in(6),
            },
            _ => Transport::Udp {
                checksum: !self.one_in(6),
            },
        };
        let mut segment = Segment::new(talk.src, talk.dst, transport)
            .identification(self.chance.next() as u16)
            .macs(MacPair {
                dst: mac(talk.hook.ifindex()),
                src: [2, 0, 0, 0, 0, 0xfe],
            });
        if self.one_in(16) {
            let odd = [[2, 9, 9, 9, 9, 9], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]];
            segment = segment.macs(MacPair {
                dst: self.pick(&odd),
                src: [2, 0, 0, 0, 0, 0xfe],
            });
        }
        let raw = talk.hook.ifindex() == OVERLAY;
        let len = match self.chance.below(16) {
            // The length by which a test run takes it for this node's.
            _ if raw => match segment.protocol() {
                protocol::TCP => 0,
                protocol::SCTP => 4,
                _ => 12,
            },
            0 => 1000 + self.chance.below(900),
            1 => self.chance.below(3),
            _ => self.chance.below(40),
        };
        let payload: Vec<u8> = (0..len).map(|_| self.chance.next() as u8).collect();
        segment = segment.payload(&payload);
        if self.one_in(12) {
            segment = segment.hop_limit(self.pick(&[0, 1, 2, 255]));
        }
        if raw {
            return segment.raw_ip();
        }
        self.dressed(segment)
    }

    /// An error that goes where a packet of a talk goes, about an answer to it; by the receiver of that, or by a router.
    fn icmp_error(&mut self, talk: &Talk) -> Segment {
        let answer = Talk {
            src: talk.dst,
            dst: talk.src,
            ..*talk
        };
        let about = self.segment(&answer);
        let kinds: &[[u8; 2]] = if about.is_v4() {
            &[[3, 1], [3, 3], [3, 4], [4, 0], [5, 0], [11, 0], [12, 0]]
        } else {
            &[[1, 0], [1, 4], [2, 0], [3, 0], [4, 1], [129, 0]]
        };
        let names = &BOTH[usize::from(!about.is_v4())];
        let from = if self.one_in(2) {
            talk.src.ip().to_string()
        } else {
            self.pick(&names.clients).to_owned()
        };
        let to = if self.one_in(12) {
            names.node.to_owned()
        } else {
            talk.dst.ip().to_string()
        };
        let transport = 4 + self.chance.below(40) as usize;
        let kind = self.pick(kinds);
        let mut error = Segment::icmp_error(&from, &to, kind, &about.quoted(transport))
            .rest(self.chance.next() as u32)
            .macs(MacPair {
                dst: mac(talk.hook.ifindex()),
                src: [2, 0, 0, 0, 0, 0xfe],
            });
        if self.one_in(12) {
            error = error.hop_limit(self.pick(&[0, 1, 2, 255]));
        }
        self.dressed(error)
    }

    /// The first chunk of an SCTP packet.
    fn chunk(&mut self, to_frontend: bool) -> u8 {
        match self.chance.below(16) {
            0 => self.pick(&[sctp_chunk::SHUTDOWN, sctp_chunk::SHUTDOWN_ACK]),
            1 => self.pick(&[sctp_chunk::ABORT, sctp_chunk::SHUTDOWN_COMPLETE]),
            2..5 => self.pick(&[
                sctp_chunk::DATA,
                sctp_chunk::COOKIE_ECHO,
                sctp_chunk::COOKIE_ACK,
            ]),
            5 => self.chance.next() as u8,
            _ if to_frontend => sctp_chunk::INIT,
            _ => sctp_chunk::INIT_ACK,
        }
    }

    /// Tags, options, extension headers, fragments.
    fn dressed(&mut self, segment: Segment) -> Segment {
        match self.chance.below(24) {
            0 => segment.tagged(0x8100, 0xa000),
            1 => segment.tagged(0x88a8, self.chance.next() as u16),
            part @ (2 | 3) => {
                // Few identifications: a later one finds its first now and then. IPv6 has but one here.
                let segment = segment.identification(self.chance.below(2) as u16);
                if part == 2 {
                    segment.fragment(0, true)
                } else {
                    segment.fragment(self.chance.below(20) as u16, false)
                }
            }
            4 | 5 => {
                if segment.is_v4() {
                    let options = self.chance.below(41) as usize;
                    return segment.ip_options(&[1; 40][..options]);
                }
                let mut segment = segment;
                for _ in 0..=self.chance.below(5) {
                    let number = self.pick(&[0, 43, 60]);
                    let data = self.chance.below(60) as usize;
                    segment = segment.extension(number, &[0; 60][..data]);
                }
                segment
            }
            _ => segment,
        }
    }

    /// Noise: some bytes changed, the end cut off or padded, a length or protocol that lies.
    fn garble(&mut self, bytes: &mut Vec<u8>) {
        match self.chance.below(8) {
            0 | 1 => {
                let len = 15 + self.chance.below(bytes.len() as u64 - 14) as usize;
                bytes.truncate(len);
            }
            2 => {
                let padding = self.chance.below(60) as usize;
                bytes.resize(bytes.len() + padding, 0);
            }
            3 => {
                // Version, lengths, fragment, hop limit, protocol, extension headers.
                let at = 12 + self.chance.below(40) as usize;
                self.change(bytes, at);
            }
            4 => {
                for at in [16, 17, 18, 19] {
                    if self.one_in(2) {
                        self.change(bytes, at);
                    }
                }
            }
            _ => {
                for _ in 0..=self.chance.below(4) {
                    let at = self.chance.below(bytes.len() as u64) as usize;
                    self.change(bytes, at);
                }
            }
        }
    }

    fn change(&mut self, bytes: &mut [u8], at: usize) {
        let noise = if self.one_in(2) {
            1 << self.chance.below(8)
        } else {
            self.chance.next() as u8
        };
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= noise;
        }
    }
}

impl Talk {
    fn of(hook: Hook, tuple: &FlowKey) -> Self {
        let end = |addr: &proxy_common::addr::Addr, port: u16| SocketAddr::new(addr.to_ip(), port);
        Self {
            hook,
            protocol: tuple.protocol,
            src: end(&tuple.src, tuple.src_port.get()),
            dst: end(&tuple.dst, tuple.dst_port.get()),
        }
    }
}
