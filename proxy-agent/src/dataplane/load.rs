//! Loading the embedded object: maps are those pinned, or new and pinned; programs are new each time.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    programs::{CgroupSock, CgroupSockAddr, ProgramError, ProgramFd, SchedClassifier, Xdp},
};

use super::{
    log::DatapathLog,
    open::{self, MapError},
    pin::PinFolder,
    sys::{
        link::AttachType,
        object::{self, ProgramInfo},
        process,
    },
};
use crate::telemetry::chain;

/// The eBPF object, built by `cargo xtask build-ebpf`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/proxy-ebpf.o"));

/// Why the programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The agent was built without an object.
    #[error(
        "this agent was built without the eBPF object (PROXY_EBPF_SKIP=1); build it with `cargo xtask build-ebpf`"
    )]
    NoObject,
    /// A pinned map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The object as a whole was refused.
    #[error("could not load the eBPF object")]
    Object(#[source] Box<EbpfError>),
    /// A program is missing or of another kind.
    #[error("the eBPF object has no program {0} of the kind expected")]
    Missing(&'static str),
    /// The kernel refused a program a moment ago.
    #[error("the kernel refused the program {0} less than a minute ago")]
    RefusedBefore(&'static str),
    /// The kernel refused a program.
    #[error("the kernel refused the program {name}")]
    Refused {
        /// Program.
        name: &'static str,
        /// Why, with the verifier's log.
        #[source]
        source: Box<ProgramError>,
    },
}

/// The programs of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProgramName {
    /// A program on the cgroup.
    Socket(SocketHook),
    /// A program on devices.
    Packet(PacketProgram),
    /// The XDP program on uplinks.
    Xdp,
    /// Gives jiffies to a test run.
    Clock,
}

/// The socket hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketHook {
    /// Name of the program and of its link.
    pub name: &'static str,
    /// Where it goes.
    pub attach_type: AttachType,
}

/// The programs on devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PacketProgram {
    /// Ingress of pod-facing devices.
    PodIngress,
    /// Ingress of uplinks and overlays.
    UplinkIngress,
    /// The same, without an Ethernet header.
    UplinkIngressL3,
    /// Egress.
    Egress,
    /// The same, without an Ethernet header.
    EgressL3,
}

impl PacketProgram {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::PodIngress,
        Self::UplinkIngress,
        Self::UplinkIngressL3,
        Self::Egress,
        Self::EgressL3,
    ];

    /// Name in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PodIngress => "tc_pod_ingress",
            Self::UplinkIngress => "tc_uplink_ingress",
            Self::UplinkIngressL3 => "tc_uplink_ingress_l3",
            Self::Egress => "tc_egress",
            Self::EgressL3 => "tc_egress_l3",
        }
    }
}

/// Pause before a refused XDP program is loaded again: the verifier takes its time.
const XDP_PAUSE: Duration = Duration::from_mins(1);

/// Name of the XDP program in the object.
pub const XDP_PROGRAM: &str = "xdp_uplink_ingress";

const fn hook(name: &'static str, attach_type: AttachType) -> SocketHook {
    SocketHook { name, attach_type }
}

/// All socket hooks. Those that translate back come first, so that no socket is translated without them.
pub const SOCKET_HOOKS: [SocketHook; 9] = [
    hook("sock_release", AttachType::SockRelease),
    hook("getpeername4", AttachType::Getpeername4),
    hook("getpeername6", AttachType::Getpeername6),
    hook("recvmsg4", AttachType::Recvmsg4),
    hook("recvmsg6", AttachType::Recvmsg6),
    hook("sendmsg4", AttachType::Sendmsg4),
    hook("sendmsg6", AttachType::Sendmsg6),
    hook("connect4", AttachType::Connect4),
    hook("connect6", AttachType::Connect6),
];

impl ProgramName {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        SOCKET_HOOKS
            .into_iter()
            .map(Self::Socket)
            .chain(PacketProgram::ALL.into_iter().map(Self::Packet))
            .chain([Self::Xdp, Self::Clock])
    }

    /// Name in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Socket(hook) => hook.name,
            Self::Packet(program) => program.name(),
            Self::Xdp => XDP_PROGRAM,
            Self::Clock => "clock",
        }
    }
}

/// What depends on the kernel, told to the programs before they are verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// See [`probe::has_set_retval`](super::probe::has_set_retval).
    pub set_retval: bool,
}

/// The loaded programs.
#[derive(Debug)]
pub struct Programs {
    /// For what is loaded later.
    ebpf: Ebpf,
    /// When the kernel last refused the XDP program.
    xdp_refused: Option<Instant>,
    loaded: BTreeMap<ProgramName, Loaded>,
}

