//! The process that the lab starts in each namespace.
//!
//! * `lab-host serve --netns PATH --cgroup PATH`: enter both, then serve the library's requests on stdin and stdout.
//! * `lab-host exec --netns PATH --cgroup PATH --etc DIR -- COMMAND ARGS…`: enter both, see the files of DIR in place of
//!   those in `/etc`, then become the command.
//! * `lab-host fingerprint`: which build this is.
//!
//! It enters by setns alone: unlike `ip netns exec` it keeps the mounts, bpffs among them.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const USAGE: &str = "usage: lab-host serve|exec [--netns PATH] [--cgroup PATH] [--etc DIR] [-- COMMAND ARGS…] | lab-host fingerprint";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("lab-host: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut words = std::env::args_os().skip(1);
    let verb = words.next().ok_or(USAGE)?;
    let (mut netns, mut cgroup, mut etc) = (None, None, None);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--netns") => netns = Some(PathBuf::from(words.next().ok_or(USAGE)?)),
            Some("--cgroup") => cgroup = Some(PathBuf::from(words.next().ok_or(USAGE)?)),
            Some("--etc") => etc = Some(PathBuf::from(words.next().ok_or(USAGE)?)),
            Some("--") => break,
            _ => return Err(USAGE.to_owned()),
        }
    }
    match verb.to_str() {
        Some("fingerprint") => {
            println!("{}", proxy_lab::inside::FINGERPRINT);
            Ok(())
        }
        Some("serve") => {
            enter(netns.as_deref(), cgroup.as_deref())?;
            // A new session, so that the terminal's Ctrl-C and hang-up reach only the lab's
            // owner, which ends this process by closing stdin.
            nix::unistd::setsid().map_err(|error| format!("setsid: {error}"))?;
            raise_file_limit();
            proxy_lab::inside::run().map_err(|error| error.to_string())
        }
        Some("exec") => {
            enter(netns.as_deref(), cgroup.as_deref())?;
            etc.as_deref().map_or(Ok(()), own_files)?;
            let command = words.next().ok_or(USAGE)?;
            let error = std::process::Command::new(&command).args(words).exec();
            Err(format!("{}: {error}", command.display()))
        }
        _ => Err(USAGE.to_owned()),
    }
}

fn enter(netns: Option<&Path>, cgroup: Option<&Path>) -> Result<(), String> {
    if let Some(cgroup) = cgroup {
        let procs = cgroup.join("cgroup.procs");
        std::fs::write(&procs, "0")
            .map_err(|error| format!("joining {}: {error}", procs.display()))?;
    }
    if let Some(netns) = netns {
        let file =
            std::fs::File::open(netns).map_err(|error| format!("{}: {error}", netns.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .map_err(|error| format!("entering {}: {error}", netns.display()))?;
    }
    Ok(())
}

/// Puts the files of a folder in the place of those in `/etc`, for this process and its children.
fn own_files(folder: &Path) -> Result<(), String> {
    let failed = |what: &Path| {
        let what = what.display().to_string();
        move |error: std::io::Error| format!("{what}: {error}")
    };
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("own mounts: {error}"))?;
    let nothing = None::<&Path>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, private, nothing)
        .map_err(|error| format!("own mounts: {error}"))?;
    for entry in std::fs::read_dir(folder).map_err(failed(folder))? {
        let file = entry.map_err(failed(folder))?.path();
        let target = Path::new("/etc").join(file.file_name().unwrap_or_default());
        mount(Some(&file), &target, nothing, MsFlags::MS_BIND, nothing)
            .map_err(|error| failed(&target)(error.into()))?;
    }
    Ok(())
}

/// Holds and servers need a descriptor for each connection.
fn raise_file_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Best effort: too few descriptors show as errors of the connections that lack them.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
