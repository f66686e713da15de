//! Named network namespaces, as `ip netns` makes them: a file under `/run/netns` that holds the namespace.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::error::{LabError, Result};

/// Where the names are.
pub const FOLDER: &str = "/run/netns";

/// A network namespace. It stays until [`remove`] (or [`crate::sweep`]) takes it away.
#[derive(Debug, Clone)]
pub struct Netns {
    name: String,
    path: PathBuf,
}

impl Netns {
    /// Makes a new namespace with this name.
    pub fn create(name: &str) -> Result<Self> {
        let folder = Path::new(FOLDER);
        std::fs::create_dir_all(folder).map_err(LabError::file("creating", folder))?;
        share_folder(folder);
        let path = folder.join(name);
        File::create_new(&path).map_err(LabError::file("creating", &path))?;
        let target = path.clone();
        let made = thread::spawn(move || -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(LabError::kernel("making a network namespace"))?;
            let own = PathBuf::from(format!("/proc/self/task/{}/ns/net", nix::unistd::gettid()));
            mount(
                Some(&own),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(std::io::Error::from)
            .map_err(LabError::file("mounting a network namespace on", &target))
        })
        .join();
        match made {
            Ok(Ok(())) => Ok(Self::named(name)),
            Ok(Err(error)) => {
                // Nothing is mounted; the name alone is in the way of a second try.
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The namespace of this name, which is there.
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            path: Path::new(FOLDER).join(name),
        }
    }

    /// Its name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file, for `nsenter --net=…`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in the namespace, on a new thread. Sockets that it opens stay in the namespace,
    /// commands that it starts run in it, and `/proc/sys/net` shows it. The cgroup is the caller's.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(&self.path).map_err(LabError::file("opening", &self.path))?;
        thread::scope(|scope| {
            let entered = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET)
                    .map_err(LabError::kernel("entering a network namespace"))?;
                work()
            });
            entered
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes sysctls (`net.ipv4.ip_forward` = `1`), in order.
    pub fn sysctl<'a>(&self, settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<()> {
        let settings: Vec<_> = settings.into_iter().collect();
        self.run(move || {
            settings.into_iter().try_for_each(|(name, value)| {
                let path = Path::new("/proc/sys").join(name.replace('.', "/"));
                std::fs::write(&path, value).map_err(LabError::file("writing", path))
            })
        })
    }
}

/// Makes the folder a shared mount, as `ip netns add` does. Otherwise a process with its own mount
/// namespace would keep our namespaces alive as long as it runs.
fn share_folder(folder: &Path) {
    let share = || {
        mount(
            None::<&str>,
            folder,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    if share().is_err() {
        // Not a mount point yet. If this fails too, namespaces still work.
        let _ = mount(
            Some(folder),
            folder,
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        );
        let _ = share();
    }
}

/// Removes a name; the namespace and its devices go when its last process has ended.
pub fn remove(name: &str) -> Result<()> {
    let path = Path::new(FOLDER).join(name);
    // EINVAL: a plain file, left by a start that failed half-way.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::file("removing", path)(error))
        }
        _ => Ok(()),
    }
}

/// Names that begin with `prefix`.
pub fn list(prefix: &str) -> Vec<String> {
    crate::naming::entries(Path::new(FOLDER), prefix)
}
