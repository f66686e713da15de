//! Pins in a folder of their own, and an agent's programs and maps in it.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use proxy_agent::{
    dataplane::{
        load::{Features, OBJECT, Programs},
        log::DatapathLog,
        maps::KernelMaps,
        open::MapCapacities,
        pin::PinFolder,
        probe,
    },
    delta::refusal::Capacities,
    programmer::Programmer,
};

const BPFFS: &str = "/sys/fs/bpf";
const PREFIX: &str = "proxy-kernel-";

/// One at a time: the maps take half a gigabyte, and times are measured.
static TURN: Mutex<()> = Mutex::new(());

/// A folder of pins that ends with the value, also by a panic.
pub struct Fixture {
    pins: PinFolder,
    _turn: MutexGuard<'static, ()>,
}

impl Fixture {
    /// An empty folder; an error is a reason to skip.
    pub fn new(name: &str) -> Result<Self, String> {
        let process = fs::metadata("/proc/self").map_err(|error| error.to_string())?;
        if process.uid() != 0 {
            return Err("needs root".to_owned());
        }
        if OBJECT.is_empty() {
            return Err("built without the eBPF object".to_owned());
        }
        let folder = own_name(name);
        let pins = PinFolder::new(Path::new(BPFFS).join(folder));
        pins.check_file_system()
            .map_err(|error| error.to_string())?;
        sweep(Path::new(BPFFS));
        Ok(Self {
            pins,
            _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }

    pub const fn pins(&self) -> &PinFolder {
        &self.pins
    }

    /// Loads the programs, over the maps that are pinned or new ones.
    pub fn load(&self) -> Programs {
        self.pins.create().unwrap();
        let features = Features {
            set_retval: probe::has_set_retval().unwrap(),
        };
        Programs::load(&self.pins, features, DatapathLog::Off).unwrap()
    }

    /// Takes over the maps.
    pub fn take_over(&self) -> Programmer<KernelMaps> {
        let maps = KernelMaps::open(&self.pins).unwrap();
        let room = MapCapacities::read(&self.pins).unwrap();
        Programmer::open(maps, Capacities::new(|map| room.of(map))).unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        fs::remove_dir_all(self.pins.base()).ok();
    }
}

/// Removes from a folder what tests left that were killed.
pub fn sweep(folder: &Path) {
    let is_left = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok())
            .is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(is_left) {
        // A cgroup is removed as it is, without its files.
        if fs::remove_dir(&path).is_err() {
            fs::remove_dir_all(&path).ok();
        }
    }
}

/// The name of a test's own things, by which [`sweep`] knows them.
pub fn own_name(what: &str) -> String {
    format!("{PREFIX}{}-{what}", std::process::id())
}
