//! Programs: test runs, and loading the few instructions of a probe.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use zerocopy::{FromBytes, IntoBytes};

use super::{Command, address_of, address_of_mut, bpf, owned, process};

#[derive(Default, FromBytes, IntoBytes)]
#[repr(C)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// What a test run gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// Value that the program returned.
    pub verdict: u32,
    /// The packet as the program left it.
    pub packet: Vec<u8>,
    /// The packet's mark as the program left it.
    pub mark: u32,
    /// Nanoseconds that one run took on average.
    pub nanoseconds: u32,
}

/// Room that a program may grow a packet by.
const HEADROOM: usize = 256;

/// Runs a packet program on a frame, `repeat` times.
pub fn test_run(program: impl AsFd, frame: &[u8], repeat: u32) -> io::Result<TestRun> {
    test_run_on(program, frame, &TestSkb::default(), repeat)
}

/// What a test run says of the packet beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TestSkb {
    /// Device of the caller's network namespace that the packet is on; 0: the loopback device.
    pub ifindex: u32,
    /// Its mark.
    pub mark: u32,
    /// Bytes that are linear; 0: all. Not every kernel's test run can cut a packet: `EINVAL`.
    pub linear: u32,
    /// `gso_size`; 0: not to be cut.
    pub segment: u32,
    /// Whether the device has summed up the packet (`CHECKSUM_COMPLETE`): the run then fails with `EBADMSG` where the
    /// program leaves a sum that is wrong. Kernels that do not know this say `EINVAL`.
    pub summed: bool,
}