impl Programs {
    /// Loads all programs but XDP's over the maps pinned in `pins`, making and pinning those that are not there. What they tell by
    /// `log` goes to the log for as long as this process lives.
    pub fn load(pins: &PinFolder, features: Features, log: DatapathLog) -> Result<Self, LoadError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NoObject);
        }
        process::lift_memlock_limit();
        open::check_pinned(pins)?;
        let set_retval = u32::from(features.set_retval);
        let mut loader = EbpfLoader::new();
        loader.override_global("HAVE_SET_RETVAL", &set_retval, true);
        log.prepare(&mut loader);
        loader.default_map_pin_directory(pins.maps());
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|error| LoadError::Object(Box::new(error)))?;
        let mut all = BTreeMap::new();
        for program in ProgramName::all().filter(|program| *program != ProgramName::Xdp) {
            all.insert(program, load_one(&mut ebpf, program)?);
        }
        if let Err(error) = log.follow(&mut ebpf) {
            tracing::error!("{}", chain(&error));
        }
        Ok(Self {
            ebpf,
            xdp_refused: None,
            loaded: all,
        })
    }

    /// Loads the XDP program, if it is not: most nodes have no device for it.
    pub fn load_xdp(&mut self) -> Result<(), LoadError> {
        if self.loaded.contains_key(&ProgramName::Xdp) {
            return Ok(());
        }
        let refused = self.xdp_refused.map(|at| at.elapsed());
        if refused.is_some_and(|since| since < XDP_PAUSE) {
            return Err(LoadError::RefusedBefore(XDP_PROGRAM));
        }
        let program = load_one(&mut self.ebpf, ProgramName::Xdp)
            .inspect_err(|_| self.xdp_refused = Some(Instant::now()))?;
        self.loaded.insert(ProgramName::Xdp, program);
        Ok(())
    }

    /// The descriptor of a program.
    pub fn fd(&self, program: ProgramName) -> Result<BorrowedFd<'_>, LoadError> {
        Ok(self.get(program)?.fd.as_fd())
    }

    /// The kernel's number of a program.
    pub fn id(&self, program: ProgramName) -> Result<u32, LoadError> {
        Ok(self.get(program)?.id)
    }

    fn get(&self, program: ProgramName) -> Result<&Loaded, LoadError> {
        self.loaded
            .get(&program)
            .ok_or(LoadError::Missing(program.name()))
    }
}

/// A program in the kernel.
#[derive(Debug)]
struct Loaded {
    fd: OwnedFd,
    id: u32,
}

fn load_one(ebpf: &mut Ebpf, program: ProgramName) -> Result<Loaded, LoadError> {
    let name = program.name();
    let missing = || LoadError::Missing(name);
    let refused = |source| LoadError::Refused {
        name,
        source: Box::new(source),
    };
    let found = ebpf.program_mut(name).ok_or_else(missing)?;
    let fd: Result<&ProgramFd, ProgramError> = match program {
        ProgramName::Socket(hook) if hook.attach_type == AttachType::SockRelease => {
            let found: &mut CgroupSock = found.try_into().map_err(|_| missing())?;
            undisturbed(|| found.load(), was_disturbed).and_then(|()| found.fd())
        }
        ProgramName::Socket(_) => {
            let found: &mut CgroupSockAddr = found.try_into().map_err(|_| missing())?;
            undisturbed(|| found.load(), was_disturbed).and_then(|()| found.fd())
        }
        ProgramName::Xdp => {
            let found: &mut Xdp = found.try_into().map_err(|_| missing())?;
            undisturbed(|| found.load(), was_disturbed).and_then(|()| found.fd())
        }
        ProgramName::Packet(_) | ProgramName::Clock => {
            let found: &mut SchedClassifier = found.try_into().map_err(|_| missing())?;
            undisturbed(|| found.load(), was_disturbed).and_then(|()| found.fd())
        }
    };
    let fd = fd.map_err(refused)?.as_fd();
    let own = || {
        let info: ProgramInfo = object::info(fd)?;
        let fd = fd.try_clone_to_owned()?;
        std::io::Result::Ok(Loaded { fd, id: info.id })
    };
    own().map_err(|error| refused(ProgramError::IOError(error)))
}

/// How often a program is loaded at most, as by libbpf.
const ATTEMPTS: u32 = 5;

/// Loads a program, and again where it was disturbed.
fn undisturbed<E>(
    mut load: impl FnMut() -> Result<(), E>,
    was_disturbed: impl Fn(&E) -> bool,
) -> Result<(), E> {
    for _ in 1..ATTEMPTS {
        match load() {
            Err(error) if was_disturbed(&error) => {}
            done => return done,
        }
    }
    load()
}

/// The verifier gives up where a signal waits for the thread (`EAGAIN`; kernel commit c3494801cd17).
fn was_disturbed(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. } if io_error.kind() == ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads with these errors one after the other, and then without; gives the result and how often it was tried.
    fn load(errors: &[ErrorKind]) -> (Result<(), ErrorKind>, usize) {
        let mut tried = 0;
        let result = undisturbed(
            || {
                tried += 1;
                errors.get(tried - 1).map_or(Ok(()), |error| Err(*error))
            },
            |error| *error == ErrorKind::WouldBlock,
        );
        (result, tried)
    }

    #[test]
    fn a_load_that_a_signal_disturbed_is_tried_again() {
        const DISTURBED: ErrorKind = ErrorKind::WouldBlock;
        assert_eq!(load(&[]), (Ok(()), 1));
        assert_eq!(load(&[DISTURBED; 2]), (Ok(()), 3));
        assert_eq!(load(&[DISTURBED; 9]), (Err(DISTURBED), 5));
        let refused = ErrorKind::PermissionDenied;
        assert_eq!(load(&[DISTURBED, refused]), (Err(refused), 2));
    }
}
