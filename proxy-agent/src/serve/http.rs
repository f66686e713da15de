//! HTTP/1 over one listening socket. These ports are open to everybody who reaches the node, so nobody may keep
//! connections, descriptors or memory for nothing.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::{server::conn::http1, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::{JoinSet, yield_now},
    time::sleep,
};

use super::clients::{Client, Clients, Place};
use crate::telemetry::chain;

/// How long a client may take for the head of a request, and may keep a connection without one.
const HEAD: Duration = Duration::from_secs(5);

/// What is kept of a request that is not complete. (hyper takes no less than 8 KiB.)
const BUFFER: usize = 16 * 1024;

/// Fields in the head of a request.
const FIELDS: usize = 64;

/// After an accept that failed.
pub const PAUSE: Duration = Duration::from_millis(50);

/// Serves until it is dropped, and all connections with it.
pub async fn serve(listener: TcpListener, router: Router, clients: Clients) {
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let accepted = accepted.and_then(|(stream, peer)| {
            let client = Client::of(peer.ip(), stream.local_addr()?.ip());
            Ok((stream, client))
        });
        match accepted {
            Ok((stream, client)) => {
                failing = false;
                spawn(&mut connections, stream, router.clone(), &clients, client).await;
            }
            Err(error) => {
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
                    if !failing {
                        tracing::warn!(%error, "a connection can't be accepted; the oldest is closed");
                    }
                    failing = true;
                    clients.close_oldest();
                } else {
                    tracing::debug!(error = chain(&error), "a connection could not be accepted");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// Serves a connection on a task of its own.
pub async fn spawn<S>(
    connections: &mut JoinSet<()>,
    stream: S,
    router: Router,
    clients: &Clients,
    client: Client,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let place = clients.admit(client);
    let id = place.id();
    let task = connections.spawn(connection(stream, router, place));
    clients.set_task(id, task);
    // Twice: it is polled to be told of what has arrived, and again to answer that. Whoever gave way is gone by then.
    yield_now().await;
    yield_now().await;
}

async fn connection<S>(stream: S, router: Router, place: Place)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let place = Arc::new(place);
    let (opened, handler) = (Arc::clone(&place), TowerToHyperService::new(router));
    let service = hyper::service::service_fn(move |request| {
        opened.requested();
        handler.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .max_headers(FIELDS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        result = served => if let Err(error) = result {
            tracing::trace!(error = chain(&error), "a connection ended early");
        },
        () = place.expired() => tracing::trace!("a connection lasted too long"),
    }
}
