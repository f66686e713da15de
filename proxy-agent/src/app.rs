//! The agent at work: objects and devices in, maps and programs out. One thread, one loop; all decisions are made by
//! the pure modules that it calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep_until,
};

use crate::{
    config::NodePortAddresses,
    dataplane::{
        abort::{Aborter, Protocol},
        attach::{Attachments, Port, TcMode},
        audit::{Kind, PinAudit, Teller},
        clock::Clock,
        foreign::Inspector,
        gc::Collector,
        load::{Features, Programs},
        log::DatapathLog,
        maps::KernelMaps,
        open::{self, MapCapacities},
        pin::{PinFolder, PinLock},
        probe,
        remove::{self, Removed},
        settings::{self, SettingsConfig},
        xdp::{Uplinks, XdpMode},
    },
    delta::refusal::Capacities,
    devices::{
        addresses::{node_addresses, node_addrs},
        classify::{DeviceConfig, DeviceProblem, classify},
        netlink::Watcher,
        observed::Observed,
    },
    journal::Journal,
    model::{Event, Problem},
    monitor::Monitor,
    netfilter::{Keeper, Rules},
    pace::{self, Pace},
    plan::ServiceName,
    planner::{Planner, PlannerConfig},
    programmer::{Outcome, Programmer},
    ready,
    serve::ServeConfig,
    source::{Feed, Source, Update},
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

/// What the agent must be told, checked.
#[derive(Clone, Debug)]
pub struct AppConfig {
    /// Where objects come from.
    pub source: Source,
    /// For the planner.
    pub planner: PlannerConfig,
    /// Where node ports answer.
    pub node_port_addresses: NodePortAddresses,
    /// Where everything is pinned.
    pub bpffs: PathBuf,
    /// Where health and metrics are served.
    pub serve: ServeConfig,
    /// Cgroup of the socket hooks; the root, if not given.
    pub cgroup: Option<PathBuf>,
    /// Which devices are uplinks.
    pub devices: DeviceConfig,
    /// For all programs.
    pub settings: SettingsConfig,
    /// Of what the programs tell.
    pub datapath_log: DatapathLog,
    /// How programs go on devices; `None`: as the kernel can.
    pub tc: Option<TcMode>,
    /// Rules for translated packets, those that are not wanted, too.
    pub netfilter: [Rules; 2],
    /// Where XDP programs are used.
    pub xdp: XdpMode,
    /// Whether UDP sockets that are connected to a backend that is gone are aborted.
    pub abort_udp_sockets: bool,
    /// Created when the first full list is programmed.
    pub ready_file: Option<PathBuf>,
}

impl AppConfig {
    /// Whose sockets are aborted when their backend is gone.
    fn protocols_to_abort(&self) -> Vec<Protocol> {
        let tcp = self.settings.end_tcp.then_some(Protocol::Tcp);
        let udp = self.abort_udp_sockets.then_some(Protocol::Udp);
        tcp.into_iter().chain(udp).collect()
    }
}

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
    ready: bool,
    inspector: Inspector,
    _netfilter: Keeper,
    cgroup: File,
    pins: PinAudit,
    teller: Teller,
}

impl App {
    /// Takes over what an earlier run left, loads and attaches the programs. Nothing that serves is removed here.
    ///
    /// What can be refused is asked for first. Where no earlier run left anything, a start that fails leaves nothing either.
    pub async fn start(config: AppConfig) -> Result<Self> {
        let cgroup = probe::open_cgroup(config.cgroup.as_deref())?;
        let mode = tc_mode(config.tc)?;
        let pins = PinFolder::new(&config.bpffs);
        let lock = Arc::new(pins.lock()?);
        if let Some(path) = &config.ready_file
            && let Err(error) = ready::clear(path)
        {
            tracing::error!(%error, path = %path.display(), "--ready-file can't be removed, and does not tell when all is programmed");
        }
        let is_first = pins.versions()?.is_empty();
        let started = Self::start_locked(config, cgroup, mode, Arc::clone(&lock)).await;
        if started.is_err()
            && is_first
            && let Err(error) = remove::all(&pins)
        {
            tracing::error!(
                error = chain(&error),
                "what was made before the start failed can't be removed; run cleanup"
            );
        }
        drop(lock);
        started
    }

