//! Log messages of the datapath about single packets and sockets, for `--datapath-log`. The level is fixed when
//! the programs are loaded, so the verifier removes the code of disabled messages.
//!
//! A message consists of numbers and addresses separated by blanks: a `Counter`, the protocol, the source
//! (packets only) and destination, and the backend if there is one. The agent's `dataplane::log` parses it.

use aya_log_ebpf::{
    debug, info,
    macro_support::{Level, level_enabled},
};
use proxy_common::{abi::counter::Counter, addr::Addr, socket::Socket};
use zerocopy::network_endian::U16;

use crate::maps::WORK;

/// Whether drops and refusals are logged.
#[inline(always)]
pub fn drops() -> bool {
    level_enabled(Level::Info)
}

/// Whether new flows are logged.
#[inline(always)]
pub fn flows() -> bool {
    level_enabled(Level::Debug)
}

/// Logs that the packet in `WORK` was dropped, with the `Counter` as reason. A separately verified BPF
/// function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn log_drop(counter: u32) -> u32 {
    if !drops() {
        return 0;
    }
    let Some(work) = WORK.get_ptr(0) else {
        return 0;
    };
    // SAFETY: the element belongs to this CPU, and nothing writes to it during this call.
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

/// Logs that the packet in `WORK` began a flow, with its backend. A separately verified BPF function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn log_flow() -> u32 {
    if !flows() {
        return 0;
    }
    let Some(work) = WORK.get_ptr(0) else {
        return 0;
    };
    // SAFETY: the element belongs to this CPU, and nothing writes to it during this call.
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

/// Logs that a socket's call was refused.
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

/// Logs that a socket was connected to a backend.
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
