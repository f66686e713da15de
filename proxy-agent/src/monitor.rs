//! Watches the agent's loop at work, and keeps what the servers tell others: health, health checks, metrics.
//!
//! The loop calls it at its turns; each call stores some numbers. Nothing here waits for a server.

mod no_local;
mod triggers;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use self::{no_local::NoLocal, triggers::Triggers};
use crate::{
    dataplane::{abort::Protocol, audit::Findings, open::MapCapacities, sys::map::CounterMap},
    health::{Health, checks::Checks},
    maps::Maps,
    metrics::Metrics,
    model::{Event, Node, Problem},
    plan::{HealthCheck, ServiceName, ServicePlan},
    planner::Trigger,
    programmer::Programmer,
    serve::{self, ServeConfig, ServeError, Shown},
    source::pulse::Pulse,
};

/// The loop's side of what the servers show.
#[derive(Debug)]
pub struct Monitor {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    checks: watch::Sender<Checks>,
    problems: mpsc::UnboundedReceiver<Problem>,
    triggers: Triggers,
    no_local: NoLocal,
    /// Health checks of Services that are not in the maps as planned.
    news: BTreeMap<ServiceName, News>,
    /// Whether the programmer was given plans: before the first full list, the maps are as an earlier run left them.
    planned: bool,
}

/// The health check of a Service that is not in the maps as planned.
#[derive(Debug)]
struct News {
    planned: Option<HealthCheck>,
    /// What was last in the maps.
    written: Option<HealthCheck>,
}

impl News {
    /// What is true of both: load balancers must not hear of endpoints that the maps do not lead to, or that are gone.
    fn meanwhile(&self) -> Option<HealthCheck> {
        let mut check = self.planned.clone()?;
        for (family, ready) in &mut check.ready {
            let written = self
                .written
                .as_ref()
                .and_then(|check| check.ready.get(family));
            *ready = (*ready).min(written.copied().unwrap_or_default());
        }
        Some(check)
    }
}

