//! Maglev tables that are made elsewhere: nobody waits for them but the Service that they are for.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use proxy_agent::{
    delta::{
        refusal::Capacities,
        tables::{self, Table},
    },
    maps::{OpKind, lint, memory::MemoryMaps},
    plan::{
        BackendPlan, FrontendAddress, FrontendPlan, Protocol, ServiceName, ServicePlan, TargetKey,
        TargetPlan,
    },
    programmer::{Outcome, Programmer, TableJob},
    report::Report,
    view,
};
use proxy_common::{
    abi::{
        frontend::{FrontendKind, Scope},
        meta::List,
        target::Algorithm,
    },
    addr::Family,
};

use super::{
    chance::Chance,
    dump::dump,
    reader::Plans,
    world::{Shape, World},
};

fn name(name: &str) -> ServiceName {
    ServiceName {
        namespace: "test".into(),
        name: name.into(),
    }
}

fn key(port: u16, list: List) -> TargetKey {
    TargetKey {
        port_name: port.to_string(),
        protocol: Protocol::Tcp,
        family: Family::V4,
        list,
    }
}

/// Endpoints at a port.
fn maglev(port: u16, endpoints: &[u8]) -> TargetPlan {
    let backend = |last: &u8| BackendPlan {
        address: IpAddr::V4(Ipv4Addr::new(10, 1, 0, *last)),
        port,
        local: false,
        node: None,
        zone: None,
        weight: 1,
        terminating: false,
    };
    TargetPlan {
        backends: endpoints.iter().map(backend).collect(),
        empty: None,
        algorithm: Algorithm::Maglev,
        affinity_seconds: None,
        slow_start_seconds: None,
        sources: None,
    }
}

/// A plan with these addresses, 10.96.0.x, on port 80.
fn plan(vips: &[u8], endpoints: &[u8]) -> ServicePlan {
    let frontend = |vip: &u8| FrontendPlan {
        address: FrontendAddress::Ip(IpAddr::V4(Ipv4Addr::new(10, 96, 0, *vip))),
        port: 80,
        protocol: Protocol::Tcp,
        scope: Scope::Cluster,
        kind: FrontendKind::ClusterIp,
        target: key(80, List::Cluster),
    };
    ServicePlan {
        frontends: vips.iter().map(frontend).collect(),
        targets: [(key(80, List::Cluster), maglev(8080, endpoints))].into(),
        ..ServicePlan::default()
    }
}

/// The same with backends chosen at random, which takes no table.
fn random(vips: &[u8], endpoints: &[u8]) -> ServicePlan {
    let mut plan = plan(vips, endpoints);
    for target in plan.targets.values_mut() {
        target.algorithm = Algorithm::Random;
    }
    plan
}

/// A programmer that makes no table itself.
struct Elsewhere {
    programmer: Programmer<MemoryMaps>,
    now: Instant,
}

impl Elsewhere {
    fn new(capacities: Capacities) -> Self {
        let mut programmer = Programmer::open(MemoryMaps::default(), capacities).unwrap();
        programmer.make_tables_elsewhere(0);
        Self {
            programmer,
            now: Instant::now(),
        }
    }

    fn sync(&mut self, service: &str, plan: ServicePlan) -> Outcome {
        self.programmer.sync([(name(service), plan)], self.now)
    }

    /// The only job that there is.
    fn job(&mut self) -> TableJob {
        let mut jobs = self.programmer.take_table_jobs();
        assert_eq!(jobs.len(), 1);
        jobs.remove(0)
    }

    fn finish(&mut self, job: TableJob) -> Outcome {
        let tables: Vec<Table> = job
            .lists
            .into_iter()
            .filter_map(tables::List::table)
            .collect();
        self.programmer.tables_made(&job.ticket, tables, self.now)
    }

    #[track_caller]
    fn expect<const N: usize>(&self, plans: [(&str, ServicePlan); N]) {
        let plans: Plans = plans.map(|(service, plan)| (name(service), plan)).into();
        let maps = self.programmer.snapshot().unwrap();
        assert_eq!(
            view::report(&maps),
            Report::new("", &plans, &[], Vec::new())
        );
        let found = lint::lint(&maps).into_iter();
        assert_eq!(found.filter(|v| !v.is_transient()).collect::<Vec<_>>(), []);
    }
}

