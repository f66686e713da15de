//! What the XDP program costs.

use std::{fmt::Write as _, net::SocketAddr, os::fd::OwnedFd};

use proxy_agent::dataplane::{
    load::XDP_PROGRAM,
    sys::program::{self, TestXdp, test_run_xdp},
};
use proxy_common::{
    abi::{
        flow::{FlowKey, FlowValue, Half, flow_flags},
        protocol,
    },
    host::Segment,
    tables::FlowTable,
};

use super::{NEW_FLOWS, key, macs};
use crate::{
    kernel::Object,
    namespace::{self, UPLINK, mac},
    services::{BOTH, NODE_PORTS, Names, at},
};

/// Runs in a row of a program that takes a hop from the packet each time, and of one that leaves it as it is; rows of them,
/// of which the quickest counts. They are short: some are not interrupted. The kernel takes two grace periods for each.
const HOPS: u32 = 190;
const STAYS: u32 = 1_000;
const ROWS: usize = 60;
const XDP_PASS: u32 = 2;
/// `XDP_PASS`: r0 = 2; exit.
const EMPTY: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
const XDP_TYPE: u32 = 6;
const XDP_ATTACH: u32 = 37;

/// Adds the rows of the XDP program to the table.
pub fn rows(object: &Object, table: &mut String) {
    // Routers whose MAC address is the uplink's: what is sent to them is for the uplink again, in the next run.
    let own = mac(UPLINK).map(|byte| format!("{byte:02x}")).join(":");
    let routers = ["192.0.2.1", "192.0.2.20", "2001:db8::1", "2001:db8::20"];
    let replace = |router| format!("neigh replace {router} lladdr {own} dev uplink nud permanent");
    namespace::ip(&routers.map(replace).join("\n"));

    *table +=
        "\n                            not ours   left to tc  established    reply     new flow\n";
    for names in &BOTH {
        for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP] {
            row(object, names, protocol, table);
        }
    }
    let empty = program::load(XDP_TYPE, XDP_ATTACH, &EMPTY).expect("an empty program");
    let frame = Segment::first(protocol::UDP, "192.0.2.99:1", "192.0.2.10:1").macs(macs(UPLINK));
    let nothing = (0..ROWS).map(|_| run(&empty, &frame, STAYS).0).min();
    let _ = writeln!(
        table,
        "of these the test run itself, with an empty program: {}",
        nothing.unwrap_or(0)
    );
}

fn row(object: &Object, names: &Names, protocol: u8, table: &mut String) {
    let client = names.clients[0];
    let (near, far) = (at(client, 40_000), at(names.far_pod, 8080));
    let not_ours = stays(object, &packet(protocol, &near, &at(names.far_pod, 9)));

    let here = at(names.node, NODE_PORTS[0]);
    let put = |table, key: FlowKey, half, flags| {
        let value = same(key, half, flags);
        object.maps.put_flow(table, &key, &value);
    };
    let forward = key(protocol, &near, &here);
    put(FlowTable::Confirmed, forward, Half::Forward, 0);
    put(FlowTable::Confirmed, forward.inverted(), Half::Reverse, 0);
    let left = stays(object, &packet(protocol, &near, &here));

    let forward = key(protocol, &near, &far);
    put(
        FlowTable::Confirmed,
        forward,
        Half::Forward,
        flow_flags::SNAT,
    );
    put(
        FlowTable::Claims,
        forward.inverted(),
        Half::Reverse,
        flow_flags::SNAT,
    );
    let established = goes(object, &packet(protocol, &near, &far));

    // To a port of those that sources are translated to.
    let seen = at(client, 20_500);
    let reverse = key(protocol, &far, &seen);
    put(FlowTable::Claims, reverse, Half::Reverse, flow_flags::SNAT);
    let reply = goes(object, &packet(protocol, &far, &seen));

    let client: SocketAddr = near.parse().expect("an address and port");
    // Other ports than those of tc's rows: these flows are there.
    let mut all: Vec<u32> = (1..=NEW_FLOWS)
        .map(|port| SocketAddr::new(client.ip(), 50_000 + port).to_string())
        .map(|client| Segment::first(protocol, &client, &here).payload(&[0x5a; 12]))
        .map(|first| run(object.xdp(), &first.macs(macs(UPLINK)), 1).0)
        .collect();
    all.sort_unstable();
    let _ = writeln!(
        table,
        "{XDP_PROGRAM:20} {:?} {:4} {not_ours:>8} {left:>12} {established:>12} {reply:>8} {:>12}",
        names.family,
        super::protocol_name(protocol),
        all[all.len() / 2]
    );
}

/// A packet of a connection that has begun, with hops for many runs.
fn packet(protocol: u8, src: &str, dst: &str) -> Segment {
    Segment::later(protocol, src, dst)
        .payload(&[0x5a; 12])
        .hop_limit(255)
        .macs(macs(UPLINK))
}

/// Half of a flow that is translated to what it is.
fn same(key: FlowKey, half: Half, flags: u8) -> FlowValue {
    FlowValue {
        out: key,
        backend: 1,
        generation: 1,
        half: half as u8,
        flags: flow_flags::CONFIRMED | flags,
        fingerprint: key.fingerprint(),
        ..FlowValue::default()
    }
}

/// Of a packet that is left as it is.
fn stays(object: &Object, segment: &Segment) -> u32 {
    quickest(object.xdp(), segment, STAYS, |verdict| verdict == XDP_PASS)
}

/// Of a packet that is sent out again.
fn goes(object: &Object, segment: &Segment) -> u32 {
    quickest(object.xdp(), segment, HOPS, |verdict| verdict > XDP_PASS)
}

/// The quickest of some rows, of which each had the verdict that is measured, even in its last run.
fn quickest(
    program: &OwnedFd,
    segment: &Segment,
    repeat: u32,
    expected: impl Fn(u32) -> bool,
) -> u32 {
    let times = (0..ROWS).map(|_| {
        let (nanoseconds, verdict) = run(program, segment, repeat);
        assert!(expected(verdict), "verdict {verdict} after {repeat} runs");
        nanoseconds
    });
    times.min().unwrap_or(0)
}

fn run(program: &OwnedFd, segment: &Segment, repeat: u32) -> (u32, u32) {
    let uplink = TestXdp { ifindex: UPLINK };
    let run = test_run_xdp(program, &segment.bytes(), &uplink, repeat).expect("a run");
    (run.nanoseconds, run.verdict)
}