    /// Starts where nobody else works.
    async fn start_locked(
        config: AppConfig,
        cgroup: File,
        mode: TcMode,
        lock: Arc<PinLock>,
    ) -> Result<Self> {
        let started = Instant::now();
        let source = config.source.clone().follow()?;
        let monitor = Monitor::start(&config.serve)?;
        let pins = PinFolder::new(&config.bpffs);
        let features = Features {
            set_retval: probe::has_set_retval()
                .context("could not probe the kernel for bpf_set_retval")?,
        };
        pins.create()?;
        let programs = Programs::load(&pins, features, config.datapath_log)?;
        let pin_audit = PinAudit::new(pins.clone(), lock)?;
        let clock = Clock::new(&programs)?;
        let inspector = Inspector::start(&programs)?;
        settings::write(&pins, &config.settings, clock.hz())?;
        let room = MapCapacities::read(&pins)?;
        monitor.set_capacities(&room);
        let capacities = Capacities::new(|map| room.of(map));
        let programmer = Programmer::open(KernelMaps::open(&pins)?, capacities)?;
        let collector = Collector::open(&pins, clock)?;
        monitor.watch_datapath(open::counters(&pins)?);
        let protocols = config.protocols_to_abort();
        let aborter = (!protocols.is_empty())
            .then(|| Aborter::start(&pins, protocols, monitor.aborted_sockets()))
            .transpose()?;
        let (watcher, observed) = Watcher::start()
            .await
            .context("could not read this node's devices")?;
        let mut app = Self {
            monitor,
            journal: Journal::default(),
            planner: Planner::new(config.planner.clone()),
            programmer,
            table_maker: TableMaker::start().context("could not start a thread")?,
            pace: Pace::default(),
            uplinks: Uplinks::new(pins.clone(), config.xdp),
            attachments: Attachments::new(pins, programs, mode),
            collector,
            aborter,
            watcher,
            observed,
            ports: BTreeMap::new(),
            device_problems: Vec::new(),
            source,
            flood: Flood::new(started),
            ready: false,
            inspector,
            _netfilter: Keeper::start(config.netfilter.clone())?,
            config,
            cgroup,
            pins: pin_audit,
            teller: Teller::default(),
        };
        app.monitor.watch_source(Arc::clone(&app.source.pulse));
        let outcome = app
            .programmer
            .set_node_name(&app.config.planner.node_name, Instant::now());
        app.settle(outcome);
        app.take_devices();
        // Without the socket hooks there is no point in going on.
        let sockets = app.attachments.reconcile_sockets(&app.cgroup);
        if let Some(failure) = sockets.failures.into_iter().next() {
            return Err(anyhow::Error::from_boxed(failure.error));
        }
        let frontends = app.programmer.usage().frontends;
        if frontends > 0 || remove::another_version_serves(&PinFolder::new(&app.config.bpffs)) {
            app.monitor.serves_earlier();
        }
        tracing::info!(
            node = app.config.planner.node_name,
            ?features,
            ?mode,
            frontends,
            elapsed = ?started.elapsed(),
            "programs are attached"
        );
        Ok(app)
    }

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
        self.monitor.settle(&self.programmer);
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

    /// Makes attachments, maps and plans what devices and addresses are now.
    fn take_devices(&mut self) {
        let classes = classify(&self.observed, &self.config.devices);
        for problem in &classes.problems {
            if !self.device_problems.contains(problem) {
                tracing::warn!("{problem}");
            }
        }
        self.device_problems = classes.problems;
        // A device is known to the programs before they are on it.
        self.program_devices(&classes.ports);
        let served = classes.ports.values().map(|port| port.device.class);
        self.monitor.set_devices(served);
        self.inspector.look_at(&classes.ports);
        self.ports = classes.ports;
        self.audit();
        self.take_addresses();
    }

