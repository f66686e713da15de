//! The socket hooks, attached to the root cgroup.

use core::ptr;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use proxy_common::{
    abi::{counter::Counter, protocol},
    addr::{Addr, Family},
    socket::{self, Decision, Socket},
};
use zerocopy::network_endian::U16;

use crate::{kernel::Kernel, log, maps::HAVE_SET_RETVAL};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
const ECONNREFUSED: i32 = 111;
const ETIMEDOUT: i32 = 110;

/// `connect` of an `AF_INET` socket.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    call(&ctx, Family::V4, Hook::Connect, socket::connect)
}

/// `connect` of an `AF_INET6` socket, including to IPv4-mapped addresses.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    call(&ctx, Family::V6, Hook::Connect, socket::connect)
}

/// `sendto` and `sendmsg` with an address, of an `AF_INET` socket.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    call(&ctx, Family::V4, Hook::Send, socket::send)
}

/// `sendto` and `sendmsg` with an address, of an `AF_INET6` socket.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    call(&ctx, Family::V6, Hook::Send, socket::send)
}

/// The source address that `recvmsg` reports, for an `AF_INET` socket.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    call(&ctx, Family::V4, Hook::Report, socket::report)
}

/// The source address that `recvmsg` reports, for an `AF_INET6` socket.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    call(&ctx, Family::V6, Hook::Report, socket::report)
}

/// The peer that `getpeername` reports, for an `AF_INET` socket.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    call(&ctx, Family::V4, Hook::Report, socket::report)
}

/// The peer that `getpeername` reports, for an `AF_INET6` socket.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    call(&ctx, Family::V6, Hook::Report, socket::report)
}

/// A socket is closed: remove its entry in `SOCKET_FRONTENDS` and stop counting its connection.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    let sk: *mut bpf_sock = ctx.as_ptr().cast();
    // SAFETY: the context is valid, and this program type may read these fields.
    let (protocol, port, family) = unsafe { ((*sk).protocol as u8, (*sk).dst_port, (*sk).family) };
    if protocol != protocol::TCP && protocol != protocol::UDP {
        return ALLOW;
    }
    // SAFETY: as above. Each word is read volatile and for both families, because the verifier allows context
    // access at constant offsets only.
    let (v4, v6) = unsafe {
        (
            ptr::read_volatile(&raw const (*sk).dst_ip4),
            [
                ptr::read_volatile(&raw const (*sk).dst_ip6[0]),
                ptr::read_volatile(&raw const (*sk).dst_ip6[1]),
                ptr::read_volatile(&raw const (*sk).dst_ip6[2]),
                ptr::read_volatile(&raw const (*sk).dst_ip6[3]),
            ],
        )
    };
    let addr = if family == u32::from(AF_INET) {
        Addr::v4(v4.to_ne_bytes())
    } else {
        Addr::from_words(v6)
    };
    let s = Socket {
        // SAFETY: the helper takes the context.
        cookie: unsafe { bpf_get_socket_cookie(sk.cast()) },
        netns: 0,
        protocol,
        addr,
        port: U16::from_bytes(port.to_ne_bytes()),
    };
    socket::release(&mut Kernel(sk), &s);
    ALLOW
}

const AF_INET: u8 = 2;

/// The kind of call that a hook intercepts.
#[derive(Clone, Copy)]
enum Hook {
    Connect,
    Send,
    Report,
}

#[inline(always)]
fn call(
    ctx: &SockAddrContext,
    family: Family,
    hook: Hook,
    decide: impl FnOnce(&mut Kernel<bpf_sock_addr>, &Socket) -> Decision,
) -> i32 {
    let sa: *mut bpf_sock_addr = ctx.as_ptr().cast();
    // SAFETY: the context is valid, this hook may read the fields of its family, and the helpers take the
    // context.
    let s = unsafe {
        Socket {
            cookie: bpf_get_socket_cookie(sa.cast()),
            netns: bpf_get_netns_cookie(sa.cast()),
            protocol: (*sa).protocol as u8,
            addr: match family {
                Family::V4 => Addr::v4((*sa).user_ip4.to_ne_bytes()),
                Family::V6 => Addr::from_words([
                    (*sa).user_ip6[0],
                    (*sa).user_ip6[1],
                    (*sa).user_ip6[2],
                    (*sa).user_ip6[3],
                ]),
            },
            port: U16::from_bytes(((*sa).user_port as u16).to_ne_bytes()),
        }
    };
    if s.protocol != protocol::TCP && s.protocol != protocol::UDP {
        return ALLOW;
    }
    match decide(&mut Kernel(sa), &s) {
        Decision::Untouched => ALLOW,
        Decision::Use { addr, port } => {
            if matches!(hook, Hook::Connect) {
                log::connected(&s, &addr, port);
            }
            write(sa, family, &addr, port);
            ALLOW
        }
        Decision::Refuse => {
            log::refused(&s, Counter::RefusedNoEndpoint);
            fail(ECONNREFUSED)
        }
        Decision::NotAdmitted => {
            log::refused(&s, Counter::DropSourceRange);
            fail(ETIMEDOUT)
        }
        Decision::NoLocalEndpoint => {
            log::refused(&s, Counter::DropNoLocalEndpoint);
            fail(ETIMEDOUT)
        }
    }
}

#[inline(always)]
fn write(sa: *mut bpf_sock_addr, family: Family, addr: &Addr, port: U16) {
    let words = addr.words();
    // SAFETY: this hook may write the fields of its family.
    unsafe {
        match family {
            Family::V4 => (*sa).user_ip4 = words[3],
            Family::V6 => {
                (*sa).user_ip6[0] = words[0];
                (*sa).user_ip6[1] = words[1];
                (*sa).user_ip6[2] = words[2];
                (*sa).user_ip6[3] = words[3];
            }
        }
        (*sa).user_port = u32::from(u16::from_ne_bytes(port.to_bytes()));
    }
}

/// Fails the call with an errno. Without `bpf_set_retval` (before Linux 5.18) no errno can be set, so the call
/// continues untranslated, and the packet hooks refuse a pod's packets.
#[inline(always)]
fn fail(errno: i32) -> i32 {
    if HAVE_SET_RETVAL.load() == 0 {
        return ALLOW;
    }
    // SAFETY: the helper takes only a number.
    unsafe { bpf_set_retval(-errno) };
    DENY
}