#[test]
fn others_are_programmed_while_one_waits_for_its_table() {
    let mut it = Elsewhere::new(Capacities::default());
    let outcome = it.sync("big", plan(&[1], &[1, 2, 3]));
    assert_eq!(outcome.applied, 0);
    let job = it.job();
    let outcome = it.sync("other", random(&[2], &[7, 8]));
    assert_eq!(outcome.programmed, [name("other")].into());
    it.expect([("other", random(&[2], &[7, 8]))]);
    assert_eq!(
        it.programmer.pending().collect::<Vec<_>>(),
        [&name("big")],
        "it is known to wait"
    );
    assert!(!it.programmer.is_settled());
    assert_eq!(it.programmer.waits_for_tables_since(), Some(it.now));
    let outcome = it.finish(job);
    assert_eq!(outcome.programmed, [name("big")].into());
    it.expect([
        ("big", plan(&[1], &[1, 2, 3])),
        ("other", random(&[2], &[7, 8])),
    ]);
    assert_eq!(it.programmer.pending().count(), 0);
    assert_eq!(it.programmer.waits_for_tables_since(), None);
}

#[test]
fn a_service_keeps_what_it_has_until_its_table_is_there() {
    let mut it = Elsewhere::new(Capacities::default());
    it.sync("big", random(&[1], &[1]));
    it.sync("big", plan(&[1], &[1, 2]));
    let job = it.job();
    it.expect([("big", random(&[1], &[1]))]);
    it.finish(job);
    it.expect([("big", plan(&[1], &[1, 2]))]);
}

/// Each plan but the last is late when its table comes, and still each second one is programmed.
#[test]
fn a_service_that_always_changes_gets_on() {
    let mut it = Elsewhere::new(Capacities::default());
    it.sync("big", plan(&[1], &[1, 2]));
    for last in 3..20 {
        let job = it.job();
        it.now += Duration::from_secs(1);
        it.sync("big", plan(&[1], &[1, last, last + 1]));
        it.sync("big", plan(&[1], &[1, last]));
        assert_eq!(it.programmer.take_table_jobs().len(), 0, "one at a time");
        it.finish(job);
        it.expect([("big", plan(&[1], &[1, last - 1]))]);
        assert!(!it.programmer.is_behind());
        assert_eq!(
            it.programmer.waits_for_tables_since(),
            Some(it.now),
            "it has waited since it was last programmed"
        );
    }
    let job = it.job();
    it.finish(job);
    it.expect([("big", plan(&[1], &[1, 19]))]);
    assert_eq!(it.programmer.pending().count(), 0);
}

#[test]
fn a_plan_that_needs_no_table_does_not_wait_for_one_that_did() {
    let mut it = Elsewhere::new(Capacities::default());
    it.sync("big", plan(&[1], &[1, 2]));
    let job = it.job();
    it.sync("big", random(&[1], &[3]));
    it.expect([("big", random(&[1], &[3]))]);
    assert!(!job.ticket.is_valid());
    it.finish(job);
    it.expect([("big", random(&[1], &[3]))]);
    assert_eq!(it.programmer.pending().count(), 0);
}

#[test]
fn a_service_that_is_deleted_meanwhile_stays_away() {
    let mut it = Elsewhere::new(Capacities::default());
    it.sync("big", plan(&[1], &[1, 2]));
    let job = it.job();
    it.programmer.retain(&[].into(), it.now);
    assert!(!job.ticket.is_valid());
    it.finish(job);
    it.expect([]);
    assert_eq!(it.programmer.pending().count(), 0);
}

