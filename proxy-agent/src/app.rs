//! The agent at work: objects and devices in, maps and programs out. One thread, one loop; all decisions are made by
//! the pure modules that it calls.

mod config;
mod devices;
mod start;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep_until,
};

pub use self::config::AppConfig;
use crate::{
    dataplane::{
        abort::Aborter,
        attach::{Attachments, Port},
        audit::{PinAudit, Teller},
        foreign::Inspector,
        gc::Collector,
        maps::KernelMaps,
        xdp::Uplinks,
    },
    devices::{classify::DeviceProblem, netlink::Watcher, observed::Observed},
    journal::Journal,
    model::{Event, Problem},
    monitor::Monitor,
    netfilter::Keeper,
    pace::{self, Pace},
    plan::ServiceName,
    planner::Planner,
    programmer::{Outcome, Programmer},
    source::{Feed, Update},
    table_maker::{FEW_ENTRIES, TableMaker},
    telemetry::{chain, flood::Flood},
};

/// Elements of the flow tables that are looked at in one step: some milliseconds.
const COLLECT: usize = 20_000;
/// How often what is attached and pinned is compared with what the kernel has: less than 5 s with what the loop does between.
const AUDIT: Duration = Duration::from_secs(4);

/// The maps are compared with the plans this long after the start …
const FIRST_REVIEW: Duration = Duration::from_mins(1);
/// … and then as often as this, and when writes that had failed have succeeded.
const REVIEW: Duration = Duration::from_mins(10);
/// When they could not be compared, it is tried again after this.
const REVIEW_AGAIN: Duration = Duration::from_secs(1);

/// The running agent.
pub struct App {
    config: AppConfig,
    monitor: Monitor,
    journal: Journal,
    planner: Planner,
    programmer: Programmer<KernelMaps>,
    table_maker: TableMaker,
    pace: Pace,
    attachments: Attachments,
    uplinks: Uplinks,
    collector: Collector,
    aborter: Option<Aborter>,
    watcher: Watcher,
    observed: Observed,
    /// What was made of them, by ifindex.
    ports: BTreeMap<u32, Port>,
    /// Those that were told already.
    device_problems: Vec<DeviceProblem>,
    source: Feed,
    flood: Flood,
    /// The first full list was planned.
    ready: bool,
    /// It is in the maps, and that was announced.
    finished: bool,
    inspector: Inspector,
    /// Started last: a start that fails leaves no rules.
    netfilter: Option<Keeper>,
    cgroup: File,
    pins: PinAudit,
    teller: Teller,
}

impl App {
    /// Works until a signal ends it. Programs, links and maps stay as they are.
    pub async fn run(mut self) -> Result<()> {
        let mut terminate =
            signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
        let mut interrupt =
            signal(SignalKind::interrupt()).context("could not listen for SIGINT")?;
        let mut collect_at = Instant::now() + self.collector.pause();
        let mut maps_review_at = Instant::now() + FIRST_REVIEW;
        let mut audit_at = Instant::now() + AUDIT;
        loop {
            self.monitor.alive();
            self.finish_start();
            let deadline = self.programmer.deadline();
            let summary = self.journal.deadline();
            let rested = self.pace.next();
            tokio::select! {
                () = ended(&mut terminate, &mut interrupt) => break,
                update = self.source.updates.recv() => match update {
                    Some(update) => self.take_update(update),
                    None => bail!("the source of objects ended; everything programmed stays"),
                },
                observed = self.watcher.changed() => {
                    match observed {
                        Ok(observed) => self.observed = observed,
                        Err(error) => {
                            self.journal.fails("following devices", &error, Instant::now());
                            continue;
                        }
                    }
                    self.journal.works("following devices", Instant::now());
                    self.take_devices();
                    self.program();
                }
                made = self.table_maker.made() => {
                    let outcome = self.programmer.tables_made(&made.ticket, made.tables, Instant::now());
                    self.settle(outcome);
                }
                problem = self.monitor.problem() => self.complain(&[problem]),
                () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {
                    let outcome = self.programmer.tick(Instant::now());
                    self.settle(outcome);
                    if self.programmer.has_recovered() && !self.review_maps() {
                        maps_review_at = maps_review_at.min(Instant::now() + REVIEW_AGAIN);
                    }
                }
                () = sleep_until(maps_review_at.into()) => {
                    let pause = if self.review_maps() { REVIEW } else { REVIEW_AGAIN };
                    maps_review_at = Instant::now() + pause;
                }
                () = sleep_until(summary.unwrap_or_else(Instant::now).into()), if summary.is_some() => {
                    self.journal.tell(self.programmer.statistics().total());
                }
                () = sleep_until(rested.unwrap_or_else(Instant::now).into()), if rested.is_some() => {
                    self.pace.note([], Instant::now());
                    self.program();
                }
                () = sleep_until(audit_at.into()) => {
                    self.audit();
                    audit_at = Instant::now() + AUDIT;
                }
                () = sleep_until((collect_at).into()) => {
                    match self.collector.step(COLLECT) {
                        Ok(collected) => {
                            self.monitor.collected(self.collector.elements(), collected.flows());
                            self.journal.works("collecting flows", Instant::now());
                            tracing::trace!(?collected, "flows collected");
                        }
                        Err(error) => self.journal.fails("collecting flows", &error, Instant::now()),
                    }
                    collect_at = Instant::now() + self.collector.pause();
                }
            }
        }
        tracing::info!("stopped; traffic goes on as programmed");
        Ok(())
    }

