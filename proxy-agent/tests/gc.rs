//! Collecting and listing flows, over real maps: needs root and a bpf file system.

#![cfg(test)]

#[path = "gc/fixture.rs"]
mod fixture;
#[path = "gc/loads.rs"]
mod loads;
#[path = "gc/pair.rs"]
mod pair;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use proxy_agent::{
    commands::flows::{self, State},
    dataplane::{clock::Clock, gc::Collected, open},
};
use proxy_common::{
    abi::{
        capacity,
        flow::{flow_flags, seen},
        protocol::{TCP, UDP},
    },
    flow_timeout::{
        CLAIM_UNCONFIRMED, ORPHAN, Reason, Stage, TCP_CLOSED, TCP_CLOSING, TCP_ESTABLISHED,
        TCP_OPENING, TCP_RESET, UDP_ANSWERED,
    },
    socket::UDP_IDLE_SECONDS,
    tables::FlowTable,
};

use self::{
    fixture::{DEAD, Fixture, LIVING},
    pair::Pair,
};

/// A fixture, or why there is none here.
macro_rules! fixture {
    ($name:literal) => {
        fixture!($name, capacity::FLOWS)
    };
    ($name:literal, $entries:expr) => {
        match Fixture::new($name, $entries) {
            Ok(fixture) => fixture,
            Err(reason) => {
                println!("skipped: {reason}");
                return;
            }
        }
    };
}

const OPEN: u8 = seen::SYN | seen::DATA;
const FIN: u8 = OPEN | seen::FIN;

#[test]
fn the_clock_ticks_as_fast_as_the_kernel_was_built_for() {
    let f = fixture!("clock");
    let standalone = Clock::open().unwrap();
    for clock in [f.clock(), standalone] {
        assert!([100, 250, 300, 1000].contains(&clock.hz()));
        let (start, before) = (Instant::now(), clock.now().unwrap());
        std::thread::sleep(Duration::from_millis(200));
        let (ticks, seconds) = (
            f64::from(clock.now().unwrap().wrapping_sub(before)),
            start.elapsed().as_secs_f64(),
        );
        let expected = seconds * f64::from(clock.hz());
        assert!(
            (ticks - expected).abs() <= 2.0 + expected / 10.0,
            "{ticks} ticks in {seconds} s at {} Hz",
            clock.hz()
        );
    }
}

/// Maps outlive the agent: those of an earlier version have no room for what it did not know.
#[test]
fn what_an_earlier_versions_map_has_no_room_for_was_counted_never() {
    let f = fixture!("counters");
    let counters = open::counters(f.pins()).unwrap();
    for index in [0, capacity::COUNTERS - 1, capacity::COUNTERS, u32::MAX] {
        assert_eq!(counters.sum(index).unwrap(), 0, "{index}");
    }
}

