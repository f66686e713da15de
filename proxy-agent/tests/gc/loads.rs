//! Connections that count for least connections: flows expire, and counts are put right (semantics L1).

use proxy_agent::dataplane::{
    open,
    sys::map::{Map, Plain, Update},
};
use proxy_common::{
    abi::{
        Pinned, TypedSpec, capacity,
        flow::{FlowKey, flow_flags},
        kind::OneValue,
        load::Load,
        protocol::UDP,
        target::Slot,
    },
    flow_timeout::UDP_ANSWERED,
    tables::FlowTable,
};

use crate::fixture::{Fixture, GENERATION, LIVING, round};

const SLOT: Slot = Slot {
    backend: LIVING,
    generation: GENERATION,
};

fn open<S: OneValue, K: Plain, V: Plain>(f: &Fixture, map: TypedSpec<S, K, V>) -> Map<K, V> {
    open::open(f.pins(), map).unwrap()
}

fn count(f: &Fixture) -> u32 {
    let load: Load = open(f, Pinned::LOADS).lookup(&LIVING).unwrap().unwrap();
    assert_eq!(load.generation, GENERATION);
    load.count
}

fn set_count(f: &Fixture, count: u32) {
    let load = Load {
        count,
        generation: GENERATION,
    };
    open(f, Pinned::LOADS)
        .update(&LIVING, &load, Update::Any)
        .unwrap();
}

#[test]
fn l1_a_flow_that_expires_counts_no_more() {
    let f = match Fixture::new("flow-loads", capacity::FLOWS) {
        Ok(fixture) => fixture,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let records: Map<FlowKey, Slot> = open(&f, Pinned::FLOW_LOADS);
    let flags = flow_flags::CONFIRMED | flow_flags::COUNTED;
    let (living, over) = (f.pair(UDP, flags), f.pair(UDP, flags));
    for (pair, idle) in [(living, 1), (over, UDP_ANSWERED + 2)] {
        let pair = pair.idle(idle, idle);
        f.write(&pair);
        for (table, key, value) in pair.elements(0, 1) {
            if table == FlowTable::Confirmed && value.half == 1 {
                records.update(&key, &SLOT, Update::Any).unwrap();
            }
        }
    }
    set_count(&f, 2);
    let mut collector = f.collector();
    assert_eq!(round(&mut collector, 1_000).flows(), 1);
    assert_eq!((records.entries().unwrap().len(), count(&f)), (1, 1));
}

#[test]
fn l1_counts_are_put_right_when_they_were_wrong_twice() {
    let f = match Fixture::new("socket-loads", capacity::FLOWS) {
        Ok(fixture) => fixture,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let records: Map<u64, Slot> = open(&f, Pinned::SOCKET_LOADS);
    for cookie in 1..=5 {
        records.update(&cookie, &SLOT, Update::Any).unwrap();
    }
    // Of a generation that is gone: it counts for nothing.
    let earlier = Slot {
        generation: GENERATION - 1,
        ..SLOT
    };
    records.update(&6, &earlier, Update::Any).unwrap();
    let mut collector = f.collector();
    let mut again = |set: Option<u32>| {
        if let Some(count) = set {
            set_count(&f, count);
        }
        collector.restart();
        round(&mut collector, 1_000);
        count(&f)
    };
    assert_eq!(again(Some(9)), 9, "it may have been a moment's");
    assert_eq!(again(Some(7)), 5, "by no more than it was wrong both times");
    assert_eq!(again(None), 5);
    assert_eq!(again(Some(2)), 2);
    assert_eq!(again(None), 5);
    // Now this, now that: nothing is known to be wrong.
    assert_eq!(again(Some(3)), 3);
    assert_eq!(again(Some(7)), 7);
}
