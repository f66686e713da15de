//! The `lab-host` process of a host, and the conversation with it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::{LabError, Result};
use crate::host_binary;
use crate::inside::FINGERPRINT;
use crate::protocol::{Answer, Command, Hello, Reply, Request};

/// How long an answer may take on top of the time that the command itself allows.
const SLACK: Duration = Duration::from_secs(20);

type Waiting = Arc<Mutex<HashMap<u64, mpsc::Sender<Result<Answer, String>>>>>;

/// The process. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Process {
    host: String,
    child: Mutex<Child>,
    stdin: Mutex<Option<ChildStdin>>,
    next: AtomicU64,
    waiting: Waiting,
    detached: Mutex<bool>,
}

impl Process {
    pub(super) fn start(host: &str, netns: &Path, cgroup: &Path) -> Result<Self> {
        let program = host_binary::lab_host()?;
        let mut child = std::process::Command::new(program)
            .arg("serve")
            .arg("--netns")
            .arg(netns)
            .arg("--cgroup")
            .arg(cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(LabError::file("starting", program))?;
        let problem = |problem: &str| LabError::HostProcess {
            host: host.to_owned(),
            problem: problem.to_owned(),
        };
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(problem("has no pipes"));
        };
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let hello = stdout
            .read_line(&mut line)
            .ok()
            .and_then(|_| serde_json::from_str::<Hello>(&line).ok());
        if hello.is_none_or(|hello| hello.fingerprint != FINGERPRINT) {
            return Err(problem("did not come up (see its message on stderr)"));
        }
        let waiting = Waiting::default();
        let dispatching = Arc::clone(&waiting);
        thread::Builder::new()
            .name(format!("lab {host}"))
            .spawn(move || dispatch(stdout, &dispatching))
            .map_err(LabError::kernel("starting a thread"))?;
        Ok(Self {
            host: host.to_owned(),
            child: Mutex::new(child),
            stdin: Mutex::new(Some(stdin)),
            next: AtomicU64::new(0),
            waiting,
            detached: Mutex::default(),
        })
    }

    /// Sends a command and waits for its answer; `patience` is the time that the command itself may take.
    pub(super) fn ask(&self, command: Command, patience: Duration) -> Result<Answer> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel();
        locked(&self.waiting).insert(id, sender);
        let mut line = serde_json::to_vec(&Request { id, command })
            .map_err(|error| self.problem(&format!("cannot be told: {error}")))?;
        line.push(b'\n');
        let sent = match locked(&self.stdin).as_mut() {
            Some(stdin) => stdin.write_all(&line).and_then(|()| stdin.flush()),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        if let Err(error) = sent {
            locked(&self.waiting).remove(&id);
            return Err(self.problem(&format!("is gone: {error}")));
        }
        match receiver.recv_timeout(patience.saturating_add(SLACK)) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(message)) => Err(LabError::Refused {
                host: self.host.clone(),
                message,
            }),
            Err(RecvTimeoutError::Disconnected) => Err(self.problem("ended")),
            Err(RecvTimeoutError::Timeout) => {
                locked(&self.waiting).remove(&id);
                Err(self.problem("does not answer"))
            }
        }
    }

    /// Ends the process without a chance to tidy up.
    pub(super) fn kill(&self) -> Result<()> {
        *locked(&self.stdin) = None;
        let mut child = locked(&self.child);
        child
            .kill()
            .and_then(|()| child.wait())
            .map(|_| ())
            .map_err(LabError::kernel(format!(
                "killing the process of {}",
                self.host
            )))
    }

    /// Lets the process live on when this handle goes.
    pub(super) fn detach(&self) -> Result<()> {
        if locked(&self.stdin).is_none() {
            // Killed: there is nothing to leave behind.
            return Ok(());
        }
        self.ask(Command::Detach, Duration::ZERO)?;
        *locked(&self.detached) = true;
        Ok(())
    }

    /// Ends the process and waits for that.
    pub(super) fn end(&self) {
        // Closes stdin. A detached process keeps running.
        *locked(&self.stdin) = None;
        if !*locked(&self.detached) {
            // It ends now if it was not killed already; what cannot be collected is init's.
            let _ = locked(&self.child).wait();
        }
    }

    fn problem(&self, problem: &str) -> LabError {
        LabError::HostProcess {
            host: self.host.clone(),
            problem: problem.to_owned(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Hands replies to those who wait for them, until the process ends; then all who wait see a closed channel.
fn dispatch(stdout: BufReader<ChildStdout>, waiting: &Waiting) {
    for line in stdout.lines() {
        let Some(reply) = line
            .ok()
            .and_then(|line| serde_json::from_str::<Reply>(&line).ok())
        else {
            break;
        };
        if let Some(sender) = locked(waiting).remove(&reply.id) {
            // Nobody waits any more: fine.
            let _ = sender.send(reply.result);
        }
    }
    locked(waiting).clear();
}

/// Locks, also after another thread's panic: a test's failing assertion must not take the lab with it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