    /// Makes attachments and pins what they should be, whoever changed them. What a driver can do for XDP may change without an
    /// event, too.
    fn audit(&mut self) {
        let mut findings = self.pins.reconcile();
        let devices = self.attachments.reconcile(&self.ports);
        self.monitor.set_device_failures(devices.failures.len());
        findings.extend(devices);
        let programs = self.attachments.programs_mut();
        findings.extend(self.uplinks.reconcile(programs, &self.ports));
        // A cgroup that was given by name may have been made anew under that name.
        if let Some(path) = &self.config.cgroup {
            match probe::open_cgroup(Some(path)) {
                Ok(cgroup) => self.cgroup = cgroup,
                Err(error) => findings.failed(Kind::Cgroup, path.display().to_string(), error),
            }
        }
        findings.extend(self.attachments.reconcile_sockets(&self.cgroup));
        self.monitor.audited(&findings);
        self.teller.tell(&findings, Instant::now());
        let ports = std::mem::take(&mut self.ports);
        self.program_devices(&ports);
        self.ports = ports;
    }

    fn program_devices(&mut self, ports: &BTreeMap<u32, Port>) {
        let entry = |(&ifindex, port): (&u32, &Port)| {
            let mut device = port.device;
            device.flags |= self.uplinks.flags(ifindex, port);
            (ifindex, device)
        };
        let entries = ports.iter().map(entry).collect();
        let outcome = self.programmer.set_devices(entries, Instant::now());
        self.settle(outcome);
    }

    /// Makes maps and plans what this node's addresses are now. Before the first full list the Node object, which
    /// `--nodeport-addresses=primary` goes by, may be missing: what an earlier run programmed stays.
    fn take_addresses(&mut self) {
        let addresses = node_addresses(&self.observed);
        if self.planner.is_synced() {
            let primary: Vec<_> = self
                .planner
                .node()
                .map(|node| node.primary_addresses().collect())
                .unwrap_or_default();
            let flags = node_addrs(&addresses, &self.config.node_port_addresses, &primary);
            let outcome = self.programmer.set_node_addrs(flags, Instant::now());
            self.settle(outcome);
            let nowhere = self
                .config
                .node_port_addresses
                .nowhere(&addresses, &primary);
            self.journal.holds("--nodeport-addresses", nowhere);
            let listen = self.config.node_port_addresses.listen(&addresses, &primary);
            self.monitor.set_check_addresses(listen);
        }
        let problems = self.planner.set_node_addresses(addresses);
        self.complain(&problems);
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
            self.retire_other_versions();
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
        // Whoever waits for it then finds all the rest said.
        if full
            && let Some(path) = &self.config.ready_file
            && let Err(error) = ready::announce(path)
        {
            tracing::error!(%error, path = %path.display(), "--ready-file can't be created");
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

    /// What a version with other maps left attached has served until now.
    fn retire_other_versions(&self) {
        match remove::other_versions(&PinFolder::new(&self.config.bpffs)) {
            Ok(removed) if removed == Removed::default() => {}
            Ok(removed) => tracing::info!(
                programs = removed.programs,
                maps = removed.maps,
                "took over from another version, whose programs and maps are removed"
            ),
            Err(error) => tracing::error!(
                error = chain(&error),
                "what another version left can't be removed; run cleanup, then start again"
            ),
        }
    }
}

/// How programs go on devices.
fn tc_mode(asked: Option<TcMode>) -> Result<TcMode> {
    match (asked, probe::has_tcx()) {
        (Some(TcMode::Tcx), false) => {
            bail!("this kernel has no tcx (Linux 6.6 has): use --tc auto or --tc clsact")
        }
        (Some(mode), _) => Ok(mode),
        (None, true) => Ok(TcMode::Tcx),
        (None, false) => Ok(TcMode::Clsact),
    }
}

/// Ready when the agent is told to stop.
async fn ended(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
