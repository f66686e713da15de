//! The agent's Unix socket: health for programs on the node, such as the kubelet's probes by `proxy-agent health`. A TCP
//! port may belong to another process: kube-proxy holds 10256 while it runs beside the agent, and would answer in the
//! agent's place. Each side checks that the other runs as the same user, so no other user's process can answer.
//!
//! The socket's name is abstract: it needs no folder, and disappears with the process. Abstract names belong to a network
//! namespace, and only one agent works on a folder of pins, so the name contains the path of that folder.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{ffi::OsStrExt as _, net as std_unix},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use axum::Router;
use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};
use tokio::{net::UnixListener, task::JoinSet, time::sleep};

use super::{
    RETRY,
    clients::{Client, Clients},
    http,
};
use crate::telemetry::chain;

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// An answer of the agent.
#[derive(Debug)]
pub struct Answer {
    /// Whether the status was 200.
    pub ok: bool,
    /// The body.
    pub body: String,
}

/// The socket's name. `/a/b` and `/a//b/` are one folder, and have one name.
fn address(bpffs: &Path) -> io::Result<std_unix::SocketAddr> {
    let bpffs: PathBuf = bpffs.components().collect();
    let name = [b"kube-proxy-ebpf:", bpffs.as_os_str().as_bytes()];
    std_unix::SocketAddr::from_abstract_name(name.concat())
}

/// Serves until it is dropped. If another process holds the name, tries again.
pub async fn run(bpffs: &Path, router: Router, clients: Clients) {
    let mut told = false;
    let listener = loop {
        match listen(bpffs) {
            Ok(listener) => break listener,
            Err(error) if !told => {
                tracing::error!(
                    error = chain(&error),
                    "`proxy-agent health` can't be answered; trying again"
                );
                told = true;
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    };
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _))
                if stream
                    .peer_cred()
                    .is_ok_and(|peer| peer.uid() == geteuid().as_raw()) =>
            {
                http::spawn(
                    &mut connections,
                    stream,
                    router.clone(),
                    &clients,
                    Client::Local,
                )
                .await;
            }
            Ok(_) => tracing::debug!("ignored a connection from another user's program"),
            Err(error) => {
                tracing::debug!(error = chain(&error), "a connection could not be accepted");
                sleep(http::PAUSE).await;
            }
        }
    }
}

fn listen(bpffs: &Path) -> io::Result<UnixListener> {
    let listener = std_unix::UnixListener::bind_addr(&address(bpffs)?)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Asks the agent that works on a folder of pins.
pub fn ask(bpffs: &Path, path: &str) -> io::Result<Answer> {
    let mut stream = std_unix::UnixStream::connect_addr(&address(bpffs)?)?;
    if getsockopt(&stream, PeerCredentials)?.uid() != geteuid().as_raw() {
        return Err(io::Error::other(
            "another user's process answers in its place",
        ));
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(Answer {
        ok: head.starts_with("HTTP/1.1 200 "),
        body: body.to_owned(),
    })
}