#[test]
fn a_late_plan_takes_no_frontend_back() {
    let mut it = Elsewhere::new(Capacities::default());
    it.sync("big", plan(&[1, 2], &[1, 2]));
    let job = it.job();
    // The second address is another Service's by now.
    let (less, other) = (plan(&[1], &[1, 2, 3]), random(&[2], &[9]));
    it.programmer.sync(
        [(name("big"), less.clone()), (name("other"), other.clone())],
        it.now,
    );
    it.expect([("other", other.clone())]);
    it.finish(job);
    it.expect([("big", plan(&[1], &[1, 2])), ("other", other.clone())]);
    let job = it.job();
    it.finish(job);
    it.expect([("big", less), ("other", other)]);
}

#[test]
fn s7_a_frontend_that_waits_for_its_new_owner_is_never_missing() {
    let mut it = Elsewhere::new(Capacities::default());
    let old = random(&[1, 2], &[9]);
    it.sync("old", old.clone());
    let (less, new) = (random(&[1], &[9]), plan(&[2], &[1, 2]));
    it.programmer.sync(
        [(name("old"), less.clone()), (name("new"), new.clone())],
        it.now,
    );
    it.expect([("old", old)]);
    let job = it.job();
    let outcome = it.finish(job);
    assert_eq!(outcome.programmed.len(), 2);
    let deletes = it.programmer.statistics().ops.get(&OpKind::DeleteFrontend);
    assert_eq!(deletes, None);
    it.expect([("new", new), ("old", less)]);
}

#[test]
fn an_owner_that_waits_for_its_table_does_not_hold_its_frontends() {
    let mut it = Elsewhere::new(Capacities::default());
    it.sync("old", random(&[1, 2], &[9]));
    it.sync("old", plan(&[1, 2], &[1, 2]));
    let job = it.job();
    let (less, new) = (plan(&[1], &[3, 4]), random(&[2], &[7]));
    it.programmer.sync(
        [(name("old"), less.clone()), (name("new"), new.clone())],
        it.now,
    );
    it.expect([("old", random(&[1], &[9])), ("new", new.clone())]);
    it.finish(job);
    let job = it.job();
    it.finish(job);
    it.expect([("old", less), ("new", new)]);
}

#[test]
fn no_table_is_made_for_a_service_without_room() {
    let few = Capacities {
        slots: 1_500,
        ..Capacities::default()
    };
    let mut it = Elsewhere::new(few);
    it.sync("first", plan(&[1], &[1, 2]));
    let job = it.job();
    it.finish(job);
    let outcome = it.sync("second", plan(&[2], &[1, 2]));
    assert_eq!(outcome.refused.len(), 1);
    assert_eq!(it.programmer.take_table_jobs().len(), 0);
    assert!(!it.programmer.is_behind(), "what is refused is not late");
}

/// A Service that is tried again is not told again, though it had to wait for its table first.
#[test]
fn a_refusal_is_told_once_over_new_tables() {
    let few = Capacities {
        backends: 5,
        ..Capacities::default()
    };
    let mut it = Elsewhere::new(few);
    // There are 4 places.
    it.sync("one", random(&[1], &[1, 2, 3]));
    it.sync("big", plan(&[2], &[1, 2, 3]));
    let job = it.job();
    assert_eq!(it.finish(job).refused.len(), 1);
    // One place is freed, which is not enough.
    it.sync("one", random(&[1], &[1, 2]));
    it.now += Duration::from_secs(1);
    let outcome = it.programmer.tick(it.now);
    assert!(outcome.refused.is_empty());
    let job = it.job();
    assert_eq!(it.finish(job).refused, []);
    assert_eq!(
        it.programmer.take_table_jobs().len(),
        0,
        "nothing was freed since the last try"
    );
    assert!(it.programmer.refused().contains_key(&name("big")));
    // The other two are freed too.
    it.sync("one", ServicePlan::default());
    it.now += Duration::from_secs(1);
    it.programmer.tick(it.now);
    let job = it.job();
    assert_eq!(it.finish(job).programmed, [name("big")].into());
    it.expect([("big", plan(&[2], &[1, 2, 3]))]);
}

