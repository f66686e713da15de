//! What the programs cost: printed, not judged. The machine decides, and whoever else is on it.

mod xdp;

use std::{fmt::Write as _, net::SocketAddr};

use proxy_agent::dataplane::{load::PacketProgram, sys::program::TestSkb};
use proxy_common::{
    abi::{
        flow::{FlowKey, FlowValue, Half, flow_flags},
        protocol,
    },
    addr::Addr,
    host::{MacPair, Segment},
    tables::FlowTable,
};

use crate::{
    kernel::{self, Object},
    namespace::{self, OVERLAY, POD_A, UPLINK, mac, skip_reason},
    services::{self, BOTH, Crowding, NODE_PORTS, Names, at},
};

/// Runs of a program in a row, and rows of which the quickest counts.
const REPEAT: u32 = 20_000;
const ROWS: usize = 5;
/// New flows, each a run by itself, of which the median counts.
const NEW_FLOWS: u16 = 1_000;

#[test]
fn numbers() {
    if let Some(reason) = skip_reason() {
        println!("skipped: {reason}");
        return;
    }
    let table = namespace::inside(|pins| {
        let object = Object::load(pins, Crowding::Roomy).expect("the object loads");
        let sockets = kernel::verify_sockets(pins).expect("the object loads");
        let mut table =
            "program               instructions verified    machine code     loading\n".to_owned();
        for program in object.verified.iter().chain(&sockets) {
            let _ = writeln!(
                table,
                "{:20} {:>22} {:>13} B {:>8.1} ms",
                program.name,
                program.instructions,
                program.machine_code,
                program.time.as_secs_f64() * 1e3
            );
        }
        table += "\nnanoseconds for a packet    not ours   established     new flow\n";
        let world = services::world(Crowding::Roomy);
        world.configure(|settings| settings.snat_ports[0].last = 39_999);
        object.maps.fill(&world);
        for names in &BOTH {
            for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP] {
                rows(&object, names, protocol, &mut table);
            }
        }
        let [short, long] = [12, 1_400].map(|payload| new_ports(&object, payload));
        let _ = writeln!(
            table,
            "tc_pod_ingress, SCTP with another port and its checksum: {short} (44 bytes), {long} (1,432)"
        );
        xdp::rows(&object, &mut table);
        table
    });
    println!("{table}");
}

fn rows(object: &Object, names: &Names, protocol: u8, table: &mut String) {
    let (pod, client) = (names.pods[0].1, names.clients[0]);
    let cluster = (at(pod, 40_000), at(names.vips[0], 80));
    let node_port = (at(client, 40_000), at(names.node, NODE_PORTS[0]));
    let to_overlay = (
        at(names.overlay_pod, 40_000),
        at(names.load_balancers[0], 80),
    );
    let ways = [
        (PacketProgram::PodIngress, POD_A, cluster, Half::Forward),
        (
            PacketProgram::UplinkIngress,
            UPLINK,
            node_port,
            Half::Forward,
        ),
        (
            PacketProgram::UplinkIngressL3,
            OVERLAY,
            to_overlay,
            Half::Forward,
        ),
        (
            PacketProgram::Egress,
            POD_A,
            (at(names.far_pod, 8080), at(pod, 40_000)),
            Half::Reverse,
        ),
        (
            PacketProgram::EgressL3,
            OVERLAY,
            (at(names.far_pod, 8080), at(names.overlay_pod, 40_000)),
            Half::Reverse,
        ),
    ];
    for (program, ifindex, (src, dst), half) in ways {
        let packet = |begins: bool, src: &str, dst: &str| {
            let raw = ifindex == OVERLAY;
            // The length by which a test run takes a packet without an Ethernet header for this node's.
            let len = match protocol {
                protocol::TCP if raw => 0,
                protocol::SCTP if raw => 4,
                _ => 12,
            };
            let segment = if begins {
                Segment::first(protocol, src, dst)
            } else {
                Segment::later(protocol, src, dst)
            };
            let segment = segment.payload(&[0x5a; 12][..len]);
            if raw {
                segment.raw_ip()
            } else {
                segment.macs(macs(ifindex))
            }
        };
        let not_ours = in_a_row(
            object,
            program,
            ifindex,
            &packet(false, &src, &at(names.far_pod, 9)),
        );
        known(object, protocol, &src, &dst, half);
        let established = in_a_row(object, program, ifindex, &packet(false, &src, &dst));
        forget(object, protocol, &src, &dst);
        let new_flow = (half == Half::Forward).then(|| {
            let client: SocketAddr = src.parse().expect("an address and port");
            let first = |port| packet(true, &SocketAddr::new(client.ip(), port).to_string(), &dst);
            let mut all: Vec<u32> = (1..=NEW_FLOWS)
                .map(|port| one(object, program, ifindex, &first(port)))
                .collect();
            all.sort_unstable();
            all[all.len() / 2]
        });
        let _ = writeln!(
            table,
            "{:20} {:?} {:4} {not_ours:>9} {established:>12} {:>12}",
            program.name(),
            names.family,
            protocol_name(protocol),
            new_flow.map_or("-".to_owned(), |ns| ns.to_string())
        );
    }
}

