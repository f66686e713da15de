//! Writes that the kernel refuses. What it did not take is not done.

use std::time::{Duration, Instant};

use proxy_agent::dataplane::{
    open::open,
    pin::PinFolder,
    sys::{
        map::{Map, Update},
        object,
    },
};
use proxy_common::abi::{Pinned, TypedSpec, kind::OneValue};

use crate::{fixture::Fixture, pinned::create, plans::plans};

const SMALL: TypedSpec<proxy_common::abi::kind::Hash, u32, u64> = TypedSpec::new("SMALL", 3);

fn map<S: OneValue>(pins: &PinFolder, spec: TypedSpec<S, u32, u64>) -> Map<u32, u64> {
    create(&pins.map(spec.spec.name), &spec.spec);
    open(pins, spec).unwrap()
}

macro_rules! fixture {
    ($name:literal) => {
        match $crate::fixture::Fixture::new($name) {
            Ok(fixture) => fixture,
            Err(reason) => {
                println!("skipped: {reason}");
                return;
            }
        }
    };
}
pub(crate) use fixture;

#[test]
fn a_batch_is_done_as_far_as_its_elements_are() {
    let f = fixture!("batch");
    f.pins().create().unwrap();
    let small = map(f.pins(), SMALL);
    let keys: Vec<u32> = (0..8).collect();
    let values: Vec<u64> = (10..18).collect();

    // No room for the fourth.
    let error = small.update_batch(&keys, &values).unwrap_err();
    assert_eq!(error.done, 3);
    assert_eq!(error.source.raw_os_error(), Some(libc::E2BIG));
    assert_eq!(small.entries().unwrap().len(), 3);

    // What is not there is passed over.
    small.delete_batch(&[9, 1, 7]).unwrap();
    assert_eq!(small.entries().unwrap().len(), 2);

    // Nothing can be written any more: the kernel says so before it looks at an element.
    object::freeze(&small).unwrap();
    let error = small.update_batch(&keys[..2], &values[6..]).unwrap_err();
    assert_eq!(
        (error.done, error.source.raw_os_error()),
        (0, Some(libc::EPERM))
    );
    let error = small.delete_batch(&[0, 2]).unwrap_err();
    assert_eq!(
        (error.done, error.source.raw_os_error()),
        (0, Some(libc::EPERM))
    );
    let mut left = small.entries().unwrap();
    left.sort_unstable();
    assert_eq!(left, [(0, 10), (2, 12)]);
    assert!(small.update(&0, &1, Update::Any).is_err());
}

#[test]
fn services_that_a_frozen_map_does_not_take_are_pending() {
    for (name, of) in [
        ("FRONTENDS", "frozen-frontends"),
        ("META_TARGETS", "frozen-targets"),
        ("META_BACKENDS", "frozen-backends"),
    ] {
        let f = match Fixture::new(of) {
            Ok(fixture) => fixture,
            Err(reason) => return println!("skipped: {reason}"),
        };
        let _programs = f.load();
        let mut programmer = f.take_over();
        let now = Instant::now();
        object::freeze(object::open(&f.pins().map(name)).unwrap()).unwrap();
        let outcome = programmer.sync(plans(4), now);
        assert!(!outcome.failed.is_empty(), "{name}");
        assert!(
            outcome.programmed.is_empty(),
            "{name}: {:?}",
            outcome.programmed
        );
        assert_eq!(programmer.pending().count(), 4, "{name}");
        assert!(programmer.is_behind(), "{name}");
        assert_eq!(programmer.snapshot().unwrap().frontends.len(), 0, "{name}");
        // And they stay so.
        programmer.tick(now + Duration::from_mins(1));
        assert_eq!(programmer.pending().count(), 4, "{name}");
    }
}

#[test]
fn frontends_that_a_frozen_map_keeps_are_not_gone() {
    let f = fixture!("frozen-deletes");
    let _programs = f.load();
    let mut programmer = f.take_over();
    let now = Instant::now();
    programmer.sync(plans(4), now);
    assert_eq!(programmer.pending().count(), 0);
    object::freeze(open(f.pins(), Pinned::FRONTENDS).unwrap()).unwrap();
    programmer.retain(&[].into(), now);
    assert_eq!(programmer.pending().count(), 4);
    assert!(programmer.is_behind());
    let frontends = programmer.snapshot().unwrap().frontends;
    assert_eq!(frontends.len(), 4);
}
