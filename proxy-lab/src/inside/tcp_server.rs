//! The TCP server: one thread for each connection.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::{SockRef, Type};

use super::{bound, locked, spawn};
use crate::protocol::{Identity, Serve};

/// A running server.
pub(super) struct TcpServer {
    shared: Arc<Shared>,
}

struct Shared {
    serve: Serve,
    listener: TcpListener,
    stopped: AtomicBool,
    connections: Mutex<HashMap<u64, Arc<TcpStream>>>,
}

impl TcpServer {
    /// Listens, and accepts in a new thread.
    pub(super) fn start(serve: Serve) -> std::io::Result<(Self, SocketAddr)> {
        let socket = bound(Type::STREAM, serve.address)?;
        socket.listen(4096)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            serve,
            listener,
            stopped: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        spawn(move || accepting.accept())?;
        Ok((Self { shared }, address))
    }

    /// Ends listening; connections go on or are reset.
    pub(super) fn stop(self, drop_connections: bool) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Wakes accept() up (EINVAL) and refuses new connections at once.
        let _ = SockRef::from(&self.shared.listener).shutdown(Shutdown::Both);
        if drop_connections {
            for stream in locked(&self.shared.connections).values() {
                let _ = SockRef::from(&**stream).set_linger(Some(Duration::ZERO));
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Shared {
    fn accept(self: Arc<Self>) {
        let mut next = 0;
        while !self.stopped.load(Ordering::Relaxed) {
            let Ok((stream, _)) = self.listener.accept() else {
                // Out of descriptors, or stopped.
                thread::sleep(Duration::from_millis(10));
                continue;
            };
            let stream = Arc::new(stream);
            let number = next;
            next += 1;
            locked(&self.connections).insert(number, Arc::clone(&stream));
            let shared = Arc::clone(&self);
            let started = spawn(move || {
                // An error is the client's leaving.
                let _ = converse(&shared.serve, &stream);
                locked(&shared.connections).remove(&number);
            });
            if started.is_err() {
                locked(&self.connections).remove(&number);
            }
        }
    }
}

/// Answers line by line; a GET is answered as HTTP and ends the connection, for curl and probes.
fn converse(serve: &Serve, mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let identity = Identity {
        server: serve.name.clone(),
        client: stream.peer_addr()?,
        local: stream.local_addr()?,
    };
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if serve.silent {
            continue;
        }
        thread::sleep(serve.delay);
        if !line.starts_with(b"GET ") {
            let blanks = line.iter().rev().skip(1).take_while(|byte| **byte == b' ');
            stream.write_all(format!("{identity}{}\n", " ".repeat(blanks.count())).as_bytes())?;
            continue;
        }
        while line != b"\r\n" && line != b"\n" {
            line.clear();
            if lines.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
        }
        let body = format!("{identity}\n");
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n",
            body.len()
        );
        return stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes());
    }
}
