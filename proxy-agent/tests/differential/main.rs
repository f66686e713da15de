//! The programs in the kernel against the same code on the host: frame by frame the same verdict and the same bytes, and
//! afterwards the same tables and counters. Root: it loads programs, into a network namespace and a bpf file system of
//! their own.

#[path = "../delta/chance.rs"]
mod chance;
mod compare;
mod frames;
mod kernel;
mod maps;
mod namespace;
mod numbers;
mod outcome;
mod sent;
mod services;

use proxy_common::abi::counter::Counter;

use self::{
    chance::Chance, compare::Pair, frames::Generator, kernel::Object, namespace::skip_reason,
    outcome::Outcome, services::Crowding,
};

/// Seed of the frames; another one can be tried with `PROXY_DIFFERENTIAL_SEED`. All but the ports that are drawn by the
/// kernel's clock, and come back in answers, depends on it alone.
const SEED: u64 = 20_261_121;
/// Frames of the long run; `PROXY_DIFFERENTIAL_FRAMES` changes it.
const FRAMES: u64 = 40_000;
/// Frames between two comparisons of whole tables.
const TABLES_EVERY: u64 = 2_000;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// Frames through both, with changes of the world in between.
fn compare(seed: u64, count: u64, crowding: Crowding) -> Outcome {
    namespace::inside(|pins| {
        let object = Object::load(pins, crowding).expect("the object loads");
        let mut pair = Pair::new(object, crowding);
        let mut generator = Generator::new(Chance(seed));
        for number in 0..count {
            if number % 400 == 399 {
                pair.disturb(generator.chance());
            }
            let sent = generator.next();
            let became = pair.send(&sent, &format!("seed {seed}, frame {number}"));
            generator.learn(&sent, became);
            if number % TABLES_EVERY == TABLES_EVERY - 1 {
                pair.compare_tables(&format!("seed {seed}, after frame {number}"));
            }
        }
        pair.compare_tables(&format!("seed {seed}, at the end"));
        let choices = pair.choices();
        println!("clients with affinity, turns, backends with loads: {choices:?}");
        assert!(choices.iter().all(|&n| n >= 3), "{choices:?}");
        pair.outcome()
    })
}

#[test]
fn the_kernel_does_to_every_frame_what_the_host_does() {
    if let Some(reason) = skip_reason() {
        println!("skipped: {reason}");
        return;
    }
    let seed = from_environment("PROXY_DIFFERENTIAL_SEED", SEED);
    let count = from_environment("PROXY_DIFFERENTIAL_FRAMES", FRAMES);
    let outcome = compare(seed, count, Crowding::Roomy);
    println!("seed {seed}: 0 differences; {outcome}");

    // What the frames were made for was met.
    for counter in [
        Counter::FlowCreated,
        Counter::FlowConfirmed,
        Counter::RejectedNoEndpoint,
        Counter::DropNoLocalEndpoint,
        Counter::DropSourceRange,
        Counter::DropNoSourcePort,
        Counter::DropNoRoute,
        Counter::DropTtl,
        Counter::DropStaleBackend,
        Counter::DropAnswer,
        Counter::TooBigAnswered,
        Counter::TtlAnswered,
    ] {
        assert!(outcome.counted(counter) >= 5, "{counter:?}: {outcome}");
    }
    let translated = outcome.counted(Counter::IcmpTranslated);
    assert!(translated >= 100, "{outcome}");
    assert!(outcome.later_fragments >= 20, "{outcome}");
    assert!(outcome.is_varied(count), "{outcome}");
}

#[test]
fn full_flow_tables_refuse_alike() {
    if let Some(reason) = skip_reason() {
        println!("skipped: {reason}");
        return;
    }
    let outcome = compare(SEED + 1, 10_000, Crowding::Crowded);
    println!("seed {}: 0 differences; {outcome}", SEED + 1);
    for counter in [Counter::DropFlowTableFull, Counter::FlowUnconfirmed] {
        assert!(outcome.counted(counter) >= 20, "{counter:?}: {outcome}");
    }
}
