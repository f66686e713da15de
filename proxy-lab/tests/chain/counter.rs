//! A program that counts the frames of one sender and lets everything go on. It is written down instruction by instruction,
//! so that it owes nothing to the code under test.

use std::io::Result;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use aya::maps::MapData;
use proxy_agent::dataplane::sys::link::{self, AttachType, Order};
use proxy_agent::dataplane::sys::map::{Checked, Map};
use proxy_agent::dataplane::sys::{object, program};
use proxy_common::abi::{TypedSpec, kind};

/// What a counter saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// A sum over their first bytes, in which each frame's place counts for nothing and each byte's place for something.
    pub content: u64,
}

impl std::ops::Sub for Count {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            frames: self.frames - earlier.frames,
            bytes: self.bytes - earlier.bytes,
            content: self.content.wrapping_sub(earlier.content),
        }
    }
}

/// A loaded counter. It counts while a link or filter holds it.
#[derive(Debug)]
pub struct Counter {
    program: OwnedFd,
    counts: Map<u32, [u64; 3]>,
}

/// `BPF_PROG_TYPE_SCHED_CLS`, `BPF_MAP_TYPE_ARRAY` and `BPF_MAP_TYPE_LRU_HASH` (linux/bpf.h).
const SCHED_CLS: u32 = 3;
const ARRAY: u32 = 2;
const LRU_HASH: u32 = 9;

/// Frames, bytes and content, in one element.
const COUNTS: TypedSpec<kind::Array, u32, [u64; 3]> = TypedSpec::new("lab_counts", 1);

/// Loads a program that has a table of flows, as far as the agent can tell, and hands every packet to the next program.
pub fn stateful(table: &str) -> Result<OwnedFd> {
    let shape = aya_obj::Map::new_from_params(LRU_HASH, 4, 8, 16, 0);
    let data = MapData::create(shape, table, None).map_err(std::io::Error::other)?;
    let instructions = [
        op(LD_MAP, 1, 1, 0, data.fd().as_fd().as_raw_fd()),
        0,
        op(MOVE_NUMBER, 0, 0, 0, NEXT),
        op(EXIT, 0, 0, 0, 0),
    ];
    program::load(SCHED_CLS, 0, &instructions)
}

impl Counter {
    /// Loads a counter of the frames that have this source address.
    pub fn of(sender: [u8; 6]) -> Result<Self> {
        let shape = aya_obj::Map::new_from_params(ARRAY, 4, 24, 1, 0);
        let data = MapData::create(shape, "lab_counts", None).map_err(std::io::Error::other)?;
        let fd = data.fd().as_fd().try_clone_to_owned()?;
        let instructions = instructions(fd.as_raw_fd(), sender);
        Ok(Self {
            program: program::load(SCHED_CLS, 0, &instructions)?,
            counts: Map::new(Checked::new(fd, COUNTS).map_err(std::io::Error::other)?),
        })
    }

    /// What it has seen so far.
    pub fn count(&self) -> Result<Count> {
        let [frames, bytes, content] = self.counts.lookup(&0)?.unwrap_or_default();
        Ok(Count {
            frames,
            bytes,
            content,
        })
    }

    /// Puts it into the tcx chain of a device of the calling thread's network namespace.
    pub fn attach(&self, ifindex: u32, side: AttachType, order: Order) -> Result<OwnedFd> {
        link::attach_tcx(&self.program, ifindex, side, order)
    }

    /// Pins the program, so that `tc` can find it.
    pub fn pin(&self, path: &Path) -> Result<()> {
        object::pin(&self.program, path)
    }
}

// Registers: r0 result, r1–r5 arguments, r6–r9 kept over calls, r10 frame. Encoding: RFC 9669.
const LD_MAP: u8 = 0x18;
const LOAD_16: u8 = 0x69;
const LOAD_32: u8 = 0x61;
const STORE_32: u8 = 0x62;
const ATOMIC_ADD_64: u8 = 0xdb;
const MOVE: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const ADD: u8 = 0x0f;
const ADD_NUMBER: u8 = 0x07;
const MULTIPLY_NUMBER: u8 = 0x27;
const JUMP_IF_MORE: u8 = 0x2d;
const JUMP_IF_ZERO: u8 = 0x15;
const JUMP_IF_OTHER: u8 = 0x55;
const JUMP_32_IF_OTHER: u8 = 0x56;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

