//! Every scenario, one after the other in one set of maps, by one agent: what `services` reads back is what `plan` says.

use std::{fs, time::Instant};

use proxy_agent::dataplane::maps::KernelMaps;

use crate::{agent::Agent, fixture::Fixture, story};

#[test]
fn every_scenario_stands_in_the_kernel_as_planned() {
    let fixture = match Fixture::new("scenarios") {
        Ok(fixture) => fixture,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let _programs = fixture.load();
    let scenarios = story::all();
    let start = Instant::now();
    let mut stages = 0;
    let maps = KernelMaps::open(fixture.pins()).unwrap();
    let mut agent = Agent::open(&scenarios[0], maps);
    for scenario in &scenarios {
        agent = agent.go_on(scenario, &scenario.stages[0].objects);
        let mut dumps = Vec::new();
        for (number, stage) in scenario.stages.iter().enumerate() {
            if number > 0 {
                stage.changes.iter().for_each(|event| agent.hear(event));
                agent.program();
            }
            agent.settle();
            dumps.push(agent.check(stage));
            stages += 1;
        }
        let expected = fs::read_to_string(scenario.expected()).unwrap();
        assert_eq!(scenario.text(&dumps), expected, "{}", scenario.name());
        // An agent that comes later finds nothing to do.
        if scenario.stages.len() > 1 {
            agent = agent.restart(&scenario.stages.last().unwrap().objects);
            assert_eq!(
                agent.programmer_mut().statistics().total(),
                0,
                "{}",
                scenario.name()
            );
        }
    }
    println!(
        "{} scenarios, {stages} stages in {:.1?}",
        scenarios.len(),
        start.elapsed()
    );
}
