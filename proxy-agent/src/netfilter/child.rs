//! Runs a program to its end, within limits. A program that hangs is killed with all processes that it started, and so is a
//! program that writes without end.

use std::{
    io::{self, Read, Write as _},
    os::{fd::AsFd, unix::process::CommandExt as _},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// Maximum output of a program, in bytes: enough for listings of large tables.
const MOST_OUTPUT: usize = 64 << 20;
/// The number of bytes that a pipe reported as ready takes at once (`PIPE_BUF`).
const CHUNK: usize = 4096;
/// How long to wait for the end of a killed program. The kernel may delay the end for longer.
const KILLED: Duration = Duration::from_secs(1);

/// Runs a command with this input.
pub(super) fn finish(command: &mut Command, input: &str, within: Duration) -> io::Result<Output> {
    let deadline = Instant::now() + within;
    let stdin = if input.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    };
    command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that it is killed with all processes that it starts.
        .process_group(0);
    let mut running = Running(command.spawn()?);
    let (stdout, stderr) = running.talk(input.as_bytes(), deadline, within)?;
    let status = running.wait(deadline)?.ok_or_else(|| hung(within))?;
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

fn hung(within: Duration) -> io::Error {
    let problem = format!(
        "it did not end within {} s, and was killed",
        within.as_secs_f32()
    );
    io::Error::new(io::ErrorKind::TimedOut, problem)
}

/// A running program. It is killed when this is dropped.
struct Running(Child);

impl Running {
    /// Writes the program's input, and reads its standard output and error to their ends.
    fn talk(
        &mut self,
        mut input: &[u8],
        deadline: Instant,
        within: Duration,
    ) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let mut stdin = self.0.stdin.take();
        let mut stdout = Stream::new(self.0.stdout.take());
        let mut stderr = Stream::new(self.0.stderr.take());
        while stdout.pipe.is_some() || stderr.pipe.is_some() {
            if input.is_empty() {
                stdin = None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(hung(within));
            }
            let [from, errors, to] = wait_for(&stdout, &stderr, stdin.as_ref(), left)?;
            if from {
                stdout.read()?;
            }
            if errors {
                stderr.read()?;
            }
            if to && let Some(pipe) = &mut stdin {
                match pipe.write(&input[..input.len().min(CHUNK)]) {
                    Ok(written) => input = &input[written..],
                    // A program that ends without reading its input reports the reason on its standard error.
                    Err(_) => input = &[],
                }
            }
        }
        Ok((stdout.bytes, stderr.bytes))
    }

    /// Waits for the program's end. Returns `None` at the deadline.
    fn wait(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.0.try_wait() {
            return;
        }
        // The process has not been reaped, so no other process has its id.
        let group = Pid::from_raw(self.0.id().cast_signed());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.wait(Instant::now() + KILLED);
    }
}

/// The output of a pipe.
struct Stream<P> {
    /// `None` at its end.
    pipe: Option<P>,
    bytes: Vec<u8>,
}

impl<P: Read> Stream<P> {
    const fn new(pipe: Option<P>) -> Self {
        Self {
            pipe,
            bytes: Vec::new(),
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(());
        };
        let mut chunk = [0; 2 * CHUNK];
        match pipe.read(&mut chunk) {
            Ok(0) => self.pipe = None,
            Ok(count) => self.bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if self.bytes.len() > MOST_OUTPUT {
            let most = MOST_OUTPUT >> 20;
            return Err(io::Error::other(format!(
                "it wrote more than {most} MiB, and was killed"
            )));
        }
        Ok(())
    }
}

/// Waits until one of the pipes is ready. Returns which pipes are ready.
fn wait_for(
    stdout: &Stream<impl AsFd>,
    stderr: &Stream<impl AsFd>,
    stdin: Option<&ChildStdin>,
    most: Duration,
) -> io::Result<[bool; 3]> {
    let pipes = [
        (stdout.pipe.as_ref().map(AsFd::as_fd), PollFlags::POLLIN),
        (stderr.pipe.as_ref().map(AsFd::as_fd), PollFlags::POLLIN),
        (stdin.map(AsFd::as_fd), PollFlags::POLLOUT),
    ];
    let open = pipes
        .iter()
        .filter_map(|(fd, flags)| Some(PollFd::new((*fd)?, *flags)));
    let mut polled: Vec<PollFd<'_>> = open.collect();
    let most = PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX);
    match poll(&mut polled, most) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut ready = polled.iter().map(|fd| fd.any().unwrap_or(false));
    Ok(pipes.map(|(fd, _)| fd.is_some() && ready.next().unwrap_or(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_mins(1);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_is_written_and_read_is_all_there() {
        let input = "0123456789abcde\n".repeat(100_000);
        let output = finish(&mut shell("cat; echo said >&2; exit 3"), &input, LONG).unwrap();
        assert_eq!(output.stdout, input.as_bytes());
        assert_eq!(output.stderr, b"said\n");
        assert_eq!(output.status.code(), Some(3));
        // One that does not read, and one that has nothing to read.
        let output = finish(&mut shell("echo no >&2; exit 1"), &input, LONG).unwrap();
        assert_eq!(output.stderr, b"no\n");
        assert!(
            finish(&mut Command::new("cat"), "", LONG)
                .unwrap()
                .status
                .success()
        );
    }

    #[test]
    fn one_that_hangs_is_killed_with_all_that_it_started() {
        let folder = std::env::temp_dir().join(format!("child-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let note = folder.join("pid");
        let started = Instant::now();
        for script in [
            // The second sleep holds the pipes after the shell's death; the third closes them and goes on.
            format!("sleep 1000 & echo $! >{0}; sleep 1000", note.display()),
            format!(
                "exec >/dev/null 2>&1; sleep 1000 & echo $! >{0}; sleep 1000",
                note.display()
            ),
        ] {
            // It may be slow to write its process id.
            let within = if note.exists() { SOON } else { SOON * 10 };
            let error = finish(&mut shell(&script), "input", within).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(started.elapsed() < LONG);
            let pid: i32 = std::fs::read_to_string(&note)
                .unwrap()
                .trim()
                .parse()
                .unwrap();
            let is_gone = || {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
                status.map_or(true, |status| status.contains("State:\tZ"))
            };
            while !is_gone() {
                assert!(started.elapsed() < LONG, "{pid} lives");
                thread::sleep(Duration::from_millis(10));
            }
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn one_that_writes_without_end_is_killed() {
        for script in ["yes", "yes >&2"] {
            let error = finish(&mut shell(script), "", LONG).unwrap_err();
            assert!(error.to_string().contains("more than 64 MiB"), "{error}");
        }
    }
}
