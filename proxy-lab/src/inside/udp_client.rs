//! UDP datagrams that ask one question.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    setsockopt,
    sockopt::{Ipv4RecvErr, Ipv6RecvErr},
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::tcp_client::{parse, question};
use super::{failed, failure};
use crate::protocol::{Exchange, UdpRequest, unspecified_like};

/// `request.times` datagrams, one after the other.
pub(super) fn exchanges(request: &UdpRequest) -> Vec<Exchange> {
    let bind = request
        .bind
        .unwrap_or_else(|| SocketAddr::new(unspecified_like(request.to), 0));
    let mut kept: Option<Socket> = None;
    let mut results = Vec::with_capacity(request.times);
    for _ in 0..request.times {
        let start = Instant::now();
        let socket = match kept.take() {
            Some(socket) => socket,
            None => match open(bind, request.connected.then_some(request.to))
                .and_then(|socket| limited(socket, request.hops, request.to.is_ipv6()))
            {
                Ok(socket) => socket,
                Err(error) => {
                    results.push(failed("connect", &error, start.elapsed()));
                    continue;
                }
            },
        };
        results.push(exchange(
            &socket,
            (!request.connected).then_some(request.to),
            request.padding,
            request.timeout,
        ));
        if request.same_socket {
            kept = Some(socket);
        }
    }
    results
}

/// A socket bound to `bind`, connected if requested. Several connected sockets may share an explicit port.
/// If the kernel chooses the port, it must be exclusive: with `SO_REUSEADDR` the kernel may choose one that
/// is in use, and of two sockets with the same port and backend only the later one receives.
pub(super) fn open(bind: SocketAddr, connect: Option<SocketAddr>) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, None)?;
    if bind.is_ipv6() {
        // An IPv4-mapped destination needs a socket that speaks both families.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(connect.is_some() && bind.port() != 0)?;
    socket.bind(&SockAddr::from(bind))?;
    if let Some(to) = connect {
        socket.connect(&SockAddr::from(to))?;
    }
    Ok(socket)
}

/// A socket with a hop limit, which receives all ICMP errors.
fn limited(socket: Socket, hops: Option<u8>, v6: bool) -> std::io::Result<Socket> {
    if let Some(hops) = hops {
        if v6 {
            socket.set_unicast_hops_v6(hops.into())?;
            setsockopt(&socket, Ipv6RecvErr, &true)?;
        } else {
            socket.set_ttl_v4(hops.into())?;
            setsockopt(&socket, Ipv4RecvErr, &true)?;
        }
    }
    Ok(socket)
}

/// Sends one question on `socket` and waits for the answer.
pub(super) fn exchange(
    socket: &Socket,
    to: Option<SocketAddr>,
    padding: usize,
    timeout: Duration,
) -> Exchange {
    let start = Instant::now();
    let socket: &std::net::UdpSocket = &match socket.try_clone() {
        Ok(clone) => clone.into(),
        Err(error) => return failed("socket", &error, start.elapsed()),
    };
    let question = question(padding);
    let sent = match to {
        Some(to) => socket.send_to(&question, to),
        None => socket.send(&question),
    };
    let mut peer = None;
    let outcome = sent.map_err(|error| failure("send", &error)).and_then(|_| {
        let mut buffer = [0_u8; 2048];
        let received = socket
            .set_read_timeout(Some(timeout))
            .and_then(|()| socket.recv_from(&mut buffer));
        let (length, from) = received.map_err(|error| failure("read", &error))?;
        peer = Some(from);
        parse(&buffer[..length])
    });
    if to.is_none() {
        peer = socket.peer_addr().ok();
    }
    Exchange {
        outcome,
        elapsed: start.elapsed(),
        local: socket.local_addr().ok(),
        peer,
    }
}
