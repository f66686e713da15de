//! A thousand random changes, with restarts in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proxy_agent::{
    config::NodePortAddresses,
    dataplane::{load::Programs, maps::KernelMaps},
    devices::addresses::node_addrs,
    maps::{
        OpKind, Snapshot,
        lint::{Violation, lint},
    },
    plan::{ServiceName, ServicePlan},
    programmer::{Outcome, Programmer},
    report::Report,
    view,
};

use crate::{cluster::Cluster, fixture::Fixture, ids::Ids, random::Random};

const CHANGES: usize = 1_000;
const CHECK_EVERY: usize = 25;
const RESTART_EVERY: usize = 300;
/// Changes that an agent misses while it is dead.
const MISSED: usize = 10;
/// Longer than what is out of use waits.
const LONG: Duration = Duration::from_secs(1);

/// Freeing what nothing reaches: all that an agent may do that finds nothing changed.
const SWEEPING: [OpKind; 5] = [
    OpKind::AwaitReaders,
    OpKind::ClearBackend,
    OpKind::ClearTarget,
    OpKind::DeleteRange,
    OpKind::DeleteName,
];

/// Whether programs are loaded anew, which takes a second.
#[derive(Clone, Copy)]
enum Replaced {
    Yes,
    No,
}

/// Objects, and the agent's parts that bring them into the kernel.
struct Run {
    cluster: Cluster,
    plans: BTreeMap<ServiceName, ServicePlan>,
    programmer: Programmer<KernelMaps>,
    programs: Programs,
    now: Instant,
    fixture: Fixture,
}

impl Run {
    fn new(fixture: Fixture, random: &mut Random) -> Self {
        let programs = fixture.load();
        let mut programmer = fixture.take_over();
        let now = Instant::now();
        worked(&programmer.set_node_name("here", now));
        let mut run = Self {
            cluster: Cluster::new(random),
            plans: BTreeMap::new(),
            programmer,
            programs,
            now,
            fixture,
        };
        run.program();
        run
    }

    /// Brings what changed into the kernel.
    fn program(&mut self) {
        let flags = node_addrs(
            &self.cluster.world.node_addresses,
            &NodePortAddresses::parse(&[]).unwrap(),
            &[],
        );
        worked(&self.programmer.set_node_addrs(flags, self.now));
        let changes = self.cluster.planner.take_changes();
        for (name, plan) in &changes {
            if *plan == ServicePlan::default() {
                self.plans.remove(name);
            } else {
                self.plans.insert(name.clone(), plan.clone());
            }
        }
        worked(&self.programmer.sync(changes, self.now));
    }

    /// What the kernel's maps say is what was planned, and what the reference says.
    fn check(&self) -> usize {
        let snapshot = self.programmer.snapshot().unwrap();
        let violations = lint(&snapshot);
        assert!(
            violations.iter().all(Violation::is_transient),
            "{violations:?}"
        );
        let found = view::report(&snapshot);
        let addresses = self.cluster.node_addresses();
        assert_eq!(
            found,
            Report::new("here", &self.plans, &addresses, Vec::new())
        );
        assert_eq!(found.frontends, self.cluster.world.frontends());
        found.frontends.len()
    }

    /// Everything that waits is done.
    fn settle(&mut self) {
        self.now += LONG;
        worked(&self.programmer.tick(self.now));
        assert!(self.programmer.is_settled());
        assert_eq!(lint(&self.snapshot()), []);
    }

    fn snapshot(&self) -> Snapshot {
        self.programmer.snapshot().unwrap()
    }

    /// The agent ends, and another begins with nothing but the pins and the objects.
    fn restart(self, programs: Replaced) -> Self {
        let Self {
            mut cluster,
            programmer,
            programs: old,
            now,
            fixture,
            ..
        } = self;
        drop(programmer);
        cluster.planner = cluster.fresh_planner();
        let programs = match programs {
            Replaced::Yes => {
                drop(old);
                fixture.load()
            }
            Replaced::No => old,
        };
        let mut programmer = fixture.take_over();
        worked(&programmer.set_node_name("here", now));
        let mut run = Self {
            cluster,
            plans: BTreeMap::new(),
            programmer,
            programs,
            now: now + LONG,
            fixture,
        };
        run.program();
        let wanted: BTreeSet<ServiceName> = run.plans.keys().cloned().collect();
        worked(&run.programmer.retain(&wanted, run.now));
        run
    }

    /// Operations since the agent began, by kind.
    fn written(&self) -> BTreeSet<OpKind> {
        self.programmer.statistics().ops.keys().copied().collect()
    }
}

fn worked(outcome: &Outcome) {
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert!(outcome.refused.is_empty(), "{:?}", outcome.refused);
}

#[test]
fn after_1000_random_changes_the_kernel_says_what_plan_and_the_reference_say() {
    let fixture = match Fixture::new("changes") {
        Ok(fixture) => fixture,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let mut random = Random(20_261_121);
    let mut run = Run::new(fixture, &mut random);
    let (mut checks, mut frontends, mut restarts, mut kept, mut operations) = (0, 0, 0, 0, 0);
    for number in 1..=CHANGES {
        run.cluster.change(&mut random);
        run.now += Duration::from_millis(random.below(200) as u64);
        // Several changes may be taken together.
        if !random.one_in(3) {
            run.program();
        }
        if number % CHECK_EVERY == 0 {
            run.program();
            frontends += run.check();
            checks += 1;
        }
        if number % RESTART_EVERY == 0 {
            operations += run.programmer.statistics().total();
            restarts += 3;

            // At rest: nothing is written.
            run.program();
            run.settle();
            let before = run.snapshot();
            run = run.restart(Replaced::Yes);
            assert_eq!(run.programmer.statistics().total(), 0);
            assert!(before == run.snapshot(), "the maps are not what they were");
            assert!(run.programmer.is_settled());

            // Killed before what is out of use was freed: that is swept, nothing else.
            run.cluster.change(&mut random);
            run.program();
            let before = Ids::new(&run.snapshot());
            run = run.restart(Replaced::No);
            let written = run.written();
            assert!(
                written.iter().all(|kind| SWEEPING.contains(kind)),
                "{written:?}"
            );
            kept += before.assert_kept(&Ids::new(&run.snapshot()));
            run.check();

            // What changed meanwhile is taken up, and what did not keeps its ids.
            let before = Ids::new(&run.snapshot());
            for _ in 0..MISSED {
                run.cluster.change(&mut random);
            }
            run = run.restart(Replaced::No);
            kept += before.assert_kept(&Ids::new(&run.snapshot()));
            run.check();
        }
    }
    run.program();
    frontends += run.check();
    run.settle();
    println!(
        "{CHANGES} changes: {} times the same, with {frontends} frontends in all; {restarts} restarts, {kept} ids kept; \
         {} operations",
        checks + 1,
        operations + run.programmer.statistics().total()
    );
}