/// One that was refused, and gives a frontend to one that waits for its table, is tried again when the table is there.
#[test]
fn a_refused_service_that_waited_for_another_is_tried_again() {
    let few = Capacities {
        backends: 9,
        ..Capacities::default()
    };
    let mut it = Elsewhere::new(few);
    it.sync("one", random(&[1], &[1, 2, 3]));
    it.sync("giver", random(&[2, 3], &[1]));
    // Neither fits: 8 places, of which 4 are taken.
    let refused = it.sync("giver", random(&[2], &[1, 2, 3, 4, 5, 6]));
    assert_eq!(refused.refused.len(), 1);
    it.sync("big", plan(&[3], &[1, 2, 3, 4, 5, 6, 7]));
    let job = it.job();
    assert_eq!(it.finish(job).refused.len(), 1);
    // Room for the giver, but not for the other.
    it.sync("one", random(&[1], &[1]));
    it.now += Duration::from_secs(1);
    it.programmer.tick(it.now);
    let job = it.job();
    it.programmer.tick(it.now);
    let outcome = it.finish(job);
    assert_eq!(outcome.programmed, [name("giver")].into());
    assert_eq!(outcome.refused, []);
    // The giver's frontend is free now: that is worth one more try.
    let job = it.job();
    assert_eq!(it.finish(job).refused, []);
    assert_eq!(it.programmer.take_table_jobs().len(), 0);
    it.expect([
        ("one", random(&[1], &[1])),
        ("giver", random(&[2], &[1, 2, 3, 4, 5, 6])),
    ]);
}

/// Tables that take more than half of the slots are as planned still, however the maps are read back.
#[test]
fn tables_that_stand_in_crowded_maps_need_no_room() {
    let few = Capacities {
        slots: 2_500,
        ..Capacities::default()
    };
    let plans: Plans = [
        (name("one"), plan(&[1], &[1, 2])),
        (name("two"), plan(&[2], &[3, 4])),
    ]
    .into();
    let now = Instant::now();
    let mut programmer = Programmer::open(MemoryMaps::default(), few).unwrap();
    programmer.sync(plans.clone(), now);
    assert!(programmer.is_settled());
    assert_eq!(programmer.usage().slots, 2_042);
    let maps = programmer.into_maps();
    for elsewhere in [false, true] {
        for reviewed in [false, true] {
            let programmer = Programmer::open(maps.clone(), few).unwrap();
            let mut it = Elsewhere { programmer, now };
            if elsewhere {
                it.programmer.make_tables_elsewhere(0);
            }
            let mut outcome = if reviewed {
                it.programmer
                    .review(plans.clone(), [], now)
                    .unwrap()
                    .expect("nothing is in its way")
            } else {
                it.programmer.sync(plans.clone(), now)
            };
            let jobs = it.programmer.take_table_jobs();
            assert_eq!(jobs.len(), if elsewhere { 2 } else { 0 });
            for job in jobs {
                let later = it.finish(job);
                outcome.refused.extend(later.refused);
                outcome.programmed.extend(later.programmed);
            }
            let context = format!("elsewhere {elsewhere}, reviewed {reviewed}");
            assert_eq!(outcome.refused, [], "{context}");
            assert_eq!(outcome.programmed.len(), 2, "{context}");
            assert_eq!(it.programmer.statistics().total(), 0, "{context}");
            assert!(it.programmer.is_settled(), "{context}");
            // Another list of the same length needs room that there is not.
            let outcome = it.sync("two", plan(&[2], &[3, 5]));
            assert_eq!(outcome.refused.len(), 1, "{context}");
            assert_eq!(it.programmer.take_table_jobs().len(), 0, "{context}");
        }
    }
}

/// Lists of the jobs that a plan brings about, all of which are done.
fn tables_for(it: &mut Elsewhere, plan: &ServicePlan) -> usize {
    it.sync("web", plan.clone());
    let jobs = it.programmer.take_table_jobs();
    let count = jobs.iter().map(|job| job.lists.len()).sum();
    for job in jobs {
        it.finish(job);
    }
    it.expect([("web", plan.clone())]);
    count
}

