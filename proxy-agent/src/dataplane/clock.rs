//! The clock of the flow tables: jiffies, read by running a program.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    thread,
    time::Duration,
};

use super::{
    load::{LoadError, ProgramName, Programs},
    sys::{process, program},
};

/// Values of `CONFIG_HZ` (kernel/Kconfig.hz).
const FREQUENCIES: [u32; 4] = [100, 250, 300, 1000];

/// How long the clock is watched between two of its ticks.
const WATCHED: Duration = Duration::from_millis(30);

/// How often measuring is tried, each time for longer, before an odd frequency is believed.
const TRIES: u32 = 4;

/// How far from a frequency the measured one may be, in percent: the nearest two, 250 and 300, are 20 apart.
const TOLERANCE: u32 = 5;

/// A tick that does not come in this time never comes.
const NO_TICK: Duration = Duration::from_secs(1);

/// Bytes of the smallest frame that a test run takes (`ETH_HLEN`).
const FRAME: [u8; 14] = [0; 14];

/// Why the clock could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// The program is not there.
    #[error(transparent)]
    Program(#[from] LoadError),
    /// The kernel refused the program, or to run it.
    #[error("could not {action} the program that reads the kernel's clock")]
    Run {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It does not tick.
    #[error("the kernel's clock (jiffies) stood still for {NO_TICK:?}")]
    Still,
    /// It ticks at no known frequency.
    #[error(
        "the kernel's clock seems to tick {0} times a second, which is no value of CONFIG_HZ ({FREQUENCIES:?}): \
         is this machine suspended or overloaded? try again"
    )]
    Frequency(u32),
}

/// Reads jiffies as the programs do.
#[derive(Debug)]
pub struct Clock {
    program: OwnedFd,
    hz: u32,
}

impl Clock {
    /// A clock by the loaded object's own program. Takes about 50 ms, in which the frequency is measured.
    pub fn new(programs: &Programs) -> Result<Self, ClockError> {
        let program = programs
            .fd(ProgramName::Clock)?
            .try_clone_to_owned()
            .map_err(failed("keep"))?;
        Self::measured(program)
    }

    /// A clock without the object, for when no agent runs. Takes about 50 ms, as [`Self::new`].
    pub fn open() -> Result<Self, ClockError> {
        /// `BPF_PROG_TYPE_SCHED_CLS`.
        const SCHED_CLS: u32 = 3;
        /// The same as the object's program: jiffies over the first eight bytes of the packet.
        const PROGRAM: [u64; 10] = [
            0x0000_0000_0000_16bf, // r6 = r1
            0x0000_0076_0000_0085, // call bpf_jiffies64
            0x0000_0000_004c_6261, // r2 = skb->data
            0x0000_0000_0050_6361, // r3 = skb->data_end
            0x0000_0000_0000_24bf, // r4 = r2
            0x0000_0008_0000_0407, // r4 += 8
            0x0000_0000_0001_342d, // if r4 > r3 skip one
            0x0000_0000_0000_027b, // *(u64 *)r2 = r0
            0x0000_0000_0000_00b7, // r0 = 0
            0x0000_0000_0000_0095, // exit
        ];
        Self::measured(program::load(SCHED_CLS, 0, &PROGRAM).map_err(failed("load"))?)
    }

    fn measured(program: OwnedFd) -> Result<Self, ClockError> {
        let hz = measure(program.as_fd())?;
        Ok(Self { program, hz })
    }

    /// Jiffies, their low 32 bits. Takes some microseconds.
    pub fn now(&self) -> Result<u32, ClockError> {
        read(self.program.as_fd()).map(|jiffies| jiffies as u32)
    }

    /// Jiffies in a second (`CONFIG_HZ`).
    pub const fn hz(&self) -> u32 {
        self.hz
    }
}

const fn failed(action: &'static str) -> impl Fn(io::Error) -> ClockError {
    move |source| ClockError::Run { action, source }
}

fn read(program: BorrowedFd<'_>) -> Result<u64, ClockError> {
    let run = program::test_run(program, &FRAME, 1).map_err(failed("run"))?;
    run.packet
        .first_chunk()
        .map(|bytes| u64::from_ne_bytes(*bytes))
        .ok_or_else(|| failed("understand")(io::Error::from(io::ErrorKind::UnexpectedEof)))
}

fn measure(program: BorrowedFd<'_>) -> Result<u32, ClockError> {
    let mut measured = 0;
    for attempt in 1..=TRIES {
        measured = measure_once(program, WATCHED * attempt)?;
        if let Some(hz) = nearest(measured) {
            return Ok(hz);
        }
    }
    Err(ClockError::Frequency(measured))
}

/// Ticks per second, between two moments right after a tick.
fn measure_once(program: BorrowedFd<'_>, watched: Duration) -> Result<u32, ClockError> {
    let (first, start) = tick(program)?;
    thread::sleep(watched);
    let (last, end) = tick(program)?;
    let (ticks, nanoseconds) = (
        u128::from(last.wrapping_sub(first)),
        end.saturating_sub(start).as_nanos().max(1),
    );
    let per_second = (ticks * 1_000_000_000 + nanoseconds / 2) / nanoseconds;
    Ok(u32::try_from(per_second).unwrap_or(u32::MAX))
}

/// Waits for a tick; gives the jiffies after it, and when that was.
fn tick(program: BorrowedFd<'_>) -> Result<(u64, Duration), ClockError> {
    let before = read(program)?;
    let patience = process::monotonic() + NO_TICK;
    loop {
        let (now, at) = (read(program)?, process::monotonic());
        if now != before {
            return Ok((now, at));
        }
        if at > patience {
            return Err(ClockError::Still);
        }
    }
}

/// The frequency that a measured one stands for.
fn nearest(measured: u32) -> Option<u32> {
    FREQUENCIES
        .into_iter()
        .find(|hz| measured.abs_diff(*hz).saturating_mul(100) <= hz * TOLERANCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_frequencies_snap_to_those_that_there_are() {
        for (measured, hz) in [
            (99, Some(100)),
            (251, Some(250)),
            (262, Some(250)),
            (275, None),
            (297, Some(300)),
            (990, Some(1000)),
            (0, None),
            (u32::MAX, None),
        ] {
            assert_eq!(nearest(measured), hz, "{measured}");
        }
    }
}
