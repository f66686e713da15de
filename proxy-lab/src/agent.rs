//! Agents on nodes.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command;
use crate::error::{LabError, Result};
use crate::host_binary;
use crate::lab::Lab;
use crate::node::Node;
use crate::wiring::xdp;

/// Lines of a log that are shown when something fails.
const TAIL: usize = 40;

/// How to start an agent.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    source: String,
    binary: Option<PathBuf>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    ready_within: Duration,
}

impl AgentOptions {
    /// An agent that follows the folder `source`.
    pub fn files(source: &Path) -> Self {
        Self::source(format!("file:{}", source.display()))
    }

    /// An agent that follows the API server of a kubeconfig.
    pub fn kube(kubeconfig: &Path) -> Self {
        Self::source("kube").arg("--kubeconfig").arg(kubeconfig)
    }

    /// An agent with any source, as `--source` takes it.
    pub fn source(source: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            binary: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            ready_within: Duration::from_secs(30),
        }
    }

    /// The binary; otherwise `PROXY_AGENT_BIN`, or `proxy-agent` beside this program.
    #[must_use]
    pub fn binary(self, binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: Some(binary.into()),
            ..self
        }
    }

    /// A further argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Where it uses XDP: a value of `--xdp`. Otherwise what `PROXY_LAB_XDP` says, which every lab is then fit for.
    #[must_use]
    pub fn xdp(self, mode: &str) -> Self {
        self.arg(format!("--xdp={mode}"))
    }

    /// An environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// How long it may take to become ready (default: 30 s).
    #[must_use]
    pub fn ready_within(self, ready_within: Duration) -> Self {
        Self {
            ready_within,
            ..self
        }
    }
}

/// The agent binary: `PROXY_AGENT_BIN`, or `proxy-agent` beside this program.
pub fn agent_binary() -> Result<PathBuf> {
    host_binary::named_by("PROXY_AGENT_BIN")
        .or_else(|| host_binary::beside_this_program("proxy-agent"))
        .ok_or_else(|| LabError::Topology("no agent: build it with `cargo build -p proxy-agent` or name it in PROXY_AGENT_BIN".to_owned()))
}

/// A running agent. Dropping the handle leaves it running; the lab's end kills it.
#[derive(Debug)]
pub struct Agent {
    node: String,
    child: Child,
    log: PathBuf,
}

impl Agent {
    pub(crate) fn spawn(node: &Node, options: &AgentOptions, log: PathBuf) -> Result<Self> {
        let binary = options.binary.clone().map_or_else(agent_binary, Ok)?;
        let ready = log.with_extension("ready");
        let file = File::create(&log).map_err(LabError::file("creating", &log))?;
        let second = file.try_clone().map_err(LabError::file("opening", &log))?;
        let mut command = Command::new(host_binary::lab_host()?);
        without_own_variables(&mut command)
            .arg("exec")
            .arg("--netns")
            .arg(node.netns().path())
            .arg("--cgroup")
            .arg(node.cgroup());
        command.arg("--").arg(binary).args([
            "run",
            "--source",
            &options.source,
            "--hostname-override",
            node.name(),
        ]);
        command
            .arg("--cgroup")
            .arg(node.cgroup())
            .arg("--bpffs")
            .arg(node.bpffs())
            .arg("--ready-file")
            .arg(&ready);
        let says_xdp = |argument: &OsString| argument.to_string_lossy().starts_with("--xdp");
        if let Some(mode) = xdp::from_environment()
            && !options.arguments.iter().any(says_xdp)
        {
            command.arg(format!("--xdp={mode}"));
        }
        command.args(&options.arguments).envs(
            options
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        );
        command.stdin(Stdio::null()).stdout(file).stderr(second);
        // Ctrl-C is for the lab's owner, who takes agents down in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().map_err(|error| LabError::Command {
            command: format!("{command:?}"),
            ending: format!("does not start: {error}"),
        })?;
        let mut agent = Self {
            node: node.name().to_owned(),
            child,
            log,
        };
        agent.wait_until_ready(&ready, options.ready_within)?;
        Ok(agent)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Kills it without a chance to tidy up, and waits for its end.
    pub fn kill9(mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.child
            .wait()
            .map(|_| ())
            .map_err(LabError::kernel("waiting for an agent"))
    }

    /// Asks it to end, and waits for that.
    pub fn terminate(self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(self.problem("does not end"))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .map_err(LabError::kernel("looking at an agent"))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        // The process is our child and not yet waited for: the id is its own.
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).map_err(LabError::kernel(format!(
            "sending {signal} to the agent on {}",
            self.node
        )))
    }

    fn wait_until_ready(&mut self, ready: &Path, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        while !ready.exists() {
            if let Some(status) = self.ended()? {
                return Err(self.problem(&format!("ended with {status}")));
            }
            if Instant::now() > deadline {
                let problem = format!("is not ready after {} s", within.as_secs());
                return Err(self.problem(&problem));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn problem(&self, problem: &str) -> LabError {
        LabError::Agent {
            node: self.node.clone(),
            problem: problem.to_owned(),
            log: tail(&self.log),
        }
    }
}

/// Starts an agent on every node, all at once; in the order of [`Lab::nodes`].
pub fn spawn_agents(lab: &Lab, options: &AgentOptions) -> Result<Vec<Agent>> {
    std::thread::scope(|scope| {
        let nodes = lab.nodes().iter();
        let starting: Vec<_> = nodes
            .map(|node| scope.spawn(|| node.spawn_agent(options)))
            .collect();
        let started = starting.into_iter().map(|agent| {
            agent
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        started.collect()
    })
}

/// Runs another command of the agent binary in a node's namespace, and returns what it wrote to stdout.
pub fn agent_command<I, S>(node: &Node, arguments: I) -> Result<String>
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    let mut command = Command::new(agent_binary()?);
    without_own_variables(&mut command).args(arguments);
    node.netns().run(move || command::output(&mut command))
}

/// Takes away the variables of the lab and of its tests, which the agent would call misspelt ones of its own.
fn without_own_variables(command: &mut Command) -> &mut Command {
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

/// The last lines of a file.
pub(crate) fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path)
        .unwrap_or_else(|error| format!("({}: {error})", path.display()));
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