/// Flows right before and right after they are over, in all tables; exactly those that are go.
#[test]
fn exactly_what_is_over_goes_and_both_halves_of_it() {
    let f = fixture!("mix");
    let mut collector = f.collector();
    let mut pairs = Vec::new();
    let confirmed = flow_flags::CONFIRMED;
    let snat = confirmed | flow_flags::SNAT;
    for flags in [confirmed, snat, confirmed | flow_flags::PORT] {
        for (client, backend, stage, seconds) in [
            (OPEN, OPEN, Stage::Established, TCP_ESTABLISHED),
            (FIN, OPEN, Stage::Closing, TCP_CLOSING),
            (FIN, FIN, Stage::Closed, TCP_CLOSED),
            (OPEN, OPEN | seen::RST, Stage::Reset, TCP_RESET),
            (seen::SYN, seen::SYN, Stage::Opening, TCP_OPENING),
        ] {
            let pair = f.pair(TCP, flags).seen(client, backend);
            pairs.extend(f.around(pair, seconds, Reason::Idle(stage)));
        }
        let udp = f.pair(UDP, flags);
        pairs.extend(f.around(udp, UDP_ANSWERED, Reason::Idle(Stage::Established)));
        // Of two halves the one that was used last counts.
        let one_way = f.pair(UDP, flags).idle(UDP_ANSWERED + 9, 3);
        pairs.push((one_way, None));
        pairs.push((f.pair(UDP, flags).idle(3, UDP_ANSWERED + 9), None));
        pairs.push((f.pair(UDP, flags).backend(DEAD), Some(Reason::BackendGone)));
        pairs.push((f.pair(TCP, flags).seen(OPEN, OPEN).backend(DEAD), None));
        for orphan in [
            f.pair(TCP, flags).seen(OPEN, OPEN).without_forward(),
            f.pair(TCP, flags).seen(OPEN, OPEN).without_reverse(),
        ] {
            pairs.extend(f.around(orphan, ORPHAN, Reason::Idle(Stage::Orphan)));
        }
    }
    for protocol in [TCP, UDP] {
        let claim = f.pair(protocol, flow_flags::SNAT);
        pairs.extend(f.around(claim, CLAIM_UNCONFIRMED, Reason::Idle(Stage::Unconfirmed)));
        // Still sending, although nobody answers.
        pairs.push((f.pair(protocol, flow_flags::SNAT).idle(1, 60), None));
        let evicted = f.pair(protocol, flow_flags::SNAT).without_forward();
        pairs.extend(f.around(evicted, ORPHAN, Reason::Idle(Stage::Orphan)));
    }
    // Never collected from here: the kernel evicts them.
    pairs.push((f.pair(TCP, 0).idle(1000, 1000), None));
    let pairs: Vec<(Pair, Option<Reason>)> = f.insert(pairs);

    let mut expected: BTreeMap<Reason, usize> = BTreeMap::new();
    for reason in pairs.iter().filter_map(|(_, reason)| *reason) {
        *expected.entry(reason).or_default() += 1;
    }
    let done = fixture::round(&mut collector, 7);
    assert_eq!(done.removed, expected);
    for (pair, reason) in &pairs {
        let left = f.present(pair);
        let wanted = if reason.is_none() { pair.halves() } else { 0 };
        assert_eq!(left, wanted, "{pair:?} {reason:?}");
    }
    collector.restart();
    let again = fixture::round(&mut collector, 1_000_000);
    assert_eq!(again.flows(), 0);
    assert_eq!(
        again.examined,
        f.count(FlowTable::Confirmed) + f.count(FlowTable::Claims)
    );
}

#[test]
fn a_half_whose_place_another_flow_took_does_not_take_that_one_along() {
    let f = fixture!("taken");
    let mut collector = f.collector();
    let old = f.pair(TCP, flow_flags::SNAT | flow_flags::CONFIRMED);
    let old = old.seen(FIN, FIN).idle(TCP_CLOSED + 5, TCP_CLOSED + 5);
    let mut new = f.pair(TCP, flow_flags::SNAT | flow_flags::CONFIRMED);
    new = new.seen(OPEN, OPEN).claiming_as(&old);
    f.write(&old);
    f.write(&new);
    let done = fixture::round(&mut collector, 100);
    assert_eq!(
        done.removed,
        BTreeMap::from([(Reason::Idle(Stage::Orphan), 1)])
    );
    assert_eq!(f.present(&new), 2);
}

/// A flood of packets that nobody answers: claims go early, flows with an answer stay.
#[test]
fn a_table_that_is_nearly_full_is_cleared_of_what_has_no_answer() {
    let f = fixture!("crowded", 100);
    let mut collector = f.collector();
    let claims = |count: usize| {
        let pair = |_| f.pair(TCP, flow_flags::SNAT).idle(6, 6).without_forward();
        let pairs: Vec<Pair> = (0..count).map(pair).collect();
        for pair in &pairs {
            f.write(pair);
        }
    };
    let open = f.pair(TCP, flow_flags::SNAT | flow_flags::CONFIRMED);
    let open = open.seen(OPEN, OPEN).idle(600, 600);
    f.write(&open);
    claims(74);
    assert_eq!(fixture::round(&mut collector, 1000).flows(), 0);
    collector.restart();
    assert_eq!(fixture::round(&mut collector, 1000).flows(), 0);
    // One more is more than three quarters: found out in one round, acted upon in the next, which is due sooner.
    claims(1);
    collector.restart();
    assert_eq!(fixture::round(&mut collector, 1000).flows(), 0);
    assert!(collector.pause() > Duration::ZERO);
    collector.restart();
    assert_eq!(fixture::round(&mut collector, 1000).flows(), 75);
    assert_eq!(f.present(&open), 2);
}

#[test]
fn idle_udp_sockets_are_forgotten() {
    let f = fixture!("sockets");
    let mut collector = f.collector();
    let idle = f.socket(1, LIVING, UDP_IDLE_SECONDS + 1);
    let used = f.socket(2, LIVING, UDP_IDLE_SECONDS - 10);
    let mut forgotten = 0;
    for _ in 0..6 {
        collector.restart();
        forgotten += fixture::round(&mut collector, 100).sockets;
    }
    assert_eq!(forgotten, 1);
    assert_eq!(f.socket_records(&idle), (false, false));
    assert_eq!(f.socket_records(&used), (true, true));
}

