//! TCP connections that ask one question.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{failed, failure};
use crate::protocol::{Exchange, Failure, FailureKind, Identity, TcpRequest};

/// The question, followed by blanks; any line that is no HTTP request would do.
pub(super) fn question(padding: usize) -> Vec<u8> {
    let mut line = b"who are you".to_vec();
    line.resize(line.len() + padding, b' ');
    line.push(b'\n');
    line
}

/// `request.times` connections, one after the other.
pub(super) fn exchanges(request: &TcpRequest) -> Vec<Exchange> {
    (0..request.times).map(|_| one(request).1).collect()
}

/// Makes one connection. Returns the stream if it is usable.
pub(super) fn one(request: &TcpRequest) -> (Option<TcpStream>, Exchange) {
    let start = Instant::now();
    let mut stream = match connect(request) {
        Ok(stream) => stream,
        Err((stage, error)) => return (None, failed(stage, &error, start.elapsed())),
    };
    let exchange = ask(
        &mut stream,
        &question(request.padding),
        start,
        start + request.timeout,
    );
    (exchange.outcome.is_ok().then_some(stream), exchange)
}

fn connect(request: &TcpRequest) -> Result<TcpStream, (&'static str, std::io::Error)> {
    let socket = Socket::new(Domain::for_address(request.to), Type::STREAM, None)
        .map_err(|error| ("socket", error))?;
    if let Some(bind) = request.bind {
        socket
            .set_reuse_address(true)
            .and_then(|()| socket.bind(&SockAddr::from(bind)))
            .map_err(|error| ("bind", error))?;
    }
    if request.abort {
        socket
            .set_linger(Some(Duration::ZERO))
            .map_err(|error| ("linger", error))?;
    }
    socket
        .connect_timeout(&SockAddr::from(request.to), request.timeout)
        .map_err(|error| ("connect", error))?;
    Ok(socket.into())
}

/// Sends the question over a connected stream and reads the answer until `deadline`.
fn ask(stream: &mut TcpStream, question: &[u8], start: Instant, deadline: Instant) -> Exchange {
    let local = stream.local_addr().ok();
    let peer = stream.peer_addr().ok();
    let outcome = stream
        .set_nodelay(true)
        .and_then(|()| stream.write_all(question))
        .map_err(|error| failure("send", &error))
        .and_then(|()| read_identity(stream, deadline));
    Exchange {
        outcome,
        elapsed: start.elapsed(),
        local,
        peer,
    }
}

/// Reads one line and takes it for an identity.
pub(super) fn read_identity(
    stream: &mut TcpStream,
    deadline: Instant,
) -> Result<Identity, Failure> {
    let mut line = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        let left = deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        stream
            .set_read_timeout(Some(left))
            .map_err(|error| failure("read", &error))?;
        match stream.read(&mut buffer) {
            Ok(0) => {
                let end = std::io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "the server closed without an answer",
                );
                return Err(failure("read", &end));
            }
            Ok(length) => line.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failure("read", &error)),
        }
        if line.ends_with(b"\n") {
            break;
        }
    }
    parse(&line)
}

/// An answer's bytes as an identity.
pub(super) fn parse(answer: &[u8]) -> Result<Identity, Failure> {
    String::from_utf8_lossy(answer)
        .parse()
        .map_err(|message| Failure {
            stage: "read".to_owned(),
            kind: FailureKind::Other,
            errno: None,
            message,
        })
}

/// Addresses of a connected pair, for errors that come before an exchange.
pub(super) fn ends(stream: &TcpStream) -> (Option<SocketAddr>, Option<SocketAddr>) {
    (stream.local_addr().ok(), stream.peer_addr().ok())
}
