//! Connections that are kept open and asked again later.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::failure;
use super::tcp_client::{ends, one, question, read_identity};
use crate::protocol::{Exchange, TcpRequest};

/// Open connections, in the order of their opening.
pub(super) struct Hold {
    streams: Vec<TcpStream>,
}

impl Hold {
    /// Opens `request.times` connections; each is asked once, and held if it answered.
    pub(super) fn open(request: &TcpRequest) -> (Self, Vec<Exchange>) {
        let mut streams = Vec::with_capacity(request.times);
        let mut opened = Vec::with_capacity(request.times);
        for _ in 0..request.times {
            let (stream, exchange) = one(request);
            streams.extend(stream);
            opened.push(exchange);
        }
        (Self { streams }, opened)
    }

    /// Asks over each connection, first all questions, then all answers.
    pub(super) fn check(&mut self, timeout: Duration) -> Vec<Exchange> {
        let start = Instant::now();
        let sent: Vec<_> = self
            .streams
            .iter_mut()
            .map(|stream| stream.write_all(&question(0)))
            .collect();
        self.streams
            .iter_mut()
            .zip(sent)
            .map(|(stream, sent)| {
                let (local, peer) = ends(stream);
                let outcome = sent
                    .map_err(|error| failure("send", &error))
                    .and_then(|()| read_identity(stream, start + timeout));
                Exchange {
                    outcome,
                    elapsed: start.elapsed(),
                    local,
                    peer,
                }
            })
            .collect()
    }
}
