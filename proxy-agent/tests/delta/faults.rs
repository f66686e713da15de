//! Whatever fails, and however often: in the end the maps are as planned, and no reader ever met a wrong backend.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use proxy_agent::{
    delta::refusal::Capacities,
    maps::{faulty::FaultyMaps, lint, memory::MemoryMaps},
    programmer::{Outcome, Programmer},
    report::Report,
    view,
};
use proxy_common::{
    abi::device::{Device, node_addr},
    addr::Addr,
};

use super::{
    chance::Chance,
    dump::dump,
    reader::{Plans, Readers},
    world::{EXISTS, Shape, Step, World},
};

/// An agent, its world, and a clock that jumps.
struct Run {
    world: World,
    plans: Plans,
    programmer: Programmer<FaultyMaps<Readers>>,
    capacities: Capacities,
    now: Instant,
    probability: f64,
    failures: u64,
    refusals: usize,
}

impl Run {
    fn new(capacities: Capacities, probability: f64, seed: u64) -> Self {
        let mut readers = Readers::default();
        readers.relaxed = true;
        let maps = FaultyMaps::new(readers, 0.0, seed);
        let mut run = Self {
            world: World::default(),
            plans: Plans::new(),
            programmer: Programmer::open(maps, capacities).unwrap(),
            capacities,
            now: Instant::now(),
            probability,
            failures: 0,
            refusals: 0,
        };
        run.say_hello();
        run
    }

    /// What an agent says first. From here on, things fail.
    fn say_hello(&mut self) {
        self.programmer.maps_mut().set_probability(self.probability);
        self.programmer.set_node_name("node-a", self.now);
        let addrs = [("192.0.2.1", 1), ("2001:db8::1", 1), ("127.0.0.1", 3)];
        const { assert!(node_addr::NODE_PORT | node_addr::LOOPBACK == 3) };
        let addrs = addrs.map(|(text, flags)| (Addr::from(text.parse::<IpAddr>().unwrap()), flags));
        self.programmer.set_node_addrs(addrs.into(), self.now);
        let device = Device {
            mtu: 1500,
            ..Device::default()
        };
        self.programmer.set_devices([(2, device)].into(), self.now);
    }

    fn step(&mut self, step: Step, chance: &mut Chance) {
        self.now += Duration::from_millis(chance.below(200));
        match step {
            Step::Change(shapes) => {
                for (shape, new) in self.world.shapes.iter_mut().zip(shapes) {
                    *shape = new.unwrap_or(*shape);
                }
                let mut changes = self.world.plans();
                changes.retain(|name, plan| self.plans.get(name) != Some(plan));
                self.plans.extend(changes.clone());
                self.programmer.maps_mut().inner_mut().begin(&self.plans);
                let Outcome { refused, .. } = self.programmer.sync(changes, self.now);
                assert!(refused.is_empty() || self.capacities == TIGHT);
                self.refusals += refused.len();
            }
            Step::Reclaim | Step::Crash(_) => {
                self.programmer.tick(self.now);
            }
        }
    }

    /// The agent dies, as it is, and another one starts, which hears of everything anew.
    fn restart(mut self) -> Self {
        self.failures += self.programmer.statistics().failures;
        let mut maps = self.programmer.into_maps();
        maps.set_probability(0.0);
        self.programmer = Programmer::open(maps, self.capacities).unwrap();
        self.say_hello();
        self.programmer.sync(self.plans.clone(), self.now);
        let exists = self
            .plans
            .iter()
            .filter(|(_, plan)| !plan.frontends.is_empty());
        let wanted: BTreeSet<_> = exists.map(|(name, _)| name.clone()).collect();
        self.programmer.retain(&wanted, self.now);
        self
    }

    /// Time passes until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.programmer.is_settled() {
                assert_eq!(self.programmer.deadline(), None);
                return;
            }
            let deadline = self
                .programmer
                .deadline()
                .expect("what is not settled is due some time");
            self.now = self.now.max(deadline);
            self.programmer.tick(self.now);
        }
        panic!("it never ends");
    }

    /// The maps are as planned, and nothing is left over.
    fn finish(mut self) -> u64 {
        self.settle();
        assert!(self.programmer.refused().is_empty());
        let maps = self.programmer.snapshot().unwrap();
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        assert_eq!(
            view::report(&maps),
            Report::new("node-a", &self.plans, &addresses, Vec::new())
        );
        assert_eq!(lint::lint(&maps), []);
        assert_eq!((maps.node_addrs.len(), maps.devices.len()), (3, 1));
        self.programmer.maps_mut().set_probability(0.0);
        let written = self.programmer.statistics().total();
        self.programmer
            .review(self.plans.clone(), [], self.now)
            .unwrap()
            .expect("nothing keeps it from looking");
        assert_eq!(
            self.programmer.statistics().total(),
            written,
            "a review finds nothing: {:?}",
            self.programmer.statistics()
        );
        let mut fresh = Programmer::open(MemoryMaps::default(), Capacities::default()).unwrap();
        fresh.set_node_name("node-a", self.now);
        fresh.set_node_addrs(maps.node_addrs.clone(), self.now);
        fresh.sync(self.plans.clone(), self.now);
        assert_eq!(dump(&maps), dump(&fresh.snapshot().unwrap()));
        assert_eq!(self.programmer.usage(), fresh.usage(), "something leaks");
        self.failures + self.programmer.statistics().failures
    }
}

/// Room that often does not suffice.
const TIGHT: Capacities = Capacities {
    frontends: 32,
    targets: 12,
    slots: 64,
    backends: 32,
    source_ranges: 6,
    names: 8,
};

/// Failures and refusals of one sequence.
fn run(capacities: Capacities, probability: f64, restarts: bool, seed: u64) -> (u64, usize) {
    let mut chance = Chance(seed);
    let mut run = Run::new(capacities, probability, seed);
    for _ in 0..16 {
        let step = Step::random(&mut chance, &run.world);
        if restarts && matches!(step, Step::Crash(_)) {
            run = run.restart();
        } else {
            run.step(step, &mut chance);
        }
    }
    if capacities == TIGHT {
        // An update needs its room beside what it replaces: when all is taken, somebody must go first.
        run.step(Step::Change([Some(Shape::default()); 4]), &mut chance);
        run.settle();
        let small = Shape {
            cluster: 3,
            features: EXISTS,
            ..Shape::default()
        };
        run.step(
            Step::Change([Some(small), Some(small), None, None]),
            &mut chance,
        );
    }
    let refusals = run.refusals;
    (run.finish(), refusals)
}

fn runs(capacities: Capacities, probability: f64, restarts: bool) -> (u64, usize) {
    let all = (0..400).map(|seed| run(capacities, probability, restarts, seed));
    let (failures, refusals) = all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    println!(
        "400 sequences at {probability}, restarts {restarts}: {failures} failures, {refusals} refusals"
    );
    (failures, refusals)
}

#[test]
fn b6_operations_that_fail_are_finished_in_the_end() {
    for (probability, restarts) in [
        (0.0, true),
        (0.1, false),
        (0.1, true),
        (0.3, false),
        (0.3, true),
    ] {
        let (failures, _) = runs(Capacities::default(), probability, restarts);
        assert_eq!(failures > 0, probability > 0.0);
    }
}

#[test]
fn b6_operations_that_fail_are_finished_where_there_is_no_room() {
    for (probability, restarts) in [(0.0, false), (0.2, false), (0.2, true)] {
        let (_, refusals) = runs(TIGHT, probability, restarts);
        assert!(refusals > 0);
    }
}
