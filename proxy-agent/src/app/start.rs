//! From a configuration to an agent that serves.

use std::{collections::BTreeMap, fs::File, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, bail};

use super::{App, AppConfig};
use crate::{
    dataplane::{
        abort::Aborter,
        attach::{self, Attachments, TcMode},
        audit::{PinAudit, Teller},
        clock::Clock,
        foreign::Inspector,
        gc::Collector,
        load::{Features, Programs},
        maps::KernelMaps,
        open::{self, MapCapacities},
        pin::{PinFolder, PinLock},
        probe,
        remove::{self, Removed},
        settings,
        xdp::Uplinks,
    },
    delta::refusal::Capacities,
    devices::netlink::Watcher,
    journal::Journal,
    monitor::Monitor,
    netfilter::Keeper,
    pace::Pace,
    planner::Planner,
    programmer::Programmer,
    ready,
    table_maker::TableMaker,
    telemetry::{chain, flood::Flood},
};

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
        let is_first = pins.versions()?.is_empty() && !attach::has_filters()?;
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
            finished: false,
            inspector,
            netfilter: None,
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
        app.netfilter = Some(Keeper::start(app.config.netfilter.clone())?);
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

    /// Once the first full list is in the maps: removes what another version left, and makes the ready file. As long as a write
    /// fails, the other version goes on serving.
    pub(super) fn finish_start(&mut self) {
        if !self.ready || self.finished || self.programmer.is_behind() {
            return;
        }
        self.finished = true;
        self.retire_other_versions();
        if let Some(path) = &self.config.ready_file
            && let Err(error) = ready::announce(path)
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
