//! Agents on nodes.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::command;
use crate::daemon::{Daemon, without_own_variables};
use crate::error::{LabError, Result};
use crate::host_binary;
use crate::lab::Lab;
use crate::node::Node;
use crate::wiring::xdp;

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

    /// Sets `--xdp`. The default is the value of `PROXY_LAB_XDP`, which prepares every lab for XDP.
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

    /// The command line of an agent on this node.
    fn arguments(&self, node: &Node, ready_file: &Path) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["run".into()];
        let flags: [(&str, &OsStr); 5] = [
            ("--source", self.source.as_ref()),
            ("--hostname-override", node.name().as_ref()),
            ("--cgroup", node.cgroup().as_ref()),
            ("--bpffs", node.bpffs().as_ref()),
            ("--ready-file", ready_file.as_ref()),
        ];
        for (flag, value) in flags {
            arguments.extend([flag.into(), value.to_owned()]);
        }
        let names_xdp = |argument: &OsString| argument.to_string_lossy().starts_with("--xdp");
        if let Some(mode) = xdp::from_environment()
            && !self.arguments.iter().any(names_xdp)
        {
            arguments.push(format!("--xdp={mode}").into());
        }
        arguments.extend(self.arguments.iter().cloned());
        arguments
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
pub struct Agent(Daemon);

impl Node {
    /// Starts an agent in the node's namespace and cgroup, and waits until it is ready.
    pub fn spawn_agent(&self, options: &AgentOptions) -> Result<Agent> {
        let binary = options.binary.clone().map_or_else(agent_binary, Ok)?;
        let log = self.new_agent_log();
        let ready = log.with_extension("ready");
        let place = (self.netns(), self.cgroup());
        let name = format!("the agent on {}", self.name());
        let mut daemon = Daemon::spawn(
            &name,
            place,
            &binary,
            options.arguments(self, &ready),
            &options.environment,
            &log,
        )?;
        daemon.keep();
        daemon.wait_until_ready(options.ready_within, || ready.exists())?;
        Ok(Agent(daemon))
    }
}

impl Agent {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        self.0.log()
    }

    /// Kills it without a chance to tidy up, and waits for its end.
    pub fn kill9(self) -> Result<()> {
        self.0.kill9()
    }

    /// Asks it to end, and waits for that.
    pub fn terminate(self) -> Result<ExitStatus> {
        self.0.terminate()
    }

    /// Waits for its end.
    pub fn wait(self) -> Result<ExitStatus> {
        self.0.wait()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.ended()
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
    S: AsRef<OsStr>,
{
    let mut command = Command::new(agent_binary()?);
    without_own_variables(&mut command).args(arguments);
    node.netns().run(move || command::output(&mut command))
}
