//! Services for which there is no room wait, and are programmed as soon as there is.

use std::time::{Duration, Instant};

use proxy_agent::{
    delta::refusal::{Capacities, Reason, Resource},
    maps::{OpKind, lint, memory::MemoryMaps},
    plan::ServicePlan,
    programmer::Programmer,
    report::Report,
    view,
};

use super::{
    chance::Chance,
    reader::Plans,
    world::{EXISTS, Shape, World, name},
};

const FIVE_BACKENDS: Capacities = Capacities {
    frontends: 100,
    targets: 100,
    slots: 100,
    backends: 6,
    source_ranges: 100,
    names: 100,
};

fn plans(endpoints: [u8; 4]) -> Plans {
    let mut world = World::default();
    for (shape, cluster) in world.shapes.iter_mut().zip(endpoints) {
        *shape = Shape {
            cluster,
            features: EXISTS,
            ..Shape::default()
        };
    }
    world.plans()
}

#[test]
fn a_refused_service_is_told_once_and_programmed_when_there_is_room() {
    let now = Instant::now();
    let mut programmer = Programmer::open(MemoryMaps::default(), FIVE_BACKENDS).unwrap();
    // Four services of two endpoints each, five places.
    let outcome = programmer.sync(plans([3; 4]), now);
    let refused: Vec<_> = outcome
        .refused
        .iter()
        .map(|refused| refused.reason.clone())
        .collect();
    assert_eq!(
        refused,
        [
            Reason::Full(Resource::Backends),
            Reason::Full(Resource::Backends)
        ]
    );
    assert_eq!(outcome.programmed.len(), 2);
    assert!(
        programmer
            .sync([], now + Duration::from_secs(1))
            .refused
            .is_empty(),
        "told once"
    );
    // One of those that are programmed goes: what it had is reclaimed on the spot, and used.
    let outcome = programmer.sync(
        [(name(0), ServicePlan::default())],
        now + Duration::from_secs(2),
    );
    assert_eq!(outcome.failed.len(), 0);
    let outcome = programmer.tick(now + Duration::from_secs(3));
    assert!(outcome.programmed.contains(&name(2)));
    assert_eq!(programmer.refused().len(), 1);
    let mut expected = plans([0, 3, 3, 0]);
    expected.retain(|service, _| *service == name(1) || *service == name(2));
    let maps = programmer.snapshot().unwrap();
    assert_eq!(
        view::report(&maps),
        Report::new("", &expected, &[], Vec::new())
    );
    assert_eq!(lint::lint(&maps), []);
}

#[test]
fn an_update_that_needs_the_places_it_frees_is_made_room_for_at_once() {
    let now = Instant::now();
    let mut programmer = Programmer::open(MemoryMaps::default(), FIVE_BACKENDS).unwrap();
    programmer.sync(plans([0b111, 0, 0, 0]), now);
    // A second update comes before the places of the first are reclaimed.
    programmer.sync(plans([0b11001, 0, 0, 0]), now);
    let outcome = programmer.sync(plans([0b111, 0, 0, 0]), now);
    assert!(outcome.refused.is_empty(), "{outcome:?}");
    assert!(programmer.refused().is_empty());
    assert!(
        programmer
            .statistics()
            .ops
            .contains_key(&OpKind::AwaitReaders)
    );
    let maps = programmer.snapshot().unwrap();
    assert_eq!(
        view::report(&maps),
        Report::new("", &plans([0b111, 0, 0, 0]), &[], Vec::new())
    );
}

#[test]
fn a_service_that_does_not_fit_keeps_what_it_has() {
    let now = Instant::now();
    let mut programmer = Programmer::open(MemoryMaps::default(), FIVE_BACKENDS).unwrap();
    programmer.sync(plans([0b11, 0, 0, 0]), now);
    let before = view::report(&programmer.snapshot().unwrap());
    let outcome = programmer.sync(plans([0b11_1111, 0, 0, 0]), now);
    assert_eq!(
        outcome
            .refused
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["test/s0 is not programmed, and stays as it was before: the map BACKENDS is full"]
    );
    assert_eq!(view::report(&programmer.snapshot().unwrap()), before);
    assert_eq!(programmer.pending().collect::<Vec<_>>(), [&name(0)]);
}

/// Many changes with little room: who is not refused is as planned, at every moment.
#[test]
fn who_fits_is_as_planned_whoever_does_not() {
    let tight = Capacities {
        frontends: 30,
        targets: 9,
        slots: 48,
        backends: 24,
        source_ranges: 6,
        names: 9,
    };
    let (mut refusals, mut fitted) = (0, 0);
    for seed in 0..300 {
        let mut chance = Chance(seed);
        let mut world = World::default();
        let mut now = Instant::now();
        let mut programmer = Programmer::open(MemoryMaps::default(), tight).unwrap();
        for _ in 0..12 {
            let shape = &mut world.shapes[chance.below(4) as usize];
            *shape = Shape::random(&mut chance);
            // Frontends that nobody else wants, so that nobody is refused for another's sake.
            shape.features &= !(1 << 4);
            refusals += programmer.sync(world.plans(), now).refused.len();
            now += Duration::from_millis(chance.below(400));
            let mut expected = world.plans();
            expected.retain(|service, _| !programmer.refused().contains_key(service));
            fitted += expected.len();
            let maps = programmer.snapshot().unwrap();
            let mut report = view::report(&maps);
            report.frontends.retain(|f| {
                expected
                    .keys()
                    .any(|service| service.to_string() == f.service)
            });
            assert_eq!(
                report,
                Report::new("", &expected, &[], Vec::new()),
                "seed {seed}"
            );
            let found = lint::lint(&maps)
                .into_iter()
                .filter(|violation| !violation.is_transient());
            assert_eq!(found.collect::<Vec<_>>(), [], "seed {seed}");
        }
        // An update needs its room beside what it replaces: when all is taken, somebody must go first.
        programmer.sync(
            plans([0; 4])
                .into_keys()
                .map(|name| (name, ServicePlan::default())),
            now,
        );
        programmer.sync(plans([1, 2, 0, 3]), now);
        now += Duration::from_secs(1);
        programmer.tick(now);
        programmer.tick(now + Duration::from_secs(1));
        assert!(
            programmer.is_settled(),
            "seed {seed}: {:?}",
            programmer.refused()
        );
        assert_eq!(lint::lint(&programmer.snapshot().unwrap()), []);
    }
    println!("{refusals} refusals, {fitted} times as planned");
    assert!(refusals > 100 && fitted > 1000);
}
