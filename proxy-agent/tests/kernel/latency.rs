//! From a file that is moved into the folder to the map that shows it, through the agent as it is run.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use proxy_agent::{
    dataplane::{maps::KernelMaps, open::open, pin::PinFolder, sys::map::Map},
    maps::Maps as _,
    view,
};
use proxy_common::{
    abi::{
        Pinned,
        frontend::{FrontendKey, FrontendValue, Scope},
        protocol::TCP,
        target::{Backend, Slot, Target},
    },
    addr::Addr,
};
use zerocopy::network_endian::U16;

use crate::{
    files::{self, Files},
    fixture::{self, Fixture},
    times::Times,
};

const SERVICES: u32 = 1_000;
const CHANGES: u32 = 50;
const POLL: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent with no devices but a loopback, on a cgroup without processes.
struct Agent {
    child: Child,
    cgroup: PathBuf,
    log: PathBuf,
    /// Keeps the thread that started it.
    _alive: mpsc::Sender<()>,
}

impl Agent {
    /// Starts it, and waits until the first list is programmed.
    fn start(pins: &PinFolder, files: &Files, cgroup: PathBuf) -> Self {
        fs::create_dir(&cgroup).unwrap();
        let log = files.base().join("log");
        let ready = files.base().join("ready");
        let output = File::create(&log).unwrap();
        // It ends with the thread that starts it, also if the test is killed.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_proxy-agent")])
            .args([
                "run",
                "--log-level=debug",
                "--hostname-override",
                "here",
                "--source",
            ])
            .arg(format!("file:{}", files.folder().display()))
            .arg("--bpffs")
            .arg(pins.base())
            .arg("--cgroup")
            .arg(&cgroup)
            .arg("--ready-file")
            .arg(&ready)
            .env_remove("PROXY_AGENT_BIN")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let (started, child) = mpsc::channel();
        let (alive, ended) = mpsc::channel::<()>();
        thread::spawn(move || {
            // A process is in the network namespace of the thread that starts it.
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            started.send(command.spawn().unwrap()).unwrap();
            ended.recv().ok();
        });
        let mut agent = Self {
            child: child.recv().unwrap(),
            cgroup,
            log,
            _alive: alive,
        };
        agent.wait_for("the first list", || ready.exists());
        agent
    }

    /// Waits until something is so; returns how long that was.
    fn wait_for(&mut self, what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
        let start = Instant::now();
        while !is_so() {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "{what} does not come (agent: {ended:?}):\n{}",
                self.log()
            );
            thread::sleep(POLL);
        }
        start.elapsed()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir(&self.cgroup).ok();
    }
}

/// The maps that lead from a frontend to its backends.
struct Lookup {
    frontends: Map<FrontendKey, FrontendValue>,
    targets: Map<u32, Target>,
    slots: Map<u32, Slot>,
    backends: Map<u32, Backend>,
}

impl Lookup {
    fn open(pins: &PinFolder) -> Self {
        Self {
            frontends: open(pins, Pinned::FRONTENDS).unwrap(),
            targets: open(pins, Pinned::TARGETS).unwrap(),
            slots: open(pins, Pinned::SLOTS).unwrap(),
            backends: open(pins, Pinned::BACKENDS).unwrap(),
        }
    }

    /// Where a new connection to a ClusterIP may go.
    fn backends(&self, ip: Ipv4Addr) -> BTreeSet<IpAddr> {
        let key = FrontendKey {
            addr: Addr::v4(ip.octets()),
            port: U16::new(files::PORT),
            protocol: TCP,
            scope: Scope::Cluster as u8,
        };
        let Some(value) = self.frontends.lookup(&key).unwrap() else {
            return BTreeSet::new();
        };
        let word = self.targets.lookup(&value.target()).unwrap().unwrap().word;
        let slots = word.offset()..word.offset() + u32::from(word.count());
        slots
            .map(|index| self.slots.lookup(&index).unwrap().unwrap().backend)
            .map(|id| self.backends.lookup(&id).unwrap().unwrap().addr.to_ip())
            .collect()
    }
}

fn endpoints(service: u32, first: u32) -> BTreeSet<IpAddr> {
    (first..first + files::ENDPOINTS)
        .map(|number| files::endpoint(service, number).into())
        .collect()
}

/// The folder of this machine's cgroups of version 2.
fn cgroups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (folder, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| Path::new(folder).to_path_buf())
    })
}

#[test]
fn a_slice_that_is_moved_into_the_folder_is_in_the_map_soon() {
    let (fixture, cgroups) = match (Fixture::new("latency"), cgroups()) {
        (Ok(fixture), Some(cgroups)) => (fixture, cgroups),
        (Err(reason), _) => {
            println!("skipped: {reason}");
            return;
        }
        (_, None) => {
            println!("skipped: no cgroup file system of version 2 is mounted");
            return;
        }
    };
    fixture::sweep(&cgroups);
    fixture::sweep(&std::env::temp_dir());
    let own = fixture::own_name("latency");
    let files = Files::new(std::env::temp_dir().join(&own));
    for number in 0..SERVICES {
        files.put(&format!("service-{number}.yaml"), &files::service(number));
        files.put(&format!("slice-{number}.yaml"), &files::slice(number, 0));
    }
    let start = Instant::now();
    let mut agent = Agent::start(fixture.pins(), &files, cgroups.join(own));
    println!(
        "{SERVICES} Services in {} files: ready after {:.1?}",
        2 * SERVICES,
        start.elapsed()
    );

    let maps = Lookup::open(fixture.pins());
    let mut times = Times::default();
    for change in 1..=CHANGES {
        let number = change * 17 % SERVICES;
        assert_eq!(
            maps.backends(files::cluster_ip(number)),
            endpoints(number, 0)
        );
        let wanted = endpoints(number, 1);
        let name = format!("slice-{number}.yaml");
        let (from, to) = files.stage(&name, &files::slice(number, 1));
        fs::rename(from, to).unwrap();
        let is_there = || maps.backends(files::cluster_ip(number)) == wanted;
        times.add(agent.wait_for(&name, is_there));
    }
    println!("one slice of {SERVICES} is replaced: from the move to the map {times}");

    let report = view::report(
        &KernelMaps::open(fixture.pins())
            .unwrap()
            .snapshot()
            .unwrap(),
    );
    assert_eq!(report.frontends.len(), SERVICES as usize);
    // Each was programmed by itself; of the last, the agent may still have to say so.
    let count = |log: &str, what: &str| log.lines().filter(|line| line.contains(what)).count();
    let log = agent.log.clone();
    agent.wait_for("the last line of the log", || {
        let log = fs::read_to_string(&log).unwrap();
        count(&log, " programmed ") > CHANGES as usize
    });
    let log = agent.log();
    assert_eq!(count(&log, " services=1 "), CHANGES as usize, "{log}");
    assert_eq!(count(&log, " programmed "), CHANGES as usize + 1, "{log}");
}