#[test]
fn a_table_is_made_once_for_equal_lists_and_again_only_where_the_list_changed() {
    let mut it = Elsewhere::new(Capacities::default());
    let mut plan = plan(&[1], &[1, 2, 3]);
    // Three ports: two lead to one port of the same endpoints, one to another. And a local list that is the whole one.
    for (port, list, target_port) in [
        (81, List::Cluster, 8080),
        (82, List::Cluster, 9090),
        (80, List::Local, 8080),
    ] {
        let target = key(port, list);
        plan.targets
            .insert(target.clone(), maglev(target_port, &[1, 2, 3]));
        let local = list == List::Local;
        plan.frontends.push(FrontendPlan {
            port,
            scope: if local {
                Scope::External
            } else {
                Scope::Cluster
            },
            target,
            ..plan.frontends[0].clone()
        });
    }
    assert_eq!(tables_for(&mut it, &plan), 2, "equal lists have one table");
    assert_eq!(tables_for(&mut it, &plan), 0);
    for target in plan.targets.values_mut() {
        target.affinity_seconds = Some(60);
        for backend in &mut target.backends {
            backend.local = backend.address.to_string().ends_with('1');
            backend.node = Some("node-a".into());
        }
    }
    assert_eq!(tables_for(&mut it, &plan), 0, "no list changed");
    let target = plan.targets.get_mut(&key(82, List::Cluster)).unwrap();
    target.backends.pop();
    assert_eq!(tables_for(&mut it, &plan), 1, "one list changed");
    for target in plan.targets.values_mut() {
        target.backends[0].weight = 7;
    }
    assert_eq!(tables_for(&mut it, &plan), 2, "all lists changed");
}

/// Whatever changes while tables are made, in the end the maps are what they are when tables are made at once.
#[test]
fn random_changes_end_as_if_nobody_had_waited() {
    let mut waited = 0;
    for seed in 0..300 {
        let mut chance = Chance(seed);
        let mut world = World {
            maglev: true,
            ..World::default()
        };
        let mut it = Elsewhere::new(Capacities::default());
        let mut jobs = Vec::new();
        let mut plans = BTreeMap::new();
        for _ in 0..16 {
            let shape = &mut world.shapes[chance.below(4) as usize];
            *shape = if chance.below(3) == 0 {
                Shape::random(&mut chance)
            } else {
                shape.nudged(&mut chance)
            };
            // Most of them have Maglev's tables, and one address is wanted by several.
            shape.features |= 3 << 14 | if chance.below(2) == 0 { 1 << 4 } else { 0 };
            let mut changes = world.plans();
            changes.retain(|service, plan| plans.get(service) != Some(plan));
            it.programmer.sync(changes, it.now);
            plans = world.plans();
            jobs.extend(it.programmer.take_table_jobs());
            while chance.below(2) == 0 && !jobs.is_empty() {
                let job = jobs.swap_remove(chance.below(jobs.len() as u64) as usize);
                it.finish(job);
                jobs.extend(it.programmer.take_table_jobs());
            }
            waited += usize::from(!jobs.is_empty());
            it.now += Duration::from_millis(chance.below(400));
            it.programmer.tick(it.now);
            let found = lint::lint(&it.programmer.snapshot().unwrap()).into_iter();
            let lasting: Vec<_> = found.filter(|v| !v.is_transient()).collect();
            assert_eq!(lasting, [], "seed {seed}");
        }
        while let Some(job) = jobs.pop() {
            it.finish(job);
            jobs.extend(it.programmer.take_table_jobs());
        }
        for _ in 0..2 {
            it.now += Duration::from_secs(1);
            it.programmer.tick(it.now);
        }
        assert!(it.programmer.is_settled(), "seed {seed}");
        let mut at_once = Programmer::open(MemoryMaps::default(), Capacities::default()).unwrap();
        at_once.sync(plans, it.now);
        let (ours, theirs) = (&it.programmer, &at_once);
        assert_eq!(
            dump(&ours.snapshot().unwrap()),
            dump(&theirs.snapshot().unwrap()),
            "seed {seed}"
        );
        assert_eq!(ours.usage(), theirs.usage(), "seed {seed}: something leaks");
    }
    assert!(waited > 1_000, "{waited}");
}