/// Why there is nothing to show, or nobody to show it.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// Metrics contradict each other.
    #[error("the metrics could not be made: this is a bug, please report it")]
    Metrics(#[from] prometheus::Error),
    /// The servers did not start.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl Monitor {
    /// Starts the servers, on a thread of their own.
    pub fn start(config: &ServeConfig) -> Result<Self, MonitorError> {
        let now = Timestamp::now();
        let health = Arc::new(Health::new(Instant::now()));
        let metrics = Arc::new(Metrics::new()?);
        metrics.kube_proxy.queued(now);
        let checks = watch::Sender::new(Checks::default());
        let (tell, problems) = mpsc::unbounded_channel();
        serve::start(
            config,
            Shown {
                health: Arc::clone(&health),
                metrics: Arc::clone(&metrics),
                checks: checks.subscribe(),
                problems: tell,
            },
        )?;
        Ok(Self {
            health,
            metrics,
            checks,
            problems,
            triggers: Triggers::new(now),
            no_local: NoLocal::default(),
            news: BTreeMap::new(),
            planned: false,
        })
    }

    /// The counters of the datapath, to be read at each scrape.
    pub fn watch_datapath(&self, counters: CounterMap) {
        self.metrics.datapath.watch(counters);
    }

    /// How much the pinned maps have room for.
    pub fn set_capacities(&self, capacities: &MapCapacities) {
        self.metrics.own.set_capacities(capacities.iter());
    }

    /// When the source was heard, to be read at each scrape.
    pub fn watch_source(&self, pulse: Arc<Pulse>) {
        self.health.watch_source(Arc::clone(&pulse));
        self.metrics.source.watch(pulse);
    }

    /// Counts sockets that were aborted, by protocol; from whatever thread.
    pub fn aborted_sockets(&self) -> impl Fn(Protocol, usize) + Send + use<> {
        let metrics = Arc::clone(&self.metrics);
        move |protocol, count| metrics.own.count_aborted_sockets(protocol, count)
    }

    /// What is wrong with objects as the servers see it: a health check's port that can't be served.
    pub async fn problem(&mut self) -> Problem {
        match self.problems.recv().await {
            Some(problem) => problem,
            // The servers are gone; nothing more will come.
            None => std::future::pending().await,
        }
    }

    /// The loop came round.
    pub fn alive(&self) {
        self.health.alive(Instant::now());
    }

    /// The programs are attached, and what an earlier run programmed serves.
    pub fn serves_earlier(&self) {
        self.health.serves_earlier();
    }

    /// Objects changed.
    pub fn heard(&self, events: &[Event]) {
        let count = |is: fn(&Event) -> bool| events.iter().filter(|event| is(event)).count();
        let slices = count(|event| matches!(event, Event::Slice(_)));
        let services = count(|event| matches!(event, Event::Service(_)));
        let metrics = &self.metrics.kube_proxy;
        metrics.endpoint_changes.inc_by(slices as u64);
        metrics.service_changes.inc_by(services as u64);
        metrics.endpoint_changes_pending.add(signed(slices));
        metrics.service_changes_pending.add(signed(services));
        self.metrics.own.source_updated(Timestamp::now());
    }

    /// Something is wrong with objects.
    pub fn count_problems(&self, problems: &[Problem]) {
        for problem in problems {
            self.metrics.own.count_problem(problem);
        }
    }

    /// What this node's object says. While there is none, the last word stands.
    pub fn set_node(&self, node: Option<&Node>) {
        self.metrics.own.node_found.set(node.is_some().into());
        if let Some(node) = node {
            self.health.set_leaving(node.leaving);
        }
    }

    /// On which addresses load balancers ask; an unspecified one stands for all of its family.
    pub fn set_check_addresses(&self, addresses: BTreeSet<IpAddr>) {
        self.checks
            .send_if_modified(|checks| checks.set_addresses(addresses));
    }

    /// Devices, by `DeviceClass` as a number.
    pub fn set_devices(&self, classes: impl Iterator<Item = u8>) {
        self.metrics.own.set_devices(classes);
    }

    /// How often attaching to devices failed.
    pub fn set_device_failures(&self, failures: usize) {
        self.metrics.own.device_failures.set(signed(failures));
    }

    /// What is attached and pinned was compared with what should be.
    pub fn audited(&self, findings: &Findings) {
        self.metrics.attachments.set(findings);
    }

    /// Plans go to the programmer now.
    pub fn queued(&mut self, changes: &[(ServiceName, ServicePlan)], triggers: Vec<Trigger>) {
        self.planned = true;
        self.metrics.kube_proxy.queued(Timestamp::now());
        self.triggers.add(triggers);
        for (name, plan) in changes {
            self.no_local.set(name, plan);
        }
        for (policy, family, count) in self.no_local.totals() {
            self.metrics
                .kube_proxy
                .set_no_local_endpoints(policy, family, count);
        }
        let checks = self.checks.borrow();
        for (name, plan) in changes {
            let written = checks.get(name);
            if written.is_some() || plan.health_check.is_some() {
                let news = self.news.entry(name.clone()).or_insert_with(|| News {
                    planned: None,
                    written: written.cloned(),
                });
                news.planned.clone_from(&plan.health_check);
            }
        }
    }

    /// The programmer has done with them what it could.
    pub fn programmed(&mut self, full: bool, took: Duration) {
        self.metrics.kube_proxy.observe_sync(full, took);
        self.checks.send_if_modified(|checks| {
            let mut changed = false;
            for (name, news) in &self.news {
                changed |= checks.set(name.clone(), news.meanwhile());
            }
            changed
        });
    }

    /// Tells load balancers of Services that are in the maps as planned now.
    fn tell_load_balancers<M: Maps>(&mut self, programmer: &Programmer<M>) {
        if self.news.is_empty() {
            return;
        }
        let pending: BTreeSet<&ServiceName> = programmer.pending().collect();
        let done: Vec<_> = self
            .news
            .extract_if(.., |name, _| !pending.contains(name))
            .collect();
        self.checks.send_if_modified(|checks| {
            let mut changed = false;
            for (name, news) in done {
                changed |= checks.set(name, news.planned);
            }
            changed
        });
    }

    /// Health checks of Services that are not planned any more have no ready endpoints: nobody knows what became of those that
    /// the maps have. Returns the number of Services.
    fn leave_alone<'a>(&self, services: impl IntoIterator<Item = &'a ServiceName>) -> usize {
        let mut count = 0;
        self.checks.send_if_modified(|checks| {
            let mut changed = false;
            for service in services {
                count += 1;
                if let Some(mut check) = checks.get(service).cloned() {
                    check.ready.values_mut().for_each(|ready| *ready = 0);
                    changed |= checks.set(service.clone(), Some(check));
                }
            }
            changed
        });
        count
    }

    /// The programmer was called: how things stand now.
    ///
    /// `too_big`: Services that stay as they were because they have become too big to be planned.
    pub fn settle<'a, M: Maps>(
        &mut self,
        programmer: &Programmer<M>,
        too_big: impl IntoIterator<Item = &'a ServiceName>,
    ) {
        let too_big = self.leave_alone(too_big);
        let own = &self.metrics.own;
        let usage = programmer.usage();
        own.set_statistics(programmer.statistics());
        own.set_entries([
            ("FRONTENDS", usage.frontends),
            ("TARGETS", usage.targets),
            ("SLOTS", usage.slots),
            ("BACKENDS", usage.backends),
            ("SOURCE_RANGES", usage.source_ranges),
            ("META_NAMES", usage.names),
        ]);
        own.set_unplaced(programmer.unplaced());
        own.services.set(signed(usage.services));
        own.services_pending
            .set(signed(programmer.pending().count() + too_big));
        own.set_refused(programmer.refused().values(), too_big);
        if programmer.is_behind() {
            self.health.behind(Instant::now());
        } else if let Some(since) = programmer.waits_for_tables_since() {
            self.health.behind_since(since);
        } else if self.planned {
            let now = Timestamp::now();
            let refused = programmer.refused().len() + too_big;
            self.health.caught_up(now, refused);
            if refused == 0 {
                self.metrics.kube_proxy.synced(now);
            }
        } else {
            self.health.keeps_up();
        }
        self.tell_load_balancers(programmer);
        if !self.triggers.is_empty() {
            let pending: BTreeSet<&ServiceName> = programmer.pending().collect();
            let done = self
                .triggers
                .take_done(|service| !pending.contains(service));
            let now = Timestamp::now().as_nanosecond();
            for (family, at) in done {
                // Clocks of two machines: what is not over yet took no time.
                let took = u64::try_from(now - at).unwrap_or_default();
                self.metrics
                    .kube_proxy
                    .observe_network_programming(family, Duration::from_nanos(took));
            }
        }
    }

    /// The maps were compared with the plans: so many operations were missing.
    pub fn reviewed(&self, operations: u64) {
        self.metrics.own.map_corrections.inc_by(operations);
    }

    /// Flow tables, as the last walk found them, and what was removed from them.
    pub fn collected(&self, elements: [(&'static str, u64); 2], removed: usize) {
        let own = &self.metrics.own;
        own.set_entries(elements.map(|(map, count)| (map, count.try_into().unwrap_or(usize::MAX))));
        own.count_collected(removed);
    }
}

/// However the loop ends, and while the rest of the agent is taken down: it no longer works.
impl Drop for Monitor {
    fn drop(&mut self) {
        self.health.end();
    }
}

fn signed(count: usize) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
