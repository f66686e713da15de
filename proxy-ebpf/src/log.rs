//! What the datapath says of single packets and sockets, for `--datapath-log`. The level is set when the programs are loaded: the
//! verifier removes what is not asked for.
//!
//! A message is numbers and addresses with blanks between, as the agent's `dataplane::log` reads them: a `Counter`, the
//! protocol, source and destination, and for what was translated the backend.

use aya_log_ebpf::{
    debug, info,
    macro_support::{Level, level_enabled},
};
use proxy_common::{abi::counter::Counter, addr::Addr, socket::Socket};
use zerocopy::network_endian::U16;

use crate::maps::WORK;

/// Whether what is lost is told of.
#[inline(always)]
pub fn drops() -> bool {
    level_enabled(Level::Info)
}

/// Whether new flows are told of.
#[inline(always)]
pub fn flows() -> bool {
    level_enabled(Level::Debug)
}

/// Tells of the packet in `WORK` that it is lost, and by which `Counter`. A function that is verified by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn log_drop(counter: u32) -> u32 {
    if !drops() {
        return 0;
    }
    let Some(work) = WORK.get_ptr(0) else {
        return 0;
    };
    // SAFETY: this CPU's element, which nobody writes meanwhile.
    let t = unsafe { (*work).headers().tuple };
    info!(
        (),
        "{} {} {:i} {} {:i} {}",
        counter,
        t.protocol,
        t.src.octets(),
        t.src_port.get(),
        t.dst.octets(),
        t.dst_port.get()
    );
    0
}

/// Tells of the packet in `WORK` that it began a flow, and to which backend. A function that is verified by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn log_flow() -> u32 {
    if !flows() {
        return 0;
    }
    let Some(work) = WORK.get_ptr(0) else {
        return 0;
    };
    // SAFETY: this CPU's element, which nobody writes meanwhile.
    let (t, to) = unsafe { ((*work).headers().tuple, *(*work).translated()) };
    debug!(
        (),
        "{} {} {:i} {} {:i} {} {:i} {}",
        Counter::FlowCreated as u32,
        t.protocol,
        t.src.octets(),
        t.src_port.get(),
        t.dst.octets(),
        t.dst_port.get(),
        to.dst.octets(),
        to.dst_port.get()
    );
    0
}

/// Tells of a call of a socket that it was refused.
#[inline(always)]
pub fn refused(s: &Socket, counter: Counter) {
    if drops() {
        info!(
            (),
            "{} {} {:i} {}",
            counter as u32,
            s.protocol,
            s.addr.octets(),
            s.port.get()
        );
    }
}

/// Tells of a socket that it was connected to a backend.
#[inline(always)]
pub fn connected(s: &Socket, addr: &Addr, port: U16) {
    if flows() {
        debug!(
            (),
            "{} {} {:i} {} {:i} {}",
            Counter::SocketTranslated as u32,
            s.protocol,
            s.addr.octets(),
            s.port.get(),
            addr.octets(),
            port.get()
        );
    }
}
