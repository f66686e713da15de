//! An agent that starts again finds its maps and changes only what differs.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use proxy_agent::{
    delta::refusal::Capacities,
    maps::{Snapshot, lint, memory::MemoryMaps},
    programmer::Programmer,
};
use proxy_common::{
    abi::{
        frontend::{FrontendKey, FrontendKind, FrontendValue},
        meta::BackendMeta,
        target::{
            Algorithm, Backend, BackendState, BackendWord, RangeKey, Target, TargetState,
            TargetWord,
        },
    },
    addr::Addr,
};

use super::{
    chance::Chance,
    reader::Plans,
    world::{Shape, World},
};

/// Some Services, programmed and settled, and their plans.
fn programmed(seed: u64) -> (MemoryMaps, Plans) {
    let mut chance = Chance(seed);
    let mut world = World::default();
    for shape in &mut world.shapes {
        *shape = Shape::random(&mut chance);
        shape.features |= super::world::EXISTS;
    }
    let plans = world.plans();
    let now = Instant::now();
    let mut programmer = Programmer::open(MemoryMaps::default(), Capacities::default()).unwrap();
    programmer.sync(plans.clone(), now);
    programmer.tick(now + Duration::from_secs(10));
    assert!(programmer.is_settled());
    (programmer.into_maps(), plans)
}

fn wanted(plans: &Plans) -> BTreeSet<proxy_agent::plan::ServiceName> {
    plans.keys().cloned().collect()
}

#[test]
fn unchanged_objects_cost_no_operation() {
    for seed in 0..200 {
        let (maps, plans) = programmed(seed);
        let now = Instant::now();
        let mut programmer = Programmer::open(maps.clone(), Capacities::default()).unwrap();
        programmer.sync(plans.clone(), now);
        programmer.retain(&wanted(&plans), now);
        programmer.tick(now + Duration::from_secs(10));
        assert_eq!(
            programmer.statistics().total(),
            0,
            "seed {seed}: {:?}",
            programmer.statistics()
        );
        assert!(programmer.is_settled());
        assert_eq!(programmer.into_maps(), maps);
    }
}

#[test]
fn only_what_differs_is_written_and_ids_stay() {
    let (maps, mut plans) = programmed(1);
    let (gone, rest) = (
        plans.keys().next().unwrap().clone(),
        plans.keys().nth(1).unwrap().clone(),
    );
    let target = plans
        .get_mut(&rest)
        .unwrap()
        .targets
        .values_mut()
        .next()
        .unwrap();
    target.backends.pop();
    plans.remove(&gone);
    let now = Instant::now();
    let mut programmer = Programmer::open(maps.clone(), Capacities::default()).unwrap();
    programmer.sync(plans.clone(), now);
    let before = programmer.snapshot().unwrap();
    assert_eq!(
        before.frontends, maps.contents.frontends,
        "nothing is removed before the first full list"
    );
    programmer.retain(&wanted(&plans), now);
    programmer.tick(now + Duration::from_secs(10));
    let after = programmer.snapshot().unwrap();
    assert_eq!(lint::lint(&after), []);
    for (key, value) in &after.frontends {
        assert_eq!(maps.contents.frontends.get(key), Some(value), "{key:?}");
    }
    assert!(after.frontends.len() < maps.contents.frontends.len());
    let kept = after
        .meta_backends
        .iter()
        .filter(|(id, _)| maps.contents.meta_backends.contains_key(id));
    for (id, _) in kept {
        assert_eq!(
            after.backend(*id),
            maps.contents.backend(*id),
            "backend {id}"
        );
    }
}