/// An established SCTP flow whose packets get another port: of two that are each other's translation, so that runs in a row
/// all find one.
fn new_ports(object: &Object, payload: usize) -> u32 {
    let names = &BOTH[0];
    let [src, one, other] = [
        (names.pods[0].1, 40_000),
        (names.vips[0], 80),
        (names.vips[0], 81),
    ]
    .map(|(address, port)| at(address, port));
    let keys = [&one, &other].map(|dst| key(protocol::SCTP, &src, dst));
    for (key, out) in [(keys[0], keys[1]), (keys[1], keys[0])] {
        let value = FlowValue {
            out,
            ..translated_to_itself(key, Half::Forward)
        };
        object.maps.put_flow(FlowTable::Confirmed, &key, &value);
    }
    let segment = Segment::sctp(&src, &one)
        .payload(&vec![0x5a; payload])
        .macs(macs(POD_A));
    let nanoseconds = in_a_row(object, PacketProgram::PodIngress, POD_A, &segment);
    for key in keys {
        let flows = object.maps.flow_table(FlowTable::Confirmed);
        flows.delete(&key).expect("a deletion");
    }
    nanoseconds
}

const fn protocol_name(protocol: u8) -> &'static str {
    match protocol {
        protocol::TCP => "TCP",
        protocol::SCTP => "SCTP",
        _ => "UDP",
    }
}

const fn macs(ifindex: u32) -> MacPair {
    MacPair {
        dst: mac(ifindex),
        src: [2, 0, 0, 0, 0, 0xfe],
    }
}

/// Runs in a row, of which each gets what the one before has left.
fn in_a_row(object: &Object, program: PacketProgram, ifindex: u32, segment: &Segment) -> u32 {
    let runs = (0..ROWS).map(|_| run(object, program, ifindex, segment, REPEAT));
    runs.min().unwrap_or(0)
}

fn one(object: &Object, program: PacketProgram, ifindex: u32, segment: &Segment) -> u32 {
    run(object, program, ifindex, segment, 1)
}

fn run(
    object: &Object,
    program: PacketProgram,
    ifindex: u32,
    segment: &Segment,
    repeat: u32,
) -> u32 {
    let skb = TestSkb {
        ifindex,
        ..TestSkb::default()
    };
    let run = object.run(program, &segment.bytes(), &skb, repeat);
    run.expect("a run").nanoseconds
}

/// A flow that is translated to what it is, so that runs in a row all find it. It takes the same way through the program
/// as any other.
fn known(object: &Object, protocol: u8, src: &str, dst: &str, half: Half) {
    let key = key(protocol, src, dst);
    let other = if half == Half::Forward {
        Half::Reverse
    } else {
        Half::Forward
    };
    object
        .maps
        .put_flow(FlowTable::Confirmed, &key, &translated_to_itself(key, half));
    let back = key.inverted();
    object.maps.put_flow(
        FlowTable::Confirmed,
        &back,
        &translated_to_itself(back, other),
    );
}

fn translated_to_itself(key: FlowKey, half: Half) -> FlowValue {
    FlowValue {
        out: key,
        backend: 1,
        generation: 1,
        half: half as u8,
        flags: flow_flags::CONFIRMED,
        fingerprint: key.fingerprint(),
        ..FlowValue::default()
    }
}

fn forget(object: &Object, protocol: u8, src: &str, dst: &str) {
    let key = key(protocol, src, dst);
    for key in [key, key.inverted()] {
        let flows = object.maps.flow_table(FlowTable::Confirmed);
        flows.delete(&key).expect("a deletion");
    }
}

fn key(protocol: u8, src: &str, dst: &str) -> FlowKey {
    let end = |text: &str| -> SocketAddr { text.parse().expect("an address and port") };
    let (src, dst) = (end(src), end(dst));
    FlowKey {
        src: Addr::from(src.ip()),
        dst: Addr::from(dst.ip()),
        src_port: src.port().into(),
        dst_port: dst.port().into(),
        protocol,
        pad: [0; 3],
    }
}