const MAP_LOOKUP_ELEM: i32 = 1;
const SKB_LOAD_BYTES: i32 = 26;
/// Offsets in `struct __sk_buff`.
const SKB_LEN: i16 = 0;
const SKB_DATA: i16 = 76;
const SKB_DATA_END: i16 = 80;
/// `TCX_NEXT`, `TC_ACT_UNSPEC`.
const NEXT: i32 = -1;

/// Bytes that are summed up.
const SUMMED: i32 = 64;

const fn op(code: u8, dst: u8, src: u8, offset: i16, number: i32) -> u64 {
    code as u64
        | (dst as u64) << 8
        | (src as u64) << 12
        | (offset.cast_unsigned() as u64) << 16
        | (number.cast_unsigned() as u64) << 32
}

/// The program. All jumps lead to its end, over a distance that is filled in at last.
fn instructions(map: i32, sender: [u8; 6]) -> Vec<u64> {
    let [a, b, c, d, e, f] = sender;
    let mut code = vec![
        op(MOVE, 6, 1, 0, 0),
        // The Ethernet header, and its source.
        op(LOAD_32, 2, 6, SKB_DATA, 0),
        op(LOAD_32, 3, 6, SKB_DATA_END, 0),
        op(MOVE, 4, 2, 0, 0),
        op(ADD_NUMBER, 4, 0, 0, 14),
        op(JUMP_IF_MORE, 4, 3, 0, 0),
        op(LOAD_32, 4, 2, 6, 0),
        op(JUMP_32_IF_OTHER, 4, 0, 0, i32::from_le_bytes([a, b, c, d])),
        op(LOAD_16, 4, 2, 10, 0),
        op(
            JUMP_IF_OTHER,
            4,
            0,
            0,
            i32::from(u16::from_le_bytes([e, f])),
        ),
        // r7: the sum of the content.
        op(MOVE_NUMBER, 7, 0, 0, 0),
    ];
    for at in (0..SUMMED).step_by(4) {
        // What is beyond the end counts as zero.
        code.extend([
            op(STORE_32, 10, 0, -8, 0),
            op(MOVE, 1, 6, 0, 0),
            op(MOVE_NUMBER, 2, 0, 0, at),
            op(MOVE, 3, 10, 0, 0),
            op(ADD_NUMBER, 3, 0, 0, -8),
            op(MOVE_NUMBER, 4, 0, 0, 4),
            op(CALL, 0, 0, 0, SKB_LOAD_BYTES),
            op(LOAD_32, 1, 10, -8, 0),
            op(MULTIPLY_NUMBER, 7, 0, 0, 31),
            op(ADD, 7, 1, 0, 0),
        ]);
    }
    code.extend([
        op(STORE_32, 10, 0, -4, 0),
        op(MOVE, 2, 10, 0, 0),
        op(ADD_NUMBER, 2, 0, 0, -4),
        // The source register marks the number as a map's descriptor (BPF_PSEUDO_MAP_FD).
        op(LD_MAP, 1, 1, 0, map),
        0,
        op(CALL, 0, 0, 0, MAP_LOOKUP_ELEM),
        op(JUMP_IF_ZERO, 0, 0, 0, 0),
        op(MOVE_NUMBER, 1, 0, 0, 1),
        op(ATOMIC_ADD_64, 0, 1, 0, 0),
        op(LOAD_32, 1, 6, SKB_LEN, 0),
        op(ATOMIC_ADD_64, 0, 1, 8, 0),
        op(ATOMIC_ADD_64, 0, 7, 16, 0),
    ]);
    let end = code.len();
    for (at, instruction) in code.iter_mut().enumerate() {
        let jumps = [JUMP_IF_MORE, JUMP_32_IF_OTHER, JUMP_IF_OTHER, JUMP_IF_ZERO];
        if jumps.contains(&(*instruction as u8)) {
            *instruction |= ((end - at - 1) as u64) << 16;
        }
    }
    code.extend([op(MOVE_NUMBER, 0, 0, 0, NEXT), op(EXIT, 0, 0, 0, 0)]);
    code
}
