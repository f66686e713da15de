//! Semantics B6: every prefix of every update is safe for every reader.

use std::{
    collections::{BTreeMap, HashSet},
    panic::RefUnwindSafe,
    time::Instant,
};

use proptest::prelude::*;
use proxy_agent::{
    delta::{
        Delta, Group,
        refusal::{Capacities, Reason},
    },
    maps::{Op, OpKind, Snapshot, codec, lint, memory::MemoryMaps},
    plan::{ServiceName, ServicePlan},
    report::Report,
    view,
};
use proxy_common::abi::target::{BackendState, BackendWord};

use super::{
    chance::Chance,
    dump::dump,
    reader::Readers,
    world::{Step, World},
};

/// Room for whatever the world may come to.
const AMPLE: Capacities = Capacities {
    frontends: 128,
    targets: 64,
    slots: 65_536,
    backends: 256,
    source_ranges: 64,
    names: 32,
};

/// Room that often does not suffice.
const TIGHT: Capacities = Capacities {
    frontends: 32,
    targets: 12,
    slots: 64,
    backends: 32,
    source_ranges: 6,
    names: 8,
};

/// A world, what is programmed of it, and who reads it meanwhile.
struct Run {
    capacities: Capacities,
    world: World,
    /// The plans that were accepted.
    in_force: BTreeMap<ServiceName, ServicePlan>,
    delta: Delta,
    readers: Readers,
    /// What the clock shows.
    now: u64,
    /// Operations until the agent dies.
    crash: Option<u8>,
    refusals: usize,
    sabotage: Option<Sabotage>,
}

