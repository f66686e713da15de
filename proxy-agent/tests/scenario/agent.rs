//! The parts of the agent that bring objects into maps, without its loop.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    time::{Duration, Instant},
};

use proxy_agent::{
    commands::plan,
    delta::refusal::Capacities,
    devices::addresses::node_addrs,
    maps::{Maps, lint::lint},
    model::Event,
    plan::ServiceName,
    planner::Planner,
    programmer::Programmer,
    view,
};

use super::{
    dump::dump,
    story::{Scenario, Stage},
};

/// Longer than what is out of use waits.
const LONG: Duration = Duration::from_secs(1);

/// An agent that follows a scenario.
pub struct Agent<'a, M> {
    scenario: &'a Scenario,
    planner: Planner,
    programmer: Programmer<M>,
    now: Instant,
}

impl<'a, M: Maps> Agent<'a, M> {
    /// Takes over maps, with what it finds in them.
    pub fn open(scenario: &'a Scenario, maps: M) -> Self {
        let programmer = Programmer::open(maps, Capacities::default()).unwrap();
        Self::new(scenario, programmer)
    }

    fn new(scenario: &'a Scenario, programmer: Programmer<M>) -> Self {
        let mut agent = Self {
            scenario,
            planner: Planner::new(scenario.rules.planner.clone()),
            programmer,
            now: Instant::now(),
        };
        let name = &scenario.rules.planner.node_name;
        agent.programmer.set_node_name(name, agent.now);
        agent
    }

    /// The same maps follow another scenario, whose first list is complete.
    pub fn go_on<'b>(self, scenario: &'b Scenario, objects: &[Event]) -> Agent<'b, M> {
        let mut agent = Agent::new(scenario, self.programmer);
        agent.begin(objects);
        agent
    }

    /// The agent ends, and another one takes its maps over.
    pub fn restart(self, objects: &[Event]) -> Self {
        let mut agent = Self::open(self.scenario, self.programmer.into_maps());
        agent.begin(objects);
        agent
    }

    /// The first full list.
    pub fn begin(&mut self, objects: &[Event]) {
        for object in objects.iter().chain([&Event::Synced]) {
            self.planner.apply(object.clone());
        }
        self.find_addresses();
        self.program();
        let wanted: BTreeSet<ServiceName> = self.planner.plan_all().into_keys().collect();
        self.programmer.retain(&wanted, self.now);
    }

    /// An object comes, changes or goes.
    pub fn hear(&mut self, event: &Event) {
        self.planner.apply(event.clone());
        if matches!(event, Event::Node(_)) {
            self.find_addresses();
        }
    }

    fn find_addresses(&mut self) {
        let Scenario {
            rules,
            node_address,
            ..
        } = self.scenario;
        let (addresses, primary) = plan::addresses(node_address, self.planner.node());
        let addrs = node_addrs(&addresses, &rules.node_port_addresses, &primary);
        self.planner.set_node_addresses(addresses);
        self.programmer.set_node_addrs(addrs, self.now);
    }

    /// Brings what changed into the maps, as far as that works.
    pub fn program(&mut self) {
        let changes = self.planner.take_changes();
        let outcome = self.programmer.sync(changes, self.now);
        let name = self.scenario.name();
        assert!(outcome.refused.is_empty(), "{name}: {:?}", outcome.refused);
    }

    /// Time passes until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.programmer.is_settled() {
                return;
            }
            let due = self.programmer.deadline();
            self.now = due.map_or(self.now + LONG, |due| due.max(self.now));
            self.programmer.tick(self.now);
        }
        panic!("{}: it never ends", self.scenario.name());
    }

    pub fn programmer_mut(&mut self) -> &mut Programmer<M> {
        &mut self.programmer
    }

    /// Checks that what is read back is what `plan` says of the objects, and of what is wrong with them in relation to
    /// each other. Returns what the maps hold, what load balancers are told, and what is wrong.
    pub fn check(&self, stage: &Stage) -> String {
        let name = format!("{} {}", self.scenario.name(), stage.title);
        let snapshot = self.programmer.snapshot().unwrap();
        assert_eq!(lint(&snapshot), [], "{name}");
        let found = view::report(&snapshot);
        assert_eq!(found.node, stage.report.node, "{name}");
        assert_eq!(found.frontends, stage.report.frontends, "{name}");
        for problem in self.planner.problems() {
            assert!(
                stage.report.warnings.contains(&problem),
                "{name}: {problem}"
            );
        }
        let mut text = dump(&snapshot);
        for (name, plan) in self.planner.plan_all() {
            if let Some(check) = plan.health_check {
                let ready = check.ready;
                writeln!(text, "{name} health check {}: ready {ready:?}", check.port).unwrap();
            }
        }
        for warning in &stage.report.warnings {
            writeln!(text, "warning: {warning}").unwrap();
        }
        text
    }
}
