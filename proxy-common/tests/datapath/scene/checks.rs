//! Checks for every packet, and for the tables after every action.

use std::net::SocketAddr;

use proxy_common::{
    abi::{
        counter::Counter,
        device::LinkType,
        flow::Half,
        protocol::{SCTP, TCP},
    },
    addr::Addr,
    datapath::Verdict,
    host::{Frame, Segment, Transport},
    parse::{Headers, Kind, parse},
    tables::FlowTable,
};

use super::{Part, Scene};
use crate::{
    fixture::{Dump, Hook, run},
    model::Tuple,
    node::link,
    xdp::of_both,
};

impl Scene {
    /// Passes a packet with this tuple through a hook. Returns the verdict and the resulting tuple. All
    /// checksums of the result must equal those of a packet built with that tuple.
    pub(super) fn put(&mut self, hook: Hook, tuple: Tuple, part: Part) -> (Verdict, Tuple) {
        self.packets = self.packets.wrapping_add(1);
        let transport = match tuple.protocol {
            TCP => Transport::Tcp {
                flags: part.flags(),
                seq: u32::from(self.packets) << 9,
                ack: 77,
                window: self.packets,
            },
            SCTP => Transport::Sctp {
                tag: u32::from(self.packets) << 9,
                chunk: part.chunk(),
                checksum: !self.packets.is_multiple_of(5),
            },
            _ => Transport::Udp {
                checksum: !self.packets.is_multiple_of(5) || tuple.src.is_ipv6(),
            },
        };
        let payload: Vec<u8> = (0..self.packets % 7).map(|n| n as u8).collect();
        let device = match hook {
            Hook::Pod(device) | Hook::In(device) | Hook::Out(device) => device,
        };
        let build = |tuple: Tuple, hops: u8| {
            let segment = Segment::new(tuple.src, tuple.dst, transport.clone())
                .identification(self.packets)
                .payload(&payload)
                .hop_limit(hops);
            match link(device) {
                LinkType::Ethernet => segment,
                LinkType::RawIp => segment.raw_ip(),
            }
        };
        let mut frame = build(tuple, 64).frame();
        let verdict = run(&self.world, hook, &mut frame);
        let came = tuple_of(&frame, link(device));
        if let Verdict::Drop(reason) = verdict {
            self.tally.drop(reason);
            return (verdict, came);
        }
        let hops = if matches!(verdict, Verdict::Forward { .. }) {
            63
        } else {
            64
        };
        let network = match link(device) {
            LinkType::Ethernet => 14,
            LinkType::RawIp => 0,
        };
        assert_eq!(
            Dump(&frame.bytes()[network..]),
            Dump(&build(came, hops).bytes()[network..]),
            "{tuple:?} became {came:?}"
        );
        if verdict == Verdict::Pass {
            assert_eq!(came, tuple);
        }
        (verdict, came)
    }

    /// Each confirmed flow has two halves that hold each other's keys.
    pub(super) fn check_tables(&self) {
        let world = &self.world;
        for (key, value) in world.flows.entries() {
            let other = value.out.inverted();
            let back = [FlowTable::Confirmed, FlowTable::Claims]
                .into_iter()
                .find_map(|table| world.flow_table(table).get(&other));
            let back = back.unwrap_or_else(|| panic!("{key:?} has no other half"));
            assert_eq!(back.out.inverted(), key);
            assert_ne!(back.half, value.half);
        }
        for (key, value) in world.snat_claims.entries() {
            let forward = value.out.inverted();
            let confirmed = world
                .flows
                .get(&forward)
                .is_some_and(|f| f.out.inverted() == key);
            let new = world
                .new_flows
                .get(&forward)
                .is_some_and(|f| f.out.inverted() == key);
            assert!(value.half == Half::Reverse as u8 && !(confirmed && new));
        }
    }

    /// The counters match the events: each drop is counted once, under its reason, and nothing else is counted.
    pub fn balance(&self) {
        for &(reason, times) in &self.tally.drops {
            assert_eq!(self.world.counted(reason), times, "{reason:?}");
        }
        let (created, confirmed) = (
            self.world.counted(Counter::FlowCreated),
            self.world.counted(Counter::FlowConfirmed),
        );
        assert_eq!(confirmed, self.tally.confirmed);
        assert!(created >= confirmed);
        let all: u64 = of_both(&self.world).iter().map(|(_, n)| n).sum();
        let drops: u64 = self.tally.drops.iter().map(|(_, n)| n).sum();
        assert_eq!(
            all,
            created + confirmed + drops,
            "{:?}",
            self.world.counters()
        );
    }
}

fn tuple_of(frame: &Frame, link: LinkType) -> Tuple {
    let mut h = Headers::default();
    let kind = parse(&mut frame.clone(), link, &mut h);
    assert_eq!(kind, Kind::Transport, "the headers can no longer be parsed");
    let end = |addr: &Addr, port: u16| SocketAddr::new(addr.to_ip(), port);
    Tuple {
        protocol: h.tuple.protocol,
        src: end(&h.tuple.src, h.tuple.src_port.get()),
        dst: end(&h.tuple.dst, h.tuple.dst_port.get()),
    }
}