/// Ways to do it wrong.
#[derive(Clone, Copy, Debug)]
enum Sabotage {
    /// Targets are flipped before their slots and backends are written.
    FlipFirst,
    /// Backends are written last.
    BackendsLast,
    /// What is out of use is cleared at once …
    ReclaimAtOnce,
    /// … or without waiting for readers.
    NoGracePeriod,
    /// Source ranges are written last.
    RangesLast,
    /// Slots are written where the old ones are.
    SlotsInPlace,
    /// Generations are all the same.
    NoGenerations,
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
            now: 1,
            crash: None,
            refusals: 0,
            sabotage: None,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Reclaim => self.reclaim(),
            Step::Crash(after) => self.crash = Some(after),
            Step::Change(shapes) => {
                for (shape, new) in self.world.shapes.iter_mut().zip(shapes) {
                    *shape = new.unwrap_or(*shape);
                }
                let mut changes = self.world.plans();
                changes.retain(|name, plan| self.in_force.get(name) != Some(plan));
                self.change(&changes);
            }
        }
    }

    fn change(&mut self, changes: &BTreeMap<ServiceName, ServicePlan>) {
        self.now += 1;
        let staged = self.delta.stage(changes, self.now);
        let mut accepted = changes.clone();
        for refused in &staged.refused {
            assert!(matches!(refused.reason, Reason::Full(_)), "{refused}");
            accepted.remove(&refused.service);
            self.refusals += 1;
        }
        self.accept(accepted);
        self.readers.begin(&self.in_force);
        self.names();
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
        let claimed: HashSet<_> = accepted
            .values()
            .flat_map(|plan| &plan.frontends)
            .map(codec::frontend_key)
            .collect();
        for plan in self.in_force.values_mut() {
            plan.frontends
                .retain(|frontend| !claimed.contains(&codec::frontend_key(frontend)));
        }
        self.in_force.extend(accepted);
    }

    /// Applies a group; `None` if the agent dies over it.
    fn apply(&mut self, mut group: Group) -> Option<()> {
        if let Some(sabotage) = self.sabotage {
            self.spoil(sabotage, &mut group.ops);
        }
        for op in &group.ops {
            if self.crash == Some(0) {
                self.crash = None;
                return None;
            }
            self.crash = self.crash.map(|left| left - 1);
            self.readers.apply(op);
        }
        self.delta.commit(group);
        if let Some(Sabotage::ReclaimAtOnce) = self.sabotage {
            self.reclaim();
        }
        Some(())
    }

    fn spoil(&self, sabotage: Sabotage, ops: &mut [Op]) {
        match sabotage {
            Sabotage::FlipFirst => ops.sort_by_key(|op| op.kind() != OpKind::FlipTarget),
            Sabotage::RangesLast => ops.sort_by_key(|op| op.kind() == OpKind::PutRange),
            Sabotage::BackendsLast => ops.sort_by_key(|op| op.kind() == OpKind::PutBackend),
            Sabotage::ReclaimAtOnce | Sabotage::NoGracePeriod => {}
            Sabotage::SlotsInPlace => {
                let flips: Vec<_> = ops
                    .iter()
                    .filter_map(|op| match op {
                        Op::FlipTarget { id, word } => {
                            Some((word.offset(), self.readers.contents().target(*id).word))
                        }
                        _ => None,
                    })
                    .collect();
                for op in ops {
                    if let Op::WriteSlots { offset, slots } = op
                        && let Some((_, old)) = flips.iter().find(|(new, _)| new == offset)
                        && usize::from(old.count()) >= slots.len()
                    {
                        *offset = old.offset();
                    }
                }
            }
            Sabotage::NoGenerations => {
                for op in ops {
                    match op {
                        Op::PutBackend { value, .. } => {
                            value.word = BackendWord::new(1, BackendState::Serving);
                        }
                        Op::WriteSlots { slots, .. } => {
                            for slot in slots {
                                slot.generation = 1;
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    /// The agent is gone; another one takes over, and gets the full list.
    fn restart(&mut self) {
        self.readers.apply(&Op::AwaitReaders);
        let (delta, sweep) = Delta::restore(self.capacities, self.readers.contents());
        self.delta = delta;
        self.apply(sweep).unwrap();
        self.now += 1;
        let staged = self.delta.stage(&self.in_force, self.now);
        assert_eq!(staged.refused, []);
        self.names();
        for group in staged.groups {
            self.apply(group).unwrap();
        }
    }

    fn names(&mut self) {
        let names = self.delta.name_writes();
        for op in &names {
            self.readers.apply(op);
        }
        self.delta.names_written(&names);
    }

    fn reclaim(&mut self) {
        let careless = matches!(
            self.sabotage,
            Some(Sabotage::ReclaimAtOnce | Sabotage::NoGracePeriod)
        );
        let reclaim = self.delta.reclaim();
        let ops = reclaim
            .ops
            .iter()
            .filter(|op| !careless || **op != Op::AwaitReaders);
        ops.for_each(|op| self.readers.apply(op));
        self.delta.reclaimed(reclaim);
    }

    /// In the end nothing is left over, and the maps say what a fresh start would have made of the plans.
    fn finish(mut self) -> usize {
        self.reclaim();
        assert_eq!(self.delta.reclaimable(), 0);
        let maps = self.readers.contents();
        let planned = Report::new("", &self.in_force, &[], Vec::new());
        assert_eq!(view::report(maps), planned);
        let mut fresh = Delta::new(AMPLE);
        fresh.stage(&self.in_force, 0);
        assert_eq!(self.delta.usage(), fresh.usage(), "something leaks");
        // Who was refused may still have targets whose frontends others took over.
        if self.refusals == 0 {
            assert_eq!(lint::lint(maps), []);
            assert_eq!(dump(maps), dump(&anew(&self.in_force)));
            let (mut restored, sweep) = Delta::restore(self.capacities, maps);
            assert!(sweep.is_empty(), "{sweep:?}");
            assert_eq!(restored.usage(), self.delta.usage());
            let staged = restored.stage(&self.in_force, u64::MAX);
            assert!(
                staged.groups.is_empty() && staged.refused.is_empty(),
                "{staged:?}"
            );
        }
        self.refusals
    }
}

/// What a fresh start makes of plans.
fn anew(plans: &BTreeMap<ServiceName, ServicePlan>) -> Snapshot {
    let mut maps = MemoryMaps::default();
    let mut delta = Delta::new(AMPLE);
    let staged = delta.stage(plans, 0);
    let groups = staged.groups.iter().flat_map(|group| &group.ops);
    let names = delta.name_writes();
    groups.chain(&names).for_each(|op| maps.apply_one(op));
    maps.contents
}

fn run(capacities: Capacities, crashes: bool, seed: u64, sabotage: Option<Sabotage>) -> usize {
    let mut chance = Chance(seed);
    let mut run = Run::new(capacities, seed.is_multiple_of(16));
    run.sabotage = sabotage;
    // Their tables are long, and take their time.
    run.world.maglev = seed.is_multiple_of(8) && capacities == AMPLE;
    for _ in 0..16 {
        let step = Step::random(&mut chance, &run.world);
        if crashes || !matches!(step, Step::Crash(_)) {
            run.step(step);
        }
    }
    run.finish()
}

/// Runs with many seeds, on all cores; says which fail.
fn runs(seeds: u64, run: impl Fn(u64) -> usize + RefUnwindSafe + Sync) -> usize {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = |first: usize| -> usize {
        (first as u64..seeds)
            .step_by(threads)
            .map(|seed| {
                std::panic::catch_unwind(|| run(seed))
                    .unwrap_or_else(|_| panic!("the sequence of seed {seed} fails"))
            })
            .sum()
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|first| scope.spawn(move || part(first)))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("a sequence fails, see above"))
            .sum()
    })
}

#[test]
fn b6_every_prefix_is_safe_for_every_reader() {
    let start = Instant::now();
    assert_eq!(runs(10_000, |seed| run(AMPLE, true, seed, None)), 0);
    println!("10,000 sequences with crashes in {:.1?}", start.elapsed());
}

#[test]
fn b6_every_prefix_is_safe_where_there_is_no_room() {
    let start = Instant::now();
    let refusals = runs(2_500, |seed| run(TIGHT, false, seed, None));
    assert!(refusals > 2_500, "only {refusals} plans were refused");
    println!(
        "2,500 sequences in {:.1?}, {refusals} plans refused",
        start.elapsed()
    );
}

/// The readers would see it if it were done wrong.
#[test]
fn b6_what_is_unsafe_is_noticed() {
    for sabotage in [
        Sabotage::FlipFirst,
        Sabotage::BackendsLast,
        Sabotage::RangesLast,
        Sabotage::ReclaimAtOnce,
        Sabotage::NoGracePeriod,
        Sabotage::SlotsInPlace,
        Sabotage::NoGenerations,
    ] {
        let noticed =
            |seed| std::panic::catch_unwind(|| run(AMPLE, false, seed, Some(sabotage))).is_err();
        let first = (0..200).find(|seed| noticed(*seed));
        println!("{sabotage:?} is noticed in sequence {first:?}");
        assert!(first.is_some(), "{sabotage:?} goes unnoticed");
    }
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
