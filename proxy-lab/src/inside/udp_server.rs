//! The UDP server: answers each datagram from the address that it was sent to.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Socket, Type};

use super::{bound, spawn};
use crate::protocol::{Identity, Serve};

/// A running server.
pub(super) struct UdpServer {
    stopped: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

/// How often a waiting server looks whether it was stopped.
const PATIENCE: Duration = Duration::from_millis(100);

impl UdpServer {
    /// Binds, and answers in a new thread.
    pub(super) fn start(serve: Serve) -> std::io::Result<(Self, SocketAddr)> {
        let socket = bound(Type::DGRAM, serve.address)?;
        if serve.address.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        let address = socket.local_addr()?.as_socket().unwrap_or(serve.address);
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let thread = spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // An error is the timeout, or an ICMP error from a client that has closed
                // its socket.
                let _ = answer_one(&socket, &serve, address.port());
            }
        })?;
        Ok((Self { stopped, thread }, address))
    }

    /// Closes the socket.
    pub(super) fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        // A panicked server is a stopped one.
        let _ = self.thread.join();
    }
}

fn answer_one(socket: &Socket, serve: &Serve, port: u16) -> nix::Result<()> {
    let mut buffer = [0_u8; 2048];
    let mut control = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
    let (from, to, length) = {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<SockaddrStorage>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let to = message.cmsgs()?.find_map(|item| match item {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::from(Ipv4Addr::from(
                u32::from_be(info.ipi_addr.s_addr),
            ))),
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
            _ => None,
        });
        (message.address, to, message.bytes)
    };
    let (Some(from), Some(to)) = (from, to) else {
        return Ok(());
    };
    let Some(client) = address(&from) else {
        return Ok(());
    };
    if serve.silent {
        return Ok(());
    }
    thread::sleep(serve.delay);
    let identity = Identity {
        server: serve.name.clone(),
        client,
        local: SocketAddr::new(to, port),
    };
    let blanks = buffer[..length].iter().rev().skip(1);
    let blanks = blanks.take_while(|byte| **byte == b' ').count();
    let text = format!("{identity}{}\n", " ".repeat(blanks));
    let parts = [IoSlice::new(text.as_bytes())];
    match to {
        IpAddr::V4(to) => {
            let source = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from(to).to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let control = [ControlMessage::Ipv4PacketInfo(&source)];
            sendmsg(
                socket.as_raw_fd(),
                &parts,
                &control,
                MsgFlags::empty(),
                Some(&from),
            )?;
        }
        IpAddr::V6(to) => {
            let source = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: to.octets(),
                },
                ipi6_ifindex: 0,
            };
            let control = [ControlMessage::Ipv6PacketInfo(&source)];
            sendmsg(
                socket.as_raw_fd(),
                &parts,
                &control,
                MsgFlags::empty(),
                Some(&from),
            )?;
        }
    }
    Ok(())
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    storage
        .as_sockaddr_in()
        .map(|v4| SocketAddr::new(v4.ip().into(), v4.port()))
        .or_else(|| {
            storage
                .as_sockaddr_in6()
                .map(|v6| SocketAddr::new(v6.ip().into(), v6.port()))
        })
}
