//! What cannot be written, and what is in the maps without having been written.

use std::net::{IpAddr, Ipv4Addr};

use proxy_common::{
    abi::{
        frontend::{FrontendKind, Scope},
        meta::List,
        target::{Algorithm, Backend, Slot, Target},
    },
    addr::Family,
};

use super::*;
use crate::{
    maps::{lint, memory::MemoryMaps},
    plan::{BackendPlan, FrontendAddress, FrontendPlan, Protocol, TargetKey, TargetPlan},
    view,
};

/// Maps that refuse some operations.
struct Picky {
    maps: MemoryMaps,
    refuses: fn(&Op) -> bool,
    error: i32,
    reads: std::cell::Cell<usize>,
}

impl Maps for Picky {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        for (index, op) in ops.iter().enumerate() {
            if (self.refuses)(op) {
                return Err(ApplyError {
                    index,
                    kind: op.kind(),
                    source: std::io::Error::from_raw_os_error(self.error),
                });
            }
            self.maps.apply_one(op);
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, SnapshotError> {
        self.reads.update(|reads| reads + 1);
        self.maps.snapshot()
    }

    fn now(&self) -> u64 {
        self.maps.now()
    }
}

fn programmer(refuses: fn(&Op) -> bool) -> Programmer<Picky> {
    let maps = Picky {
        maps: MemoryMaps::default(),
        refuses,
        error: libc::EPERM,
        reads: std::cell::Cell::default(),
    };
    Programmer::open(maps, Capacities::default()).unwrap()
}

fn name(number: u8) -> ServiceName {
    ServiceName {
        namespace: "default".to_owned(),
        name: format!("service-{number:03}"),
    }
}

/// A ClusterIP 10.96.0.`number` with one backend on a node of its own.
fn plan(number: u8) -> ServicePlan {
    let key = TargetKey {
        port_name: String::new(),
        protocol: Protocol::Tcp,
        family: Family::V4,
        list: List::Cluster,
    };
    let ip = |second| IpAddr::from(Ipv4Addr::new(10, second, 0, number));
    let target = TargetPlan {
        backends: vec![BackendPlan {
            address: ip(244),
            port: 8080,
            local: false,
            node: Some(format!("node-{number}")),
            zone: None,
            weight: 1,
            terminating: false,
        }],
        empty: None,
        algorithm: Algorithm::Random,
        affinity_seconds: None,
        slow_start_seconds: None,
        sources: None,
    };
    ServicePlan {
        frontends: vec![FrontendPlan {
            address: FrontendAddress::Ip(ip(96)),
            port: 80,
            protocol: Protocol::Tcp,
            scope: Scope::Cluster,
            kind: FrontendKind::ClusterIp,
            target: key.clone(),
        }],
        targets: [(key, target)].into(),
        ..ServicePlan::default()
    }
}

fn plans(count: u8) -> BTreeMap<ServiceName, ServicePlan> {
    (1..=count)
        .map(|number| (name(number), plan(number)))
        .collect()
}

/// Lets time pass from deadline to deadline.
fn pass(programmer: &mut Programmer<Picky>, times: usize) {
    let mut now = Instant::now();
    for _ in 0..times {
        let Some(deadline) = programmer.deadline() else {
            return;
        };
        now = now.max(deadline);
        programmer.tick(now);
    }
}

#[test]
fn services_that_cannot_be_written_keep_no_other_from_it() {
    let mut programmer = programmer(|op| matches!(op, Op::PutFrontend { .. }));
    programmer.sync(plans(40), Instant::now());
    assert_eq!(programmer.pending().count(), 40);
    assert!(programmer.is_behind());
    // The first twenty can't be written, for ever.
    programmer.maps_mut().refuses = |op| {
        matches!(op, Op::PutFrontend { key, .. }
            if matches!(key.addr.to_ip(), IpAddr::V4(ip) if ip.octets()[3] <= 20))
    };
    pass(&mut programmer, 200);
    assert_eq!(programmer.maps_mut().maps.contents.frontends.len(), 20);
    let pending: BTreeSet<_> = programmer.pending().cloned().collect();
    assert_eq!(pending, plans(20).into_keys().collect());
    assert!(programmer.is_behind());
}

#[test]
fn a_name_that_cannot_be_written_keeps_no_other_from_it() {
    let mut programmer = programmer(|op| matches!(op, Op::PutName { id, .. } if *id < 3));
    programmer.sync(plans(4), Instant::now());
    let names = &programmer.maps_mut().maps.contents.names;
    assert_eq!(names.keys().collect::<Vec<_>>(), [&3, &4]);
    assert!(programmer.is_behind());
    programmer.maps_mut().refuses = |_| false;
    pass(&mut programmer, 10);
    assert_eq!(programmer.maps_mut().maps.contents.names.len(), 4);
    assert!(!programmer.is_behind());
}

/// What another process may do to the maps.
const TAMPERINGS: [fn(&mut Snapshot); 8] = [
    |maps| {
        maps.frontends.pop_first();
    },
    |maps| maps.targets[1] = Target::default(),
    |maps| maps.slots.fill(Slot::default()),
    |maps| maps.backends[2] = Backend::default(),
    |maps| {
        maps.meta_targets.pop_first();
    },
    |maps| {
        maps.meta_backends.pop_last();
    },
    |maps| maps.node_addrs.clear(),
    |maps| {
        maps.devices.insert(9, Device::default());
    },
];

#[test]
fn a_review_mends_what_another_has_changed_and_writes_nothing_else() {
    for (index, tamper) in TAMPERINGS.iter().enumerate() {
        let now = Instant::now();
        let mut programmer = programmer(|_| false);
        programmer.set_node_addrs([(Addr::v4([192, 0, 2, 1]), 1)].into(), now);
        programmer.set_devices([(2, Device::default())].into(), now);
        programmer.sync(plans(3), now);
        let written = programmer.statistics().total();
        programmer.review(plans(3), [], now).unwrap().unwrap();
        assert_eq!(programmer.statistics().total(), written, "{index}");

        let before = view::report(&programmer.snapshot().unwrap());
        let tables = |programmer: &mut Programmer<Picky>| {
            let contents = &programmer.maps_mut().maps.contents;
            (contents.node_addrs.clone(), contents.devices.clone())
        };
        let tables_before = tables(&mut programmer);
        tamper(&mut programmer.maps_mut().maps.contents);
        programmer.review(plans(3), [], now).unwrap().unwrap();
        pass(&mut programmer, 10);
        assert!(programmer.statistics().total() > written, "{index}");
        let after = programmer.snapshot().unwrap();
        assert_eq!(view::report(&after), before, "{index}");
        assert_eq!(lint::lint(&after), [], "{index}");
        assert_eq!(tables(&mut programmer), tables_before, "{index}");
        assert!(programmer.is_settled(), "{index}");
    }
}

#[test]
fn after_failures_the_maps_are_worth_a_review() {
    let now = Instant::now();
    let mut programmer = programmer(|op| matches!(op, Op::PutFrontend { .. }));
    programmer.sync(plans(3), now);
    assert!(!programmer.has_recovered(), "there is more to try");
    programmer.maps_mut().refuses = |_| false;
    pass(&mut programmer, 10);
    assert!(programmer.has_recovered());
    programmer.review(plans(3), [], now).unwrap().unwrap();
    assert!(!programmer.has_recovered());
}

#[test]
fn a_review_keeps_services_that_have_no_plan_because_they_are_too_big() {
    let now = Instant::now();
    let mut programmer = programmer(|_| false);
    programmer.sync(plans(3), now);
    programmer
        .review(plans(2), [&name(3)], now)
        .unwrap()
        .unwrap();
    assert_eq!(programmer.maps_mut().maps.contents.frontends.len(), 3);
    programmer.review(plans(2), [], now).unwrap().unwrap();
    assert_eq!(programmer.maps_mut().maps.contents.frontends.len(), 2);
}

#[test]
fn entries_without_room_are_no_failures_and_no_reason_for_reviews() {
    let mut now = Instant::now();
    let mut programmer = programmer(|op| matches!(op, Op::PutDevice { ifindex: 3, .. }));
    programmer.maps_mut().error = libc::E2BIG;
    let devices = BTreeMap::from([2, 3].map(|ifindex| (ifindex, Device::default())));
    programmer.set_devices(devices.clone(), now);
    let without_room = [("META_NAMES", 0), ("NODE_ADDRS", 0), ("DEVICES", 1)];
    assert_eq!(programmer.unplaced(), without_room);
    let calls = programmer.statistics().calls;
    for _ in 0..5 {
        now += Duration::from_secs(4);
        programmer.set_devices(devices.clone(), now);
        assert!(!programmer.has_recovered());
    }
    assert_eq!(
        programmer.statistics().calls,
        calls,
        "said before, tried before"
    );
    programmer.review(plans(0), [], now).unwrap().unwrap();
    assert!(
        !programmer.has_recovered(),
        "one review is not followed by another"
    );
    assert_eq!(programmer.statistics().failures, 0);
    assert_eq!(programmer.unplaced(), without_room);
}

#[test]
fn what_failed_is_tried_less_and_less_often_though_the_same_devices_are_told_again() {
    let start = Instant::now();
    let mut programmer = programmer(|op| matches!(op, Op::PutDevice { .. }));
    let told = BTreeMap::from([(2, Device::default())]);
    programmer.set_devices(told.clone(), start);
    let mut now = start;
    for _ in 0..60 {
        let audit = now + Duration::from_secs(4);
        while let Some(deadline) = programmer.deadline().filter(|at| *at < audit) {
            programmer.tick(deadline);
        }
        now = audit;
        programmer.set_devices(told.clone(), now);
    }
    let failures = programmer.statistics().failures;
    assert!(failures < 25, "{failures} failures in four minutes");
    // News are written at once.
    programmer.maps_mut().refuses = |_| false;
    programmer.set_devices([(3, Device::default())].into(), now);
    assert!(programmer.is_settled());
}

#[test]
fn a_review_of_a_busy_node_looks_at_the_maps() {
    let now = Instant::now();
    let mut programmer = programmer(|_| false);
    programmer.sync(plans(3), now);
    programmer.sync([(name(3), ServicePlan::default())], now);
    let reads = programmer.maps_mut().reads.get();
    let outcome = programmer.review(plans(2), [], now).unwrap();
    assert!(outcome.is_none(), "something is out of use");
    assert_eq!(programmer.maps_mut().reads.get(), reads);
    programmer.prepare_review(now);
    let written = programmer.statistics().total();
    let outcome = programmer.review(plans(2), [], now).unwrap().unwrap();
    assert_eq!(programmer.maps_mut().reads.get(), reads + 1);
    assert_eq!(
        (outcome.applied, written),
        (0, programmer.statistics().total())
    );

    // What failed midway keeps a review from looking, and it says so.
    programmer.maps_mut().refuses = |op| matches!(op, Op::PutFrontend { .. });
    programmer.sync(plans(3), now);
    programmer.prepare_review(now);
    assert!(programmer.review(plans(3), [], now).unwrap().is_none());
}

#[test]
fn a_refused_service_does_not_keep_others_from_a_review() {
    let now = Instant::now();
    let maps = Picky {
        maps: MemoryMaps::default(),
        refuses: |op| matches!(op, Op::PutFrontend { .. }),
        error: libc::EPERM,
        reads: std::cell::Cell::default(),
    };
    let capacities = Capacities {
        frontends: 2,
        ..Capacities::default()
    };
    let mut programmer = Programmer::open(maps, capacities).unwrap();
    programmer.sync(plans(3), now);
    assert_eq!(programmer.refused().len(), 1);
    assert!(!programmer.has_recovered(), "there is more to try");
    programmer.maps_mut().refuses = |_| false;
    pass(&mut programmer, 10);
    assert!(programmer.has_recovered());
    programmer.review(plans(3), [], now).unwrap().unwrap();
    assert!(!programmer.has_recovered());
    assert_eq!(programmer.refused().len(), 1);
}
