//! Small XDP programs: a generator, a sink, and forwarding with nothing else.

use std::io;
use std::os::fd::OwnedFd;

use proxy_agent::dataplane::sys::program;

/// `BPF_PROG_TYPE_XDP` and `BPF_XDP`.
const XDP_TYPE: u32 = 6;
const XDP_ATTACH: u32 = 37;

const DROP: i32 = 1;
const PASS: i32 = 2;
const TX: i32 = 3;

/// Offsets in `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const INGRESS_IFINDEX: i16 = 12;

/// Offsets in an IPv4 frame without options.
const ETHERTYPE: i16 = 12;
const TTL: i16 = 22;
const PROTOCOL: i16 = 23;
const CHECKSUM: i16 = 24;
const SOURCE: i16 = 26;
const DESTINATION: i16 = 30;
const SOURCE_PORT: i16 = 34;

/// `ETH_P_IP` as a little-endian machine reads it.
const IPV4: i32 = 0x0008;
const UDP: i32 = 17;

const GET_PRANDOM_U32: i32 = 7;
const REDIRECT: i32 = 23;
const FIB_LOOKUP: i32 = 69;

/// Classes and modes of instructions (`linux/bpf_common.h`, `linux/bpf.h`).
mod op {
    pub const LOAD_WORD: u8 = 0x61;
    pub const LOAD_HALF: u8 = 0x69;
    pub const LOAD_BYTE: u8 = 0x71;
    pub const STORE_WORD: u8 = 0x63;
    pub const STORE_HALF: u8 = 0x6b;
    pub const STORE_BYTE: u8 = 0x73;
    pub const STORE_WORD_IMMEDIATE: u8 = 0x62;
    pub const STORE_BYTE_IMMEDIATE: u8 = 0x72;
    pub const STORE_LONG_IMMEDIATE: u8 = 0x7a;
    pub const MOVE: u8 = 0xbf;
    pub const MOVE_IMMEDIATE: u8 = 0xb7;
    pub const ADD: u8 = 0x0f;
    pub const ADD_IMMEDIATE: u8 = 0x07;
    pub const SHIFT_RIGHT_IMMEDIATE: u8 = 0x77;
    pub const JUMP_GREATER: u8 = 0x2d;
    pub const JUMP_NOT_EQUAL_IMMEDIATE: u8 = 0x55;
    pub const JUMP_NOT_GREATER_IMMEDIATE: u8 = 0xb5;
    pub const CALL: u8 = 0x85;
    pub const EXIT: u8 = 0x95;
}

/// An instruction (`struct bpf_insn`).
fn i(op: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = immediate.to_le_bytes();
    u64::from_le_bytes([op, from << 4 | to, low, high, a, b, c, d])
}

/// Instructions, and jumps to their last two: `r0 = verdict; exit`.
struct Code {
    lines: Vec<u64>,
    to_end: Vec<usize>,
}

impl Code {
    /// With the context in r6 and, where the frame is at least this long, its beginning in r7.
    fn of_frame(length: usize) -> Self {
        let length = i32::try_from(length).expect("a frame's length");
        let mut code = Self {
            lines: vec![
                i(op::MOVE, 6, 1, 0, 0),
                i(op::LOAD_WORD, 7, 6, DATA, 0),
                i(op::LOAD_WORD, 3, 6, DATA_END, 0),
                i(op::MOVE, 2, 7, 0, 0),
                i(op::ADD_IMMEDIATE, 2, 0, 0, length),
            ],
            to_end: Vec::new(),
        };
        code.or_end(op::JUMP_GREATER, 2, 3, 0);
        code
    }

    /// As `of_frame`, for datagrams of IPv4.
    fn of_datagrams() -> Self {
        let mut code = Self::of_frame(SOURCE_PORT as usize);
        code.line(op::LOAD_HALF, 1, 7, ETHERTYPE, 0);
        code.or_end(op::JUMP_NOT_EQUAL_IMMEDIATE, 1, 0, IPV4);
        code.line(op::LOAD_BYTE, 1, 7, PROTOCOL, 0);
        code.or_end(op::JUMP_NOT_EQUAL_IMMEDIATE, 1, 0, UDP);
        code
    }

    fn line(&mut self, op: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        self.lines.push(i(op, to, from, offset, immediate));
    }

    /// A jump to the end.
    fn or_end(&mut self, op: u8, to: u8, from: u8, immediate: i32) {
        self.to_end.push(self.lines.len());
        self.line(op, to, from, 0, immediate);
    }

    fn end(mut self, verdict: i32) -> io::Result<OwnedFd> {
        let end = self.lines.len();
        for jump in self.to_end {
            let distance = u64::try_from(end - jump - 1).expect("a short program");
            self.lines[jump] |= distance << 16;
        }
        self.lines.extend([
            i(op::MOVE_IMMEDIATE, 0, 0, 0, verdict),
            i(op::EXIT, 0, 0, 0, 0),
        ]);
        program::load(XDP_TYPE, XDP_ATTACH, &self.lines)
    }
}