/// All that a crash, or a bug of an older agent, may leave behind.
fn litter(maps: &mut Snapshot) {
    let key = |last| FrontendKey {
        addr: Addr::v4([10, 99, 0, last]),
        port: 80.into(),
        protocol: 6,
        scope: 0,
    };
    let serving = |generation| Backend {
        addr: Addr::v4([10, 98, 0, 1]),
        port: 8080.into(),
        protocol: 6,
        word: BackendWord::new(generation, BackendState::Serving),
        ..Backend::default()
    };
    // Frontends: of nothing, of another key, of a target without a name.
    let far = 50;
    maps.frontends.insert(
        key(1),
        FrontendValue::new(&key(1), 49, FrontendKind::ClusterIp),
    );
    maps.frontends.insert(
        key(2),
        FrontendValue::new(&key(3), 1, FrontendKind::ClusterIp),
    );
    maps.frontends.insert(
        key(4),
        FrontendValue::new(&key(4), far, FrontendKind::ClusterIp),
    );
    maps.targets.resize(60, Target::default());
    let word = TargetWord::new(900, 2, TargetState::Serve, Algorithm::Random);
    maps.targets[far as usize] = Target {
        word,
        service: 77,
        ..Target::default()
    };
    // Targets: one whose name alone was written, one without a frontend.
    let meta = *maps.meta_targets.values().next().unwrap();
    maps.meta_targets.insert(51, meta);
    maps.targets[52] = Target {
        word,
        service: 1,
        ..Target::default()
    };
    maps.meta_targets.insert(52, meta);
    // Backends: without an owner, with an owner that is not, gone but not cleared, a name alone, half written.
    maps.backends.resize(80, Backend::default());
    maps.backends[60] = serving(3);
    maps.backends[61] = serving(4);
    maps.meta_backends.insert(
        61,
        BackendMeta {
            owner: 4000,
            ..BackendMeta::default()
        },
    );
    maps.backends[62] = Backend {
        word: BackendWord::new(5, BackendState::Gone),
        ..serving(5)
    };
    maps.meta_backends.insert(
        63,
        BackendMeta {
            owner: 1,
            ..BackendMeta::default()
        },
    );
    maps.backends[64] = Backend {
        word: BackendWord::default(),
        ..serving(0)
    };
    // Free, with a generation.
    maps.backends[65].word = BackendWord::new(9, BackendState::Gone);
    maps.ranges.insert(RangeKey {
        prefix_len: 32 + 96 + 8,
        set: 30,
        addr: Addr::v4([10, 0, 0, 0]),
    });
    maps.names
        .insert(40, proxy_agent::maps::codec::name("nobody").unwrap());
}

#[test]
fn what_a_crash_left_behind_is_swept_and_the_rest_stays() {
    for seed in 0..50 {
        let (clean, plans) = programmed(seed);
        let mut dirty = clean.clone();
        litter(&mut dirty.contents);
        assert_ne!(lint::lint(&dirty.contents), []);
        let now = Instant::now();
        let mut programmer = Programmer::open(dirty, Capacities::default()).unwrap();
        programmer.sync(plans.clone(), now);
        programmer.tick(now + Duration::from_secs(10));
        assert!(programmer.is_settled());
        assert!(
            programmer
                .statistics()
                .ops
                .keys()
                .all(|kind| !kind.label().starts_with("put")),
            "seed {seed}"
        );
        let mut swept = programmer.into_maps().contents;
        assert_eq!(
            swept.backend(61).word,
            BackendWord::new(4, BackendState::Gone),
            "generations are kept"
        );
        assert_eq!(
            swept.backend(65).word,
            BackendWord::new(9, BackendState::Gone),
            "generations are kept"
        );
        swept.targets.truncate(clean.contents.targets.len());
        swept.backends.truncate(clean.contents.backends.len());
        assert_eq!(swept, clean.contents, "seed {seed}");
    }
}

/// A backend in use that no list names is of a living Service: it drains, and goes on to do so.
#[test]
fn l4_draining_backends_survive_a_restart() {
    let (maps, mut plans) = (0..100)
        .map(programmed)
        .find(|(_, plans)| plans.values().any(|p| !p.draining.is_empty()))
        .unwrap();
    let now = Instant::now();
    let mut programmer = Programmer::open(maps.clone(), Capacities::default()).unwrap();
    programmer.tick(now + Duration::from_secs(10));
    assert_eq!(programmer.snapshot().unwrap(), maps.contents);
    for plan in plans.values_mut() {
        plan.draining.clear();
    }
    programmer.sync(plans, now);
    let serving = |maps: &Snapshot| {
        maps.backends
            .iter()
            .filter(|b| b.word.state() == BackendState::Serving)
            .count()
    };
    assert!(
        serving(&programmer.snapshot().unwrap()) < serving(&maps.contents),
        "drained backends go"
    );
}

#[test]
fn a_service_that_is_gone_is_removed_after_the_first_full_list() {
    let (maps, _) = programmed(3);
    let now = Instant::now();
    let mut programmer = Programmer::open(maps, Capacities::default()).unwrap();
    programmer.retain(&BTreeSet::new(), now);
    programmer.tick(now + Duration::from_secs(10));
    assert!(programmer.is_settled());
    let mut empty = programmer.into_maps().contents;
    assert_eq!(lint::lint(&empty), []);
    assert!(empty.frontends.is_empty() && empty.names.is_empty() && empty.ranges.is_empty());
    empty
        .backends
        .retain(|backend| backend.word.state() != BackendState::Gone);
    assert!(empty.backends.is_empty());
}
