//! Manifests in, maps out: `tests/scenarios/NAME.yaml` (see [`story`]) → what stands in the maps, `NAME.maps`; and where a
//! `NAME.json` is, what `plan -o json` says. With `UPDATE_SCENARIOS=1` the expected files are written anew; read the
//! difference before you commit it.
//!
//! However the objects come, whatever fails and whenever the agent is replaced, the maps are the same in the end.

#![cfg(test)]

#[path = "scenario/agent.rs"]
mod agent;
#[path = "delta/chance.rs"]
mod chance;
#[path = "scenario/dump.rs"]
mod dump;
#[path = "scenario/story.rs"]
mod story;

use std::{env, fs, path::Path, sync::LazyLock};

use proxy_agent::{
    maps::{faulty::FaultyMaps, lint::lint, memory::MemoryMaps},
    model::Event,
    report::Report,
};

use self::{agent::Agent, chance::Chance, story::Scenario};

/// What the issue asks for, so that none is lost unnoticed.
const AT_LEAST: usize = 60;

static ALL: LazyLock<Vec<Scenario>> = LazyLock::new(story::all);

/// What the maps hold after each stage, from an agent that is told all that happens as it happens.
fn dumps(scenario: &Scenario) -> Vec<String> {
    let mut agent = Agent::open(scenario, MemoryMaps::default());
    let mut dumps = Vec::new();
    for stage in &scenario.stages {
        if dumps.is_empty() {
            agent.begin(&stage.changes);
        } else {
            stage.changes.iter().for_each(|event| agent.hear(event));
            agent.program();
        }
        agent.settle();
        dumps.push(agent.check(stage));
    }
    dumps
}

/// The same events in another order.
fn shuffled<'a>(events: &'a [Event], chance: &mut Chance) -> Vec<&'a Event> {
    let mut events: Vec<_> = events.iter().collect();
    for last in (1..events.len()).rev() {
        events.swap(last, chance.below(last as u64 + 1) as usize);
    }
    events
}

/// Compares with a file, or writes it; says whether it is as expected.
fn is_as_expected(file: &Path, actual: &str) -> bool {
    if env::var_os("UPDATE_SCENARIOS").is_some() {
        fs::write(file, actual).unwrap();
        return true;
    }
    let same = fs::read_to_string(file).unwrap_or_default() == actual;
    if !same {
        eprintln!("{}: got\n{actual}", file.display());
    }
    same
}

#[test]
fn scenarios_give_what_is_expected() {
    let mut differing = Vec::new();
    for scenario in &*ALL {
        let text = scenario.text(&dumps(scenario));
        let mut same = is_as_expected(&scenario.expected(), &text);
        let json = scenario.path.with_extension("json");
        if json.exists() {
            let report = &scenario.stages[0].report;
            same &= is_as_expected(&json, &(report.to_json().unwrap() + "\n"));
        }
        differing.extend((!same).then(|| scenario.name()));
    }
    assert!(differing.is_empty(), "differ: {differing:?}");
    assert!(ALL.len() >= AT_LEAST, "only {} scenarios", ALL.len());
}

#[test]
fn scenarios_end_the_same_in_whatever_order_objects_come() {
    for scenario in &*ALL {
        let expected = dumps(scenario);
        for seed in 0..8 {
            let mut chance = Chance(seed);
            let mut agent = Agent::open(scenario, MemoryMaps::default());
            agent.begin(&[]);
            for (stage, expected) in scenario.stages.iter().zip(&expected) {
                for event in shuffled(&stage.changes, &mut chance) {
                    agent.hear(event);
                    // Several changes may be taken together.
                    if chance.below(3) > 0 {
                        agent.program();
                        let mut violations = lint(&agent.programmer_mut().snapshot().unwrap());
                        violations.retain(|violation| !violation.is_transient());
                        assert_eq!(violations, [], "{} seed {seed}", scenario.name());
                    }
                }
                agent.program();
                if chance.below(2) > 0 {
                    agent = agent.restart(&stage.objects);
                }
                agent.settle();
                assert_eq!(
                    agent.check(stage),
                    *expected,
                    "{} seed {seed}",
                    scenario.name()
                );
            }
        }
    }
}

#[test]
fn scenarios_are_left_alone_by_an_agent_that_comes_later() {
    for scenario in &*ALL {
        let mut agent = Agent::open(scenario, MemoryMaps::default());
        let last = scenario.stages.last().unwrap();
        agent.begin(&last.objects);
        agent.settle();
        let before = agent.programmer_mut().snapshot().unwrap();
        let mut agent = agent.restart(&last.objects);
        let programmer = agent.programmer_mut();
        assert_eq!(programmer.statistics().total(), 0, "{}", scenario.name());
        assert!(
            programmer.snapshot().unwrap() == before,
            "{}",
            scenario.name()
        );
    }
}

#[test]
fn scenarios_can_follow_each_other_in_the_same_maps() {
    let (first, rest) = ALL.split_first().unwrap();
    let mut agent = Agent::open(first, MemoryMaps::default());
    agent.begin(&first.stages[0].objects);
    for scenario in rest.iter().rev() {
        let stage = scenario.stages.last().unwrap();
        agent = agent.go_on(scenario, &stage.objects);
        agent.settle();
        assert_eq!(Some(&agent.check(stage)), dumps(scenario).last());
    }
}

#[test]
fn scenarios_end_the_same_whatever_fails() {
    let mut failures = 0;
    for scenario in &*ALL {
        let expected = dumps(scenario);
        for (seed, probability) in [(1, 0.05), (2, 0.2), (3, 0.2), (4, 0.5), (5, 0.8)] {
            let maps = FaultyMaps::new(MemoryMaps::default(), 0.0, seed);
            let mut agent = Agent::open(scenario, maps);
            agent
                .programmer_mut()
                .maps_mut()
                .set_probability(probability);
            let mut chance = Chance(seed);
            agent.begin(&[]);
            for (stage, expected) in scenario.stages.iter().zip(&expected) {
                for event in shuffled(&stage.changes, &mut chance) {
                    agent.hear(event);
                    if chance.below(2) > 0 {
                        agent.program();
                    }
                }
                agent.program();
                agent.settle();
                assert_eq!(
                    agent.check(stage),
                    *expected,
                    "{} seed {seed}",
                    scenario.name()
                );
            }
            failures += agent.programmer_mut().statistics().failures;
        }
    }
    println!("{failures} writes failed");
    assert!(failures > 1_000);
}

#[test]
fn reports_keep_their_contract() {
    for stage in ALL.iter().flat_map(|scenario| &scenario.stages) {
        let report = &stage.report;
        let keys: Vec<_> = report
            .frontends
            .iter()
            .map(|f| (f.address, f.port, f.protocol, f.scope))
            .collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "{report}");
        for frontend in &report.frontends {
            assert_eq!(frontend.backends.is_empty(), frontend.empty.is_some());
            assert!(!frontend.address.is_loopback());
        }
        let read: Report = serde_json::from_str(&report.to_json().unwrap()).unwrap();
        assert_eq!(read, *report);
        assert!(report.to_string().starts_with("node "));
    }
}
