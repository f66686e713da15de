//! HTTP/1 over one listening socket. These ports are open to everybody who reaches the node, so nobody may keep
//! connections for nothing.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use crate::telemetry::chain;

/// Connections at once; more wait in the socket's queue.
const MOST_CONNECTIONS: usize = 256;

/// How long a client may take for a request, and may keep a connection without one.
const IDLE: Duration = Duration::from_secs(30);

/// How long a client may keep a connection at all.
const LONGEST: Duration = Duration::from_mins(10);

/// Serves until it is dropped, and all connections with it.
pub async fn serve(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MOST_CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, router.clone()));
            }
            Err(error) => {
                // Of the client's doing, or for want of descriptors, which others may give back.
                tracing::debug!(error = chain(&error), "a connection could not be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Ok(Err(error)) = tokio::time::timeout(LONGEST, served).await {
        tracing::trace!(error = chain(&error), "a connection ended early");
    }
}
