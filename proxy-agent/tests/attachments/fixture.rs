//! An agent's programs over pins of their own, on devices of a namespace of their own.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use proxy_agent::dataplane::{
    attach::{Attachments, Below, Port, TcMode},
    audit::{Findings, Kind},
    load::{Features, OBJECT, Programs},
    log::DatapathLog,
    pin::PinFolder,
    probe,
    sys::{object, process::device_name, program},
};
use proxy_common::abi::device::{Device, DeviceClass, LinkType};

use crate::namespace;

const BPFFS: &str = "/sys/fs/bpf";
const PREFIX: &str = "proxy-attachments-";

/// One at a time: the maps take half a gigabyte.
static TURN: Mutex<()> = Mutex::new(());

/// A folder of pins that ends with the value, also by a panic.
pub struct Fixture {
    pub pins: PinFolder,
    _turn: MutexGuard<'static, ()>,
}

impl Fixture {
    pub fn programs(&self) -> Programs {
        self.pins.create().unwrap();
        let features = Features {
            set_retval: probe::has_set_retval().unwrap(),
        };
        Programs::load(&self.pins, features, DatapathLog::Off).unwrap()
    }

    /// Attachments by tcx or clsact, nothing yet.
    pub fn attachments(&self, mode: TcMode) -> Attachments {
        Attachments::new(self.pins.clone(), self.programs(), mode)
    }

    /// The link under a pin.
    pub fn link(&self, name: &str) -> OwnedFd {
        object::open(&self.pins.link(name)).unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        fs::remove_dir_all(self.pins.base()).ok();
    }
}

/// Runs a test with programs and in a namespace of its own; without root, it says so and does not.
pub fn with(name: &str, test: impl FnOnce(&Fixture) + Send) {
    if OBJECT.is_empty() {
        println!("skipped: built without the eBPF object");
        return;
    }
    namespace::node(async |_| {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        sweep();
        let own = format!("{PREFIX}{}-{name}", std::process::id());
        let fixture = Fixture {
            pins: PinFolder::new(Path::new(BPFFS).join(own)),
            _turn: turn,
        };
        test(&fixture);
    });
}

/// Removes what tests left that were killed.
fn sweep() {
    let entries = fs::read_dir(BPFFS).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            fs::remove_dir_all(&path).ok();
        }
    }
}

/// A device of a class, as the classification gives it.
pub fn port(ifindex: u32, class: DeviceClass) -> Port {
    let device = Device {
        class: class as u8,
        link: LinkType::Ethernet as u8,
        ..Device::default()
    };
    Port {
        name: device_name(ifindex).unwrap_or_else(|| format!("gone{ifindex}")),
        below: Below::default(),
        device,
    }
}

/// Pairs `p0`, `p1`, …; the first of each is pod-facing. By ifindex.
pub fn pods(count: u32) -> BTreeMap<u32, Port> {
    let pair = |n| format!("link add p{n} up type veth peer name q{n}\n");
    namespace::ip(&(0..count).map(pair).collect::<String>());
    (0..count)
        .map(|n| {
            let ifindex = ifindex(&format!("p{n}"));
            (ifindex, port(ifindex, DeviceClass::Pod))
        })
        .collect()
}

pub fn ifindex(device: &str) -> u32 {
    // /sys shows the devices of the namespace that mounted it.
    (1..)
        .take(100_000)
        .find(|&number| device_name(number).as_deref() == Some(device))
        .unwrap_or_else(|| panic!("there is no device {device}"))
}

/// Runs tc(8) in this namespace.
pub fn tc(arguments: &str) {
    let status = Command::new("tc")
        .args(arguments.split(' '))
        .status()
        .expect("tc(8)");
    assert!(status.success(), "tc {arguments}");
}

/// A program that lets everything go on.
pub fn stranger() -> OwnedFd {
    /// `BPF_PROG_TYPE_SCHED_CLS`.
    const SCHED_CLS: u32 = 3;
    /// r0 = -1 (`TCX_NEXT`); exit.
    const GO_ON: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];
    program::load(SCHED_CLS, 0, &GO_ON).unwrap()
}

/// What was mended, and that nothing failed.
pub fn repairs(findings: &Findings) -> Vec<(Kind, &str)> {
    assert!(findings.failures.is_empty(), "{findings:?}");
    let repairs = findings.repairs.iter();
    repairs
        .map(|repair| (repair.kind, repair.what.as_str()))
        .collect()
}
