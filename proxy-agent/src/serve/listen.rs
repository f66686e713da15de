//! Sockets to listen on.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::dataplane::sys::socket::defer_accept;

/// Connections that may wait to be accepted: as many as a flood brings between two turns of the server.
const BACKLOG: i32 = 4096;

/// For so many seconds a connection on which nothing arrives is not accepted. When one is accepted its request is mostly
/// there, and is answered before another can take its place.
const SILENT: i32 = 5;

/// Which packets an IPv6 socket takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Families {
    Both,
    Own,
}

/// A socket for the proxy itself: an unspecified address of either family means all of both, as in kube-proxy.
pub fn open(at: SocketAddr) -> io::Result<TcpListener> {
    if !at.ip().is_unspecified() {
        return bind(at, Families::Own);
    }
    let any = |ip: IpAddr| SocketAddr::new(ip, at.port());
    match bind(any(Ipv6Addr::UNSPECIFIED.into()), Families::Both) {
        // Without IPv6.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
            ) =>
        {
            bind(any(Ipv4Addr::UNSPECIFIED.into()), Families::Own)
        }
        result => result,
    }
}

/// A socket of one family, for a health check: the families of a Service have each their own answer.
pub fn open_one_family(at: SocketAddr) -> io::Result<TcpListener> {
    bind(at, Families::Own)
}

fn bind(at: SocketAddr, families: Families) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(families == Families::Own)?;
    }
    // Connections that are closing must not keep the next agent out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    defer_accept(&socket, SILENT)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn port(listener: &TcpListener) -> u16 {
        listener.local_addr().unwrap().port()
    }

    #[test]
    fn h2_an_unspecified_address_means_both_families() {
        let listener = open("0.0.0.0:0".parse().unwrap()).unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port(&listener))).unwrap();
        if listener.local_addr().unwrap().is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port(&listener))).unwrap();
        }
    }

    #[test]
    fn h1_each_family_has_a_socket_of_its_own() {
        let v4 = open_one_family("0.0.0.0:0".parse().unwrap()).unwrap();
        let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port(&v4));
        match open_one_family(v6) {
            Ok(v6) => assert_eq!(port(&v6), port(&v4)),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT)),
        }
        let error = open_one_family(v4.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
