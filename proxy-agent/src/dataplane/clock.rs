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

/// How long the clock is watched at first, and twice as long each time that this does not tell two frequencies apart.
const WATCHED: Duration = Duration::from_millis(100);

/// How often the clock is looked at before an odd frequency is believed.
const LOOKS: u32 = 6;

/// How many ticks the clock may be behind or ahead: one that has only begun, and one that comes late.
const SLACK: f64 = 2.0;

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
    /// It ticks at no known frequency.
    #[error(
        "the kernel's clock has ticked {ticks} times in {watched:?}, which is as no value of CONFIG_HZ would have it \
         ({FREQUENCIES:?}): is this machine suspended or overloaded? try again"
    )]
    Frequency {
        /// Ticks counted.
        ticks: u64,
        /// In this time.
        watched: Duration,
    },
}

/// Reads jiffies as the programs do.
#[derive(Debug)]
pub struct Clock {
    program: OwnedFd,
    hz: u32,
}

impl Clock {
    /// A clock by the loaded object's own program. Takes a tenth of a second, in which the frequency is measured.
    pub fn new(programs: &Programs) -> Result<Self, ClockError> {
        let program = programs
            .fd(ProgramName::Clock)?
            .try_clone_to_owned()
            .map_err(failed("keep"))?;
        Self::measured(program)
    }

    /// A clock without the object, for when no agent runs. Takes as long as [`Self::new`].
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

/// The frequency: the only one that explains the ticks between two readings.
fn measure(program: BorrowedFd<'_>) -> Result<u32, ClockError> {
    let first = Reading::take(program)?;
    let mut last = first;
    for look in 0..LOOKS {
        let until = first.after + WATCHED * 2_u32.pow(look);
        thread::sleep(until.saturating_sub(process::monotonic()));
        last = Reading::take(program)?;
        if let Some(hz) = frequency(&first, &last) {
            return Ok(hz);
        }
    }
    Err(ClockError::Frequency {
        ticks: last.jiffies.wrapping_sub(first.jiffies),
        watched: last.before.saturating_sub(first.after),
    })
}

/// Jiffies, and between when they were read: this thread may have had to wait in the middle.
#[derive(Clone, Copy, Debug)]
struct Reading {
    before: Duration,
    jiffies: u64,
    after: Duration,
}

impl Reading {
    fn take(program: BorrowedFd<'_>) -> Result<Self, ClockError> {
        Ok(Self {
            before: process::monotonic(),
            jiffies: read(program)?,
            after: process::monotonic(),
        })
    }
}

/// The frequency that explains two readings, if no other does.
fn frequency(first: &Reading, last: &Reading) -> Option<u32> {
    let shortest = last.before.saturating_sub(first.after).as_secs_f64();
    let longest = last.after.saturating_sub(first.before).as_secs_f64();
    let ticks = f64::from(u32::try_from(last.jiffies.wrapping_sub(first.jiffies)).ok()?);
    let mut possible = FREQUENCIES.into_iter().filter(|hz| {
        let hz = f64::from(*hz);
        hz * shortest <= ticks + SLACK && ticks <= hz * longest + SLACK
    });
    possible.next().filter(|_| possible.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(jiffies: u64, before: u64, after: u64) -> Reading {
        Reading {
            before: Duration::from_millis(before),
            jiffies,
            after: Duration::from_millis(after),
        }
    }

    #[test]
    fn the_only_frequency_that_explains_the_readings_is_taken() {
        let first = reading(1_000, 0, 0);
        for (ticks, before, after, hz) in [
            (10, 100, 100, Some(100)),
            (25, 100, 100, Some(250)),
            (27, 100, 100, Some(250)),
            (30, 100, 100, Some(300)),
            (29, 100, 100, Some(300)),
            (100, 100, 100, Some(1000)),
            // Too short to tell.
            (8, 30, 30, None),
            // This thread had to wait for 50 ms, before or after the clock was read.
            (25, 70, 120, None),
            (50, 200, 220, Some(250)),
            // None of these.
            (50, 100, 100, None),
            (0, 1000, 1000, None),
        ] {
            let last = reading(1_000 + ticks, before, after);
            assert_eq!(frequency(&first, &last), hz, "{ticks} {before} {after}");
        }
    }
}
