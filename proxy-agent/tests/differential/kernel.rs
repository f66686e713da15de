//! The embedded object, loaded with maps of its own.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use proxy_agent::dataplane::{
    load::{OBJECT, PacketProgram, SOCKET_HOOKS, XDP_PROGRAM},
    log::DatapathLog,
    sys::program::{TestRun, TestSkb, TestXdp, test_run, test_run_on, test_run_xdp},
};

use crate::{maps::KernelMaps, services::Crowding};

/// The programs, and the maps they work on.
pub struct Object {
    programs: BTreeMap<PacketProgram, OwnedFd>,
    xdp: OwnedFd,
    clock: OwnedFd,
    /// What the verifier said of them.
    pub verified: Vec<Verified>,
    pub maps: KernelMaps,
}

impl Object {
    /// Loads the packet programs; their maps are pinned in a folder.
    pub fn load(pins: &Path, crowding: Crowding) -> Result<Self, aya::EbpfError> {
        let mut loader = EbpfLoader::new();
        loader
            .override_global("HAVE_SET_RETVAL", &1u32, true)
            .default_map_pin_directory(pins);
        DatapathLog::Off.prepare(&mut loader);
        if let Some(entries) = crowding.entries() {
            loader
                .map_max_entries("FLOWS", entries)
                .map_max_entries("SNAT_CLAIMS", entries);
        }
        let mut ebpf = loader.load(OBJECT)?;
        let mut programs = BTreeMap::new();
        let mut verified = Vec::new();
        for program in PacketProgram::ALL {
            let (fd, said) = load_one(&mut ebpf, program.name())?;
            programs.insert(program, fd);
            verified.push(said);
        }
        let (xdp, said) = load_one(&mut ebpf, XDP_PROGRAM)?;
        verified.push(said);
        Ok(Self {
            programs,
            xdp,
            clock: load_one(&mut ebpf, "clock")?.0,
            verified,
            maps: KernelMaps::open(pins),
        })
    }

    /// The kernel's clock: jiffies, low 32 bits.
    pub fn now(&self) -> u32 {
        let run = test_run(&self.clock, &[0; 64], 1).expect("the clock");
        u32::from_ne_bytes(run.packet[..4].try_into().expect("four bytes"))
    }

    /// Runs a program.
    pub fn run(
        &self,
        program: PacketProgram,
        frame: &[u8],
        skb: &TestSkb,
        repeat: u32,
    ) -> std::io::Result<TestRun> {
        test_run_on(&self.programs[&program], frame, skb, repeat)
    }

    /// The XDP program.
    pub const fn xdp(&self) -> &OwnedFd {
        &self.xdp
    }

    /// Runs the XDP program on a frame that came in by a device.
    pub fn run_xdp(&self, ifindex: u32, frame: &[u8], repeat: u32) -> std::io::Result<TestRun> {
        test_run_xdp(&self.xdp, frame, &TestXdp { ifindex }, repeat)
    }
}

/// What the verifier said of a program.
pub struct Verified {
    pub name: &'static str,
    pub instructions: u32,
    pub machine_code: u32,
    pub time: Duration,
}

/// Loads every socket program by itself and asks how long that took.
pub fn verify_sockets(pins: &Path) -> Result<Vec<Verified>, aya::EbpfError> {
    let mut loader = EbpfLoader::new();
    loader
        .override_global("HAVE_SET_RETVAL", &1u32, true)
        .default_map_pin_directory(pins);
    DatapathLog::Off.prepare(&mut loader);
    let mut ebpf = loader.load(OBJECT)?;
    let all = SOCKET_HOOKS.iter();
    all.map(|hook| Ok(load_one(&mut ebpf, hook.name)?.1))
        .collect()
}

fn load_one(ebpf: &mut Ebpf, name: &'static str) -> Result<(OwnedFd, Verified), ProgramError> {
    let program = ebpf.program_mut(name).expect(name);
    let began = Instant::now();
    match program {
        Program::SchedClassifier(program) => program.load()?,
        Program::Xdp(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        Program::CgroupSock(program) => program.load()?,
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    let time = began.elapsed();
    let info = program.info()?;
    let verified = Verified {
        name,
        instructions: info.verified_instruction_count().unwrap_or(0),
        machine_code: info.size_jitted(),
        time,
    };
    let fd = program.fd()?.as_fd().try_clone_to_owned();
    Ok((fd.expect("a descriptor"), verified))
}
