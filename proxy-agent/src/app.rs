//! The agent at work: objects and devices in, maps and programs out. One thread, one loop; all decisions are made by
//! the pure modules that it calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::PathBuf,
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
        load::{Features, Programs, open_map},
        log::DatapathLog,
        maps::KernelMaps,
        pin::PinFolder,
        probe,
        remove::{self, Removed},
        settings::{self, SettingsConfig},
        sys::map::CounterMap,
        xdp::{Uplinks, XdpMode},
    },
    delta::refusal::Capacities,
    devices::{
        addresses::{node_addresses, node_addrs},
        classify::{DeviceConfig, DeviceProblem, classify},
        netlink::Watcher,
        observed::Observed,
    },
    model::{Event, Problem},
    monitor::Monitor,
    netfilter::{Keeper, Rules},
    plan::ServiceName,
    planner::{Planner, PlannerConfig},
    programmer::{Outcome, Programmer},
    serve::ServeConfig,
    source::{Feed, Source, Update},
    telemetry::chain,
};

/// Elements of the flow tables that are looked at in one step: some milliseconds.
const COLLECT: usize = 20_000;
/// How often what is attached and pinned is compared with what the kernel has: less than 5 s with what the loop does between.
const AUDIT: Duration = Duration::from_secs(4);

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
    planner: Planner,
    programmer: Programmer<KernelMaps>,
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
    ready: bool,
    inspector: Inspector,
    _netfilter: Keeper,
    cgroup: File,
    pins: PinAudit,
    teller: Teller,
}

impl App {
    /// Takes over what an earlier run left, loads and attaches the programs. Nothing that serves is removed here.
    pub async fn start(config: AppConfig) -> Result<Self> {
        let started = Instant::now();
        let monitor = Monitor::start(&config.serve)?;
        let pins = PinFolder::new(&config.bpffs);
        pins.create()?;
        let lock = pins.lock()?;
        let cgroup = probe::open_cgroup(config.cgroup.as_deref())?;
        let features = Features {
            set_retval: probe::has_set_retval()
                .context("could not probe the kernel for bpf_set_retval")?,
        };
        let mode = match (config.tc, probe::has_tcx()) {
            (Some(TcMode::Tcx), false) => {
                bail!("this kernel has no tcx (Linux 6.6 has): use --tc auto or --tc clsact")
            }
            (Some(mode), _) => mode,
            (None, true) => TcMode::Tcx,
            (None, false) => TcMode::Clsact,
        };
        let programs = Programs::load(&pins, features, config.datapath_log)?;
        let pin_audit = PinAudit::new(pins.clone(), lock)?;
        let clock = Clock::new(&programs)?;
        let inspector = Inspector::start(&programs)?;
        settings::write(&pins, &config.settings, clock.hz())?;
        let programmer = Programmer::open(KernelMaps::open(&pins)?, Capacities::default())?;
        let collector = Collector::open(&pins, clock)?;
        monitor.watch_datapath(counters(&pins)?);
        let protocols = config.protocols_to_abort();
        let aborter = (!protocols.is_empty())
            .then(|| Aborter::start(&pins, protocols, monitor.aborted_sockets()))
            .transpose()?;
        let (watcher, observed) = Watcher::start()
            .await
            .context("could not read this node's devices")?;
        let mut app = Self {
            monitor,
            planner: Planner::new(config.planner.clone()),
            programmer,
            uplinks: Uplinks::new(pins.clone(), config.xdp),
            attachments: Attachments::new(pins, programs, mode),
            collector,
            aborter,
            watcher,
            observed,
            ports: BTreeMap::new(),
            device_problems: Vec::new(),
            source: config.source.clone().follow()?,
            ready: false,
            inspector,
            _netfilter: Keeper::start(config.netfilter.clone())?,
            config,
            cgroup,
            pins: pin_audit,
            teller: Teller::default(),
        };
        let outcome = app
            .programmer
            .set_node_name(&app.config.planner.node_name, Instant::now());
        app.settle(outcome);
        app.take_devices();
        // Without them there is no point in going on.
        let sockets = app.attachments.reconcile_sockets(&app.cgroup);
        if let Some(failure) = sockets.failures.into_iter().next() {
            return Err(failure.error.into());
        }
        tracing::info!(
            node = app.config.planner.node_name,
            ?features,
            ?mode,
            frontends = app.programmer.usage().frontends,
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
        let mut audit_at = Instant::now() + AUDIT;
        loop {
            self.monitor.alive();
            let deadline = self.programmer.deadline();
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
                            tracing::error!(error = chain(&error), "devices can't be followed; trying again");
                            continue;
                        }
                    }
                    self.take_devices();
                    self.program();
                }
                problem = self.monitor.problem() => self.complain(&[problem]),
                () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {
                    let outcome = self.programmer.tick(Instant::now());
                    self.settle(outcome);
                }
                () = sleep_until(audit_at.into()) => {
                    self.audit();
                    audit_at = Instant::now() + AUDIT;
                }
                () = sleep_until((collect_at).into()) => {
                    match self.collector.step(COLLECT) {
                        Ok(collected) => {
                            self.monitor.collected(self.collector.elements(), collected.flows());
                            tracing::trace!(?collected, "flows collected");
                        }
                        Err(error) => tracing::error!(error = chain(&error), "flows can't be collected"),
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
        self.monitor.settle(&self.programmer);
        for refused in outcome.refused {
            tracing::error!("{refused}");
        }
        for failed in outcome.failed {
            tracing::error!("{}", chain(&failed));
        }
        if let Some(aborter) = &self.aborter {
            aborter.abort(&outcome.gone);
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
            self.take_addresses();
        }
        self.program();
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
            let listen = self.config.node_port_addresses.listen(&addresses, &primary);
            self.monitor.set_check_addresses(listen);
        }
        let problems = self.planner.set_node_addresses(addresses);
        self.complain(&problems);
    }

    /// Tells what is wrong with objects: the log, and their owners.
    fn complain(&self, problems: &[Problem]) {
        self.monitor.count_problems(problems);
        for problem in problems {
            tracing::warn!(object = %problem.object, "{}", problem.message);
            if let Some(reporter) = &self.source.reporter {
                reporter.report(problem);
            }
        }
    }

    /// Programs what changed. Before the first full list there is nothing to go by: what an earlier run programmed stays.
    fn program(&mut self) {
        if !self.planner.is_synced() {
            return;
        }
        let changes = self.planner.take_changes();
        let triggers = self.planner.take_triggers();
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
        let wanted: Option<BTreeSet<ServiceName>> =
            full.then(|| changes.iter().map(|(name, _)| name.clone()).collect());
        let outcome = self.programmer.sync(changes, started);
        self.settle(outcome);
        if let Some(wanted) = wanted {
            let outcome = self.programmer.retain(&wanted, started);
            self.settle(outcome);
            self.ready = true;
            self.retire_other_versions();
        }
        self.monitor.programmed(full, started.elapsed());
        tracing::info!(
            services,
            operations = self.programmer.statistics().total() - before,
            elapsed = ?started.elapsed(),
            "programmed"
        );
        // Whoever waits for it then finds all the rest said.
        if full
            && let Some(path) = &self.config.ready_file
            && let Err(error) = File::create(path)
        {
            tracing::error!(%error, path = %path.display(), "--ready-file can't be created");
        }
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

/// The counters of the datapath.
fn counters(pins: &PinFolder) -> Result<CounterMap> {
    CounterMap::new(open_map(pins, "COUNTERS")?).context("could not open the map COUNTERS")
}

/// Ready when the agent is told to stop.
async fn ended(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