/// Program that replaces each frame by this one, with one of 256 source ports, and transmits it. The
/// frame's length must be a multiple of the word size.
pub fn generator(frame: &[u8]) -> io::Result<OwnedFd> {
    let mut code = Code::of_frame(frame.len());
    code.line(op::CALL, 0, 0, 0, GET_PRANDOM_U32);
    let (words, rest) = frame.as_chunks::<4>();
    assert!(rest.is_empty(), "a frame of whole words");
    for (offset, word) in (0..).step_by(4).zip(words) {
        let word = i32::from_le_bytes(*word);
        code.line(op::STORE_WORD_IMMEDIATE, 7, 0, offset, word);
    }
    code.line(op::STORE_BYTE, 7, 0, SOURCE_PORT + 1, 0);
    code.end(TX)
}

/// Sends every datagram of IPv4 back by the device that it came in by.
pub fn reflector() -> io::Result<OwnedFd> {
    let mut code = Code::of_datagrams();
    code.line(op::LOAD_WORD, 1, 6, INGRESS_IFINDEX, 0);
    code.line(op::MOVE_IMMEDIATE, 2, 0, 0, 0);
    code.line(op::CALL, 0, 0, 0, REDIRECT);
    code.line(op::EXIT, 0, 0, 0, 0);
    code.end(PASS)
}

/// Drops all datagrams of IPv4.
pub fn sink() -> io::Result<OwnedFd> {
    let mut code = Code::of_datagrams();
    code.line(op::MOVE_IMMEDIATE, 0, 0, 0, DROP);
    code.line(op::EXIT, 0, 0, 0, 0);
    code.end(PASS)
}

/// Sends datagrams of IPv4 on by the kernel's routes (`bpf_fib_lookup`), with hop limit and MAC addresses as a router does.
pub fn forwarder() -> io::Result<OwnedFd> {
    // `struct bpf_fib_lookup` on the stack, and what of it is used.
    const LOOKUP: i16 = -64;
    const FAMILY: i16 = LOOKUP;
    const IFINDEX: i16 = LOOKUP + 8;
    const FROM: i16 = LOOKUP + 16;
    const TO: i16 = LOOKUP + 32;
    const OWN_MAC: i16 = LOOKUP + 52;
    const NEXT_MAC: i16 = LOOKUP + 58;
    const AF_INET: i32 = 2;

    let mut code = Code::of_datagrams();
    for offset in (LOOKUP..0).step_by(8) {
        code.line(op::STORE_LONG_IMMEDIATE, 10, 0, offset, 0);
    }
    code.line(op::STORE_BYTE_IMMEDIATE, 10, 0, FAMILY, AF_INET);
    for (field, base, offset) in [
        (IFINDEX, 6, INGRESS_IFINDEX),
        (FROM, 7, SOURCE),
        (TO, 7, DESTINATION),
    ] {
        code.line(op::LOAD_WORD, 1, base, offset, 0);
        code.line(op::STORE_WORD, 10, 1, field, 0);
    }
    code.line(op::MOVE, 1, 6, 0, 0);
    code.line(op::MOVE, 2, 10, 0, 0);
    code.line(op::ADD_IMMEDIATE, 2, 0, 0, LOOKUP.into());
    code.line(op::MOVE_IMMEDIATE, 3, 0, 0, 64);
    code.line(op::MOVE_IMMEDIATE, 4, 0, 0, 0);
    code.line(op::CALL, 0, 0, 0, FIB_LOOKUP);
    code.or_end(op::JUMP_NOT_EQUAL_IMMEDIATE, 0, 0, 0);

    code.line(op::LOAD_BYTE, 1, 7, TTL, 0);
    code.or_end(op::JUMP_NOT_GREATER_IMMEDIATE, 1, 0, 1);
    code.line(op::ADD_IMMEDIATE, 1, 0, 0, -1);
    code.line(op::STORE_BYTE, 7, 1, TTL, 0);
    // One off the first byte of a word is one added to that of the sum, whose carry comes back in.
    code.line(op::LOAD_HALF, 1, 7, CHECKSUM, 0);
    code.line(op::ADD_IMMEDIATE, 1, 0, 0, 1);
    code.line(op::MOVE, 2, 1, 0, 0);
    code.line(op::SHIFT_RIGHT_IMMEDIATE, 2, 0, 0, 16);
    code.line(op::ADD, 1, 2, 0, 0);
    code.line(op::STORE_HALF, 7, 1, CHECKSUM, 0);
    for (offset, mac) in [(0, NEXT_MAC), (6, OWN_MAC)] {
        for part in [0, 2, 4] {
            code.line(op::LOAD_HALF, 1, 10, mac + part, 0);
            code.line(op::STORE_HALF, 7, 1, offset + part, 0);
        }
    }
    code.line(op::LOAD_WORD, 1, 10, IFINDEX, 0);
    code.line(op::MOVE_IMMEDIATE, 2, 0, 0, 0);
    code.line(op::CALL, 0, 0, 0, REDIRECT);
    code.line(op::EXIT, 0, 0, 0, 0);
    code.end(PASS)
}
