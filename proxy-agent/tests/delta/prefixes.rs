//! Semantics B6: every prefix of every update is safe for every reader.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proxy_agent::{
    delta::{
        Delta, Group,
        refusal::{Capacities, Reason},
    },
    maps::lint,
    plan::{ServiceName, ServicePlan},
    report::Report,
    view,
};

use super::{
    chance::Chance,
    reader::Readers,
    world::{Step, World},
};

/// Room for whatever the world may come to.
const AMPLE: Capacities = Capacities {
    frontends: 128,
    targets: 64,
    slots: 512,
    backends: 256,
    source_ranges: 64,
    names: 32,
};

/// Room that often does not suffice.
const TIGHT: Capacities = Capacities {
    frontends: 24,
    targets: 10,
    slots: 40,
    backends: 20,
    source_ranges: 6,
    names: 7,
};

/// A world, what is programmed of it, and who reads it meanwhile.
struct Run {
    capacities: Capacities,
    world: World,
    /// The plans that were accepted.
    in_force: BTreeMap<ServiceName, ServicePlan>,
    delta: Delta,
    readers: Readers,
    /// Operations until the agent dies.
    crash: Option<u8>,
    refusals: usize,
}

impl Run {
    fn new(capacities: Capacities, thorough: bool) -> Self {
        let mut readers = Readers::default();
        readers.thorough = thorough;
        Self {
            capacities,
            world: World::default(),
            in_force: BTreeMap::new(),
            delta: Delta::new(capacities),
            readers,
            crash: None,
            refusals: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Reclaim => self.reclaim(),
            Step::Crash(after) => self.crash = Some(after),
            Step::Change(shapes) => {
                let before = self.world.plans();
                for (shape, new) in self.world.shapes.iter_mut().zip(shapes) {
                    *shape = new.unwrap_or(*shape);
                }
                let mut changes = self.world.plans();
                changes.retain(|name, plan| {
                    before.get(name) != Some(plan) || self.in_force.get(name) != Some(plan)
                });
                self.change(&changes);
            }
        }
    }

    fn change(&mut self, changes: &BTreeMap<ServiceName, ServicePlan>) {
        let staged = self.delta.stage(changes);
        let mut accepted = changes.clone();
        for refused in &staged.refused {
            assert!(matches!(refused.reason, Reason::Full(_)), "{refused}");
            accepted.remove(&refused.service);
            self.refusals += 1;
        }
        self.accept(accepted);
        self.readers.begin(&self.in_force);
        for op in self.delta.name_writes() {
            self.readers.apply(&op);
        }
        self.delta.names_written();
        for group in staged.groups {
            if self.apply(group).is_none() {
                self.restart();
                break;
            }
        }
        self.readers.end();
    }

    /// Notes accepted plans: what they claim, nobody else has any more.
    fn accept(&mut self, accepted: BTreeMap<ServiceName, ServicePlan>) {
        for plan in self.in_force.values_mut() {
            let claimed = |address, port, protocol, scope| {
                accepted.values().flat_map(|plan| &plan.frontends).any(|f| {
                    (f.address, f.port, f.protocol, f.scope) == (address, port, protocol, scope)
                })
            };
            plan.frontends
                .retain(|f| !claimed(f.address, f.port, f.protocol, f.scope));
        }
        self.in_force.extend(accepted);
    }

    /// Applies a group; `None` if the agent dies over it.
    fn apply(&mut self, group: Group) -> Option<()> {
        for op in &group.ops {
            if self.crash == Some(0) {
                self.crash = None;
                return None;
            }
            self.crash = self.crash.map(|left| left - 1);
            self.readers.apply(op);
        }
        self.delta.commit(group);
        Some(())
    }

    /// The agent is gone; another one takes over, and gets the full list.
    fn restart(&mut self) {
        self.readers.apply(&proxy_agent::maps::Op::AwaitReaders);
        let (delta, sweep) = Delta::restore(self.capacities, self.readers.contents());
        self.delta = delta;
        self.apply(sweep).unwrap();
        let staged = self.delta.stage(&self.in_force);
        assert_eq!(staged.refused, []);
        for op in self.delta.name_writes() {
            self.readers.apply(&op);
        }
        self.delta.names_written();
        for group in staged.groups {
            self.apply(group).unwrap();
        }
    }

    fn reclaim(&mut self) {
        for op in self.delta.reclaim() {
            self.readers.apply(&op);
        }
        self.delta.reclaimed();
    }

    /// In the end nothing is left over, and the maps say what a fresh start would have made of the plans.
    fn finish(mut self) -> usize {
        self.reclaim();
        assert_eq!(self.delta.reclaimable(), 0);
        let maps = self.readers.contents();
        let planned = Report::new("", &self.in_force, &[], Vec::new());
        assert_eq!(view::report(maps), planned);
        let mut fresh = Delta::new(AMPLE);
        fresh.stage(&self.in_force);
        assert_eq!(self.delta.usage(), fresh.usage(), "something leaks");
        // Who was refused may still have targets whose frontends others took over.
        if self.refusals == 0 {
            assert_eq!(lint::lint(maps), []);
            let (mut restored, sweep) = Delta::restore(self.capacities, maps);
            assert!(sweep.is_empty(), "{sweep:?}");
            assert_eq!(restored.usage(), self.delta.usage());
            let staged = restored.stage(&self.in_force);
            assert!(
                staged.groups.is_empty() && staged.refused.is_empty(),
                "{staged:?}"
            );
        }
        self.refusals
    }
}

fn run(capacities: Capacities, crashes: bool, seed: u64, steps: usize) -> usize {
    let mut chance = Chance(seed);
    let mut run = Run::new(capacities, seed.is_multiple_of(16));
    for _ in 0..steps {
        let step = Step::random(&mut chance, &run.world);
        if crashes || !matches!(step, Step::Crash(_)) {
            run.step(step);
        }
    }
    run.finish()
}

/// Says which sequence failed.
fn runs(count: u64, run: impl Fn(u64) -> usize + std::panic::RefUnwindSafe) -> usize {
    (0..count)
        .map(|seed| {
            std::panic::catch_unwind(|| run(seed))
                .unwrap_or_else(|_| panic!("the sequence of seed {seed} fails"))
        })
        .sum()
}

#[test]
fn b6_every_prefix_is_safe_for_every_reader() {
    let start = std::time::Instant::now();
    assert_eq!(runs(10_000, |seed| run(AMPLE, true, seed, 16)), 0);
    println!("10,000 sequences with crashes in {:.1?}", start.elapsed());
}

#[test]
fn b6_every_prefix_is_safe_where_there_is_no_room() {
    let start = std::time::Instant::now();
    let refusals = runs(5_000, |seed| run(TIGHT, false, seed, 16));
    assert!(refusals > 5_000, "only {refusals} plans were refused");
    println!(
        "5,000 sequences in {:.1?}, {refusals} plans refused",
        start.elapsed()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// The same as above, for the shortest sequence that fails.
    #[test]
    fn b6_no_short_sequence_is_unsafe(steps in super::world::steps()) {
        let mut run = Run::new(AMPLE, true);
        for step in steps {
            run.step(step);
        }
        run.finish();
    }
}
