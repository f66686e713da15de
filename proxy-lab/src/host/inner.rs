//! Other programs as a host's own: in its network namespace and cgroup, and with its own files in `/etc`, as a container
//! has them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Host;
use crate::error::{LabError, Result};
use crate::{command, enter, naming, sweep};

impl Host {
    /// Gives the host its own version of a file in `/etc`, for programs started by [`Host::run`] and
    /// [`Host::start_program`]. The machine must have a file of this name.
    pub fn put_etc(&self, file: &str, text: &str) -> Result<()> {
        let folder = self.etc();
        std::fs::create_dir_all(&folder).map_err(LabError::file("creating", &folder))?;
        let path = folder.join(file);
        std::fs::write(&path, text).map_err(LabError::file("writing", path))
    }

    /// Runs a program as a process of the host, and returns what it wrote to stdout.
    pub fn run<I, S>(&self, words: I) -> Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        command::output(self.inside()?.args(words))
    }

    /// Starts a program as a process of the host; it ends with the lab. What it writes goes to a file.
    pub fn start_program<I, S>(&self, words: I, log: &Path) -> Result<()>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let file = std::fs::File::create(log).map_err(LabError::file("creating", log))?;
        let second = file.try_clone().map_err(LabError::file("opening", log))?;
        let mut command = self.inside()?;
        command
            .args(words)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(second);
        // Ctrl-C is for the lab's owner, who takes its hosts down in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().map_err(|error| LabError::Command {
            command: format!("{command:?}"),
            ending: format!("does not start: {error}"),
        })?;
        // It is found by its cgroup when the lab ends.
        drop(child);
        Ok(())
    }

    /// `lab-host exec` into this host, up to the program's words.
    fn inside(&self) -> Result<Command> {
        enter::command(self.netns.path(), &self.cgroup, &self.etc())
    }

    fn etc(&self) -> PathBuf {
        let name = self.netns.name();
        let prefix = naming::prefix_of(name).unwrap_or(name);
        sweep::etc_folder(prefix, &self.name)
    }
}