#[test]
fn a_round_is_due_at_once_and_then_not_for_a_while() {
    let f = fixture!("due");
    let mut collector = f.collector();
    assert_eq!(collector.pause(), Duration::ZERO);
    let done = fixture::round(&mut collector, 100);
    assert!(done.finished);
    assert_eq!(collector.step(100).unwrap(), Collected::default());
    assert!(collector.pause() > Duration::from_millis(500));
}

#[test]
fn flows_are_listed_from_the_maps_alone() {
    let f = fixture!("list");
    let confirmed = flow_flags::CONFIRMED;
    let open = f.pair(TCP, confirmed | flow_flags::LOCAL).seen(OPEN, OPEN);
    let open = open.idle(30, 7);
    let closing = f.pair(TCP, confirmed | flow_flags::SNAT).seen(FIN, OPEN);
    let new = f.pair(UDP, 0);
    let claimed = f.pair(UDP, flow_flags::SNAT).without_forward();
    for pair in [&open, &closing, &new, &claimed] {
        f.write(pair);
    }
    let report = flows::read(f.pins()).unwrap();
    assert_eq!(report.flows.len(), 4, "{report:#?}");
    let of = |pair: &Pair| {
        let mut rows = report.flows.iter();
        rows.find(|row| row.client == pair.client()).unwrap()
    };
    let row = of(&open);
    assert_eq!(row.state, State::Established);
    assert_eq!(row.frontend, pair_address(open.forward_key().dst, 80));
    assert_eq!(
        row.backend,
        pair_address(open.forward_value().out.dst, 8080)
    );
    assert_eq!((row.source, row.idle_seconds), (None, Some(7)));
    assert_eq!(row.age_seconds, Some(100));
    assert_eq!(row.flags, [flows::Flag::Local]);
    let row = of(&closing);
    assert_eq!(row.state, State::Closing);
    assert_eq!(
        row.source.unwrap().ip(),
        closing.forward_value().out.src.to_ip()
    );
    assert_eq!(row.flags, [flows::Flag::Snat]);
    assert_eq!(of(&new).state, State::New);
    assert_eq!(of(&claimed).state, State::Claimed);
    let table = report.to_string();
    assert!(table.lines().count() == 6, "{table}");
    assert!(serde_json::to_string(&report).is_ok());
}

fn pair_address(addr: proxy_common::addr::Addr, port: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::new(addr.to_ip(), port)
}

/// Prints what it costs; run with `--ignored --nocapture`.
#[test]
#[ignore = "measures, takes a while"]
fn cost_of_a_walk() {
    let f = fixture!("cost");
    let mut collector = f.collector();
    let report = |what: &str, collector: &mut proxy_agent::dataplane::gc::Collector| {
        collector.restart();
        let (mut steps, mut longest, start) = (0, Duration::ZERO, fixture::cpu_time());
        let mut done = Collected::default();
        while !done.finished {
            let begin = fixture::cpu_time();
            done.add(
                collector
                    .step(proxy_agent::dataplane::gc::Collector::BUDGET)
                    .unwrap(),
            );
            longest = longest.max(fixture::cpu_time().saturating_sub(begin));
            steps += 1;
        }
        println!(
            "{what}: {} elements, {} flows removed, {steps} steps, {:?} on the CPU, longest step {longest:?}",
            done.examined,
            done.flows(),
            fixture::cpu_time().saturating_sub(start),
        );
    };
    report("empty", &mut collector);
    let established = |f: &Fixture| {
        let flags = flow_flags::CONFIRMED;
        f.pair(TCP, flags).seen(OPEN, OPEN)
    };
    f.fill(100_000, |f| established(f).idle(1, 1));
    report("100k flows just used", &mut collector);
    f.clear();
    f.fill(100_000, |f| established(f).idle(60, 60));
    report("100k flows idle", &mut collector);
    f.fill(400_000, |f| established(f).idle(60, 60));
    report("500k flows idle", &mut collector);
    f.clear();
    f.fill(100_000, |f| established(f).seen(FIN, FIN).idle(200, 200));
    report("100k flows over", &mut collector);
    f.fill(100_000, |f| {
        f.pair(TCP, flow_flags::SNAT).idle(60, 60).without_forward()
    });
    report("100k claims over", &mut collector);
}