    /// Says what did not come of a call to the programmer, and ends what cannot end by itself.
    fn settle(&mut self, outcome: Outcome) {
        self.table_maker.make(self.programmer.take_table_jobs());
        self.monitor
            .settle(&self.programmer, self.planner.left_alone());
        let refused = self.journal.refused(&outcome);
        self.complain(&refused);
        for unplaced in &outcome.unplaced {
            tracing::error!("{unplaced}");
        }
        let behind = self.programmer.is_behind();
        self.journal.wrote(&outcome, behind, Instant::now());
        let Outcome { gone, .. } = outcome;
        if let Some(aborter) = &self.aborter {
            aborter.abort(&gone);
        }
    }

    fn take_update(&mut self, update: Update) {
        self.complain(&update.problems);
        self.monitor.heard(&update.events);
        let mut node = false;
        for event in update.events {
            node |= matches!(event, Event::Node(_) | Event::Synced);
            let problems = self.planner.apply(event);
            self.complain(&problems);
        }
        if node {
            self.monitor.set_node(self.planner.node());
            self.take_node();
            self.take_addresses();
        }
        self.program();
    }

    /// Without a Node object of this name, zones and primary addresses are not known, and endpoints here not local.
    fn take_node(&mut self) {
        let name = &self.config.planner.node_name;
        let missing = self.planner.is_synced() && self.planner.node().is_none();
        let warning = missing.then(|| {
            format!("there is no Node named {name:?}: zones, local endpoints and primary addresses go by it; see --hostname-override")
        });
        self.journal.holds("this node's Node object", warning);
    }

    /// Tells what is wrong with objects: the log, and their owners.
    fn complain(&mut self, problems: &[Problem]) {
        self.monitor.count_problems(problems);
        self.flood.tell(
            problems,
            |problem| tracing::warn!(object = %problem.object, "{}", problem.message),
            |more| {
                tracing::warn!(
                    "and {more} more problems of objects that are not logged one by one"
                );
            },
        );
        if let Some(reporter) = &self.source.reporter {
            for problem in problems {
                reporter.report(problem);
            }
        }
    }

    /// Programs what changed. Before the first full list there is nothing to go by: what an earlier run programmed stays.
    fn program(&mut self) {
        self.program_changes(true);
    }

    /// The same; Services that rest are left for later only if they `may_rest`.
    fn program_changes(&mut self, may_rest: bool) {
        if !self.planner.is_synced() {
            return;
        }
        let (now, pace) = (Instant::now(), &self.pace);
        let changes = self
            .planner
            .take_changes_but(|service| may_rest && pace.rests(service, now));
        let triggers = self.planner.take_triggers();
        let problems = self.planner.take_problems();
        self.complain(&problems);
        if changes.is_empty() && self.ready {
            return;
        }
        let full = !self.ready;
        self.monitor.queued(&changes, triggers);
        let (services, before, started) = (
            changes.len(),
            self.programmer.statistics().total(),
            Instant::now(),
        );
        let wanted: Option<BTreeSet<ServiceName>> = full.then(|| {
            let names = changes.iter().map(|(name, _)| name);
            names.chain(self.planner.left_alone()).cloned().collect()
        });
        let sizes: Vec<_> = changes
            .iter()
            .map(|(service, plan)| (service.clone(), pace::backends(plan)))
            .collect();
        let outcome = self.programmer.sync(changes, started);
        self.settle(outcome);
        if let Some(wanted) = wanted {
            let outcome = self.programmer.retain(&wanted, started);
            self.settle(outcome);
            self.ready = true;
            self.programmer.make_tables_elsewhere(FEW_ENTRIES);
        }
        self.pace.note(sizes, Instant::now());
        let elapsed = started.elapsed();
        self.monitor.programmed(full, elapsed);
        let total = self.programmer.statistics().total();
        let operations = total - before;
        if full {
            tracing::info!(services, operations, ?elapsed, "programmed");
            self.journal.told(total);
        } else {
            tracing::debug!(services, operations, ?elapsed, "programmed");
            self.journal.passed(services, elapsed, Instant::now());
        }
    }

    /// Compares the maps with the plans, and mends what is not as planned. `false`: that can't be done now.
    fn review_maps(&mut self) -> bool {
        if !self.ready {
            return false;
        }
        // What is planned and not written yet is no correction, and neither is reclaiming: these come first.
        if !self.prepare_review() {
            return false;
        }
        self.program_changes(false);
        if !self.prepare_review() {
            return false;
        }
        // Corrections of a Service whose tables are made on another thread are written later, and not counted.
        let (before, started) = (self.programmer.statistics().total(), Instant::now());
        match self
            .programmer
            .review(self.planner.plan_all(), self.planner.left_alone(), started)
        {
            Ok(None) => return false,
            Ok(Some(outcome)) => {
                self.settle(outcome);
                let mended = self.programmer.statistics().total() - before;
                self.monitor.reviewed(mended);
                if mended > 0 {
                    tracing::warn!(
                        operations = mended,
                        "the maps were not as planned: another process or a failure has changed them; they are mended"
                    );
                }
            }
            Err(error) => tracing::error!(
                error = chain(&error),
                "the maps can't be compared with the plans"
            ),
        }
        // After an error, too, the next time is as late as ever: it is not likely to end soon.
        true
    }

    /// Reclaims what is out of use; says whether the maps can be compared now.
    fn prepare_review(&mut self) -> bool {
        let outcome = self.programmer.prepare_review(Instant::now());
        self.settle(outcome);
        self.programmer.can_review()
    }
}

/// Ready when the agent is told to stop.
async fn ended(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