/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE`
const SKB_CHECKSUM_COMPLETE: u32 = 1 << 2;

/// `struct __sk_buff`, as words; offsets in words of the fields that a test run may be given.
type SkBuff = [u32; 48];
const MARK: usize = 2;
const IFINDEX: usize = 10;
const DATA_END: usize = 20;
const GSO_SIZE: usize = 44;

/// Runs a packet program on a frame of which more is said than its bytes, `repeat` times.
pub fn test_run_on(
    program: impl AsFd,
    frame: &[u8],
    about: &TestSkb,
    repeat: u32,
) -> io::Result<TestRun> {
    let mut context: SkBuff = [0; 48];
    let mut after: SkBuff = [0; 48];
    context[MARK] = about.mark;
    context[IFINDEX] = about.ifindex;
    context[DATA_END] = about.linear;
    context[GSO_SIZE] = about.segment;
    let plain = *about == TestSkb::default();
    let context = if plain { &[][..] } else { context.as_bytes() };
    let flags = if about.summed {
        SKB_CHECKSUM_COMPLETE
    } else {
        0
    };
    let run = run(program, frame, context, after.as_mut_bytes(), repeat, flags)?;
    Ok(TestRun {
        mark: after[MARK],
        ..run
    })
}

/// What a test run says of an XDP frame beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TestXdp {
    /// Device of the caller's network namespace that the frame came in by; 0: the loopback device.
    pub ifindex: u32,
}

/// `struct xdp_md`, as words; offsets in words of the fields that a test run may be given. The queue is the first.
type XdpMd = [u32; 6];
const XDP_DATA_END: usize = 1;
const XDP_IFINDEX: usize = 3;

fn xdp_context(frame: &[u8], about: TestXdp) -> io::Result<XdpMd> {
    let mut context: XdpMd = [0; 6];
    context[XDP_DATA_END] = u32::try_from(frame.len()).map_err(io::Error::other)?;
    context[XDP_IFINDEX] = about.ifindex;
    Ok(context)
}

/// Runs an XDP program on a frame, `repeat` times.
pub fn test_run_xdp(
    program: impl AsFd,
    frame: &[u8],
    about: &TestXdp,
    repeat: u32,
) -> io::Result<TestRun> {
    let context = xdp_context(frame, *about)?;
    run(program, frame, context.as_bytes(), &mut [], repeat, 0)
}

/// `BPF_F_TEST_XDP_LIVE_FRAMES`
const XDP_LIVE_FRAMES: u32 = 1 << 1;

/// Runs an XDP program on `repeat` frames that are sent where it says: `XDP_TX` is out by the device, `XDP_PASS` in by it
/// (Linux 5.18). A frame that comes around again is as the program left it. Returns nanoseconds for a frame, with all that
/// became of it on this processor at once.
pub fn run_xdp_live(
    program: impl AsFd,
    frame: &[u8],
    about: &TestXdp,
    repeat: u32,
) -> io::Result<u32> {
    let context = xdp_context(frame, *about)?;
    let mut attr = TestRunAttr {
        prog_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data_in: address_of(frame),
        repeat,
        ctx_size_in: u32::try_from(size_of::<XdpMd>()).map_err(io::Error::other)?,
        ctx_in: address_of(context.as_bytes()),
        flags: XDP_LIVE_FRAMES,
        ..TestRunAttr::default()
    };
    // SAFETY: the frame and the context have the sizes given and live until after the call; it gives nothing back.
    unsafe { bpf(Command::ProgTestRun, &mut attr) }?;
    Ok(attr.duration)
}

fn run(
    program: impl AsFd,
    frame: &[u8],
    context: &[u8],
    context_after: &mut [u8],
    repeat: u32,
    flags: u32,
) -> io::Result<TestRun> {
    let mut packet = vec![0; frame.len() + HEADROOM];
    let mut attr = TestRunAttr {
        prog_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data_size_out: u32::try_from(packet.len()).map_err(io::Error::other)?,
        data_in: address_of(frame),
        data_out: address_of_mut(&mut packet),
        repeat,
        flags,
        ..TestRunAttr::default()
    };
    if !context.is_empty() {
        attr.ctx_size_in = u32::try_from(context.len()).map_err(io::Error::other)?;
        attr.ctx_in = address_of(context);
    }
    if !context_after.is_empty() {
        attr.ctx_size_out = u32::try_from(context_after.len()).map_err(io::Error::other)?;
        attr.ctx_out = address_of_mut(context_after);
    }
    // SAFETY: all buffers have the sizes given and live until after the call.
    unsafe { bpf(Command::ProgTestRun, &mut attr) }?;
    packet.truncate(attr.data_size_out as usize);
    Ok(TestRun {
        verdict: attr.retval,
        packet,
        mark: 0,
        nanoseconds: attr.duration,
    })
}

#[derive(Default, FromBytes, IntoBytes)]
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// Loads a program given as instructions (`struct bpf_insn`), for probing what this kernel accepts.
pub fn load(prog_type: u32, attach_type: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    process::lift_memlock_limit();
    let mut attr = LoadAttr {
        prog_type,
        insn_cnt: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        insns: address_of(instructions.as_bytes()),
        license: address_of(b"Dual MIT/GPL\0"),
        expected_attach_type: attach_type,
        ..LoadAttr::default()
    };
    // SAFETY: the instructions and the terminated license live until after the call; no log is asked for.
    owned(unsafe { bpf(Command::ProgLoad, &mut attr) }?)
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::{Resource::RLIMIT_MEMLOCK, getrlimit, setrlimit};

    use super::{super::super::probe, *};

    /// Before Linux 5.11 a probe fails where the limit holds: the maps of an earlier run count against it.
    #[test]
    fn the_limit_on_locked_memory_is_lifted_before_a_program_is_loaded() {
        const SMALL: u64 = 1 << 16;
        let (_, most) = getrlimit(RLIMIT_MEMLOCK).unwrap();
        assert!(most > SMALL, "this process may lock next to nothing");
        let loads: [fn(); 2] = [
            || drop(probe::has_set_retval()),
            // Whatever the kernel says to no instructions at all.
            || drop(load(0, 0, &[])),
        ];
        for load in loads {
            setrlimit(RLIMIT_MEMLOCK, SMALL, most).unwrap();
            load();
            let (limit, _) = getrlimit(RLIMIT_MEMLOCK).unwrap();
            assert!(limit >= most, "{limit}");
        }
    }
}
