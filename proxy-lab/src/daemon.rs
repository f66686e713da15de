//! Programs that run on a host until they are ended: agents, kube-proxy, the programs of a control plane.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{LabError, Result};
use crate::host_binary;
use crate::memory::Memory;
use crate::netns::Netns;

/// How long a program may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(20);
/// Lines of a log that are shown when something fails.
const TAIL: usize = 40;

/// A running program in a host's namespace and cgroup. Dropping the handle kills the program, unless it is [kept](Self::keep).
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    kept: bool,
}

impl Daemon {
    /// Starts `program` in a namespace and a cgroup. Its output is appended to the file `log`.
    pub(crate) fn spawn(
        name: &str,
        (netns, cgroup): (&Netns, &Path),
        program: &Path,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
        environment: &[(OsString, OsString)],
        log: &Path,
    ) -> Result<Self> {
        let open = || {
            let options = File::options().create(true).append(true).open(log);
            options.map_err(LabError::file("opening", log))
        };
        let mut command = Command::new(host_binary::lab_host()?);
        without_own_variables(&mut command)
            .arg("exec")
            .arg("--netns")
            .arg(netns.path());
        command.arg("--cgroup").arg(cgroup);
        command
            .arg("--")
            .arg(program)
            .args(arguments.into_iter().map(Into::into))
            .envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
        // Ctrl-C is for the lab's owner, who ends it in order.
        command.process_group(0);
        let child = command
            .spawn()
            .map_err(LabError::file("starting", program))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            kept: false,
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that its output is written to.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Its memory, while it lives.
    pub(crate) fn memory(&self) -> Option<Memory> {
        Memory::of(self.child.id())
    }

    /// The processor time of the process, while it runs, including that of children that have ended.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // utime, stime, cutime, cstime: fields 14 to 17 of proc_pid_stat(5). The first two fields
        // end at the last `)`.
        let fields = text.rsplit_once(')')?.1.split_whitespace().skip(11).take(4);
        let ticks = fields
            .map(|field| field.parse::<u64>().ok())
            .sum::<Option<u64>>()?;
        let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
        Some(Duration::from_millis(
            ticks * 1000 / u64::try_from(second).ok()?,
        ))
    }

    /// Polls `ready` until it is true. Fails if the program ends, or if the time is over.
    pub(crate) fn wait_until_ready(
        &mut self,
        within: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + within;
        while !ready() {
            if let Some(status) = self.ended()? {
                return Err(self.problem(&format!("ended with {status}")));
            }
            if Instant::now() > deadline {
                return Err(self.problem(&format!("is not ready after {} s", within.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        // The process is our child and not yet waited for: the id is its own.
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).map_err(LabError::kernel(format!(
            "sending {signal} to {}",
            self.name
        )))
    }

    /// Kills it without a chance to tidy up, and waits for its end.
    pub(crate) fn kill9(mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.collect().map(drop)
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn terminate(self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(self.problem("does not end"))
    }

    /// Lets the program live on when this handle is dropped.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let looking = LabError::kernel(format!("looking at {}", self.name));
        self.child.try_wait().map_err(looking)
    }

    fn collect(&mut self) -> Result<ExitStatus> {
        let waiting = LabError::kernel(format!("waiting for {}", self.name));
        self.child.wait().map_err(waiting)
    }

    fn problem(&self, problem: &str) -> LabError {
        LabError::Daemon {
            name: self.name.clone(),
            problem: problem.to_owned(),
            log: log_tail(&self.log),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only for one that has ended and was waited for.
        if !self.kept && self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}

/// The last lines of a log.
pub(crate) fn log_tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path)
        .unwrap_or_else(|error| format!("({}: {error})", path.display()));
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// Removes the environment variables of the lab and its tests. The agent would report them as misspelt flags.
pub(crate) fn without_own_variables(command: &mut Command) -> &mut Command {
    let is_own = |name: &OsString| {
        let name = name.to_string_lossy();
        ["PROXY_LAB_", "PROXY_AGENT_", "PROXY_EBPF_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    for name in std::env::vars_os().map(|(name, _)| name).filter(is_own) {
        command.env_remove(name);
    }
    command
}
