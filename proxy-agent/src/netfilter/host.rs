//! Programs of the host, for an agent in a container: run in the mounts of process 1.
//!
//! The agent's image has no programs of its own, and those of the host are the ones that made the chains that are there.
//! A pod sees the host's process 1 with `hostPID`; entering its mounts takes `SYS_ADMIN`, `SYS_CHROOT` and `SYS_PTRACE`.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    process::Command,
};

use nix::sched::{CloneFlags, setns};

/// The agent's command that does it.
pub const COMMAND: &str = "on-host";
/// How that ends where the host has no such program either, as shells have it.
pub const NOT_INSTALLED: i32 = 127;

const OF_INIT: &str = "/proc/1/ns/mnt";
const OWN: &str = "/proc/self/ns/mnt";

/// A command that becomes a program of the host; none where this is no container, or process 1 is not the host's.
pub(super) fn command(program: &str) -> Option<Command> {
    let is_elsewhere = fs::read_link(OF_INIT).ok()? != fs::read_link(OWN).ok()?;
    is_elsewhere.then(|| {
        // The agent itself, once more: a process of one thread may change its mounts.
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).arg(program);
        command
    })
}

/// Becomes a program of the host; returns only if it cannot.
pub fn become_program(program: &str, arguments: &[String]) -> io::Error {
    let entered =
        File::open(OF_INIT).and_then(|namespace| Ok(setns(namespace, CloneFlags::CLONE_NEWNS)?));
    match entered {
        Ok(()) => Command::new(program)
            .args(arguments)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .exec(),
        Err(error) => io::Error::other(format!("could not enter the host's mounts: {error}")),
    }
}
