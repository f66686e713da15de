//! The servers that tell others how the proxy does: `/healthz` and `/livez`, `/metrics` and `/proxyMode`, and a health
//! check for each Service that has one. On kube-proxy's ports, with its answers.
//!
//! They run on a thread of their own: the agent's loop may be busy for a second with a first full list, and a probe
//! that asks meanwhile must be answered (docs/adr/0018).

mod answer;
mod checks;
mod clients;
mod http;
mod listen;
pub mod local;
mod proxy;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, thread, time::Duration};

use axum::Router;
use tokio::{
    runtime,
    sync::{mpsc, watch},
    time::sleep,
};

use self::clients::{Clients, Limits};
use crate::{
    descriptors,
    health::{Health, checks::Checks},
    metrics::Metrics,
    model::Problem,
    telemetry::chain,
};

/// How long to wait before a port that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Where the servers of the proxy itself listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServeConfig {
    /// `/healthz`, `/livez` and `/readyz`; `None`: nowhere.
    pub healthz: Option<SocketAddr>,
    /// `/metrics` and `/proxyMode`; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Whether a port that can't be had stops the agent.
    pub hard_fail: bool,
    /// The folder of pins that names the Unix socket of the same; `None`: there is none.
    pub local: Option<PathBuf>,
}

/// What is shown.
#[derive(Debug)]
pub struct Shown {
    /// Whether the proxy does its work.
    pub health: Arc<Health>,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// Services that are asked for.
    pub checks: watch::Receiver<Checks>,
    /// Whom to tell of health checks that can't be served.
    pub problems: mpsc::UnboundedSender<Problem>,
}

/// Why the servers did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// With `--bind-address-hard-fail` only.
    #[error("can't listen on {at} for {what}")]
    Bind {
        /// Which server.
        what: &'static str,
        /// Where.
        at: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No thread.
    #[error("could not start the thread of the health and metrics servers")]
    Thread(#[source] io::Error),
}

/// One of the proxy's own servers.
struct Server {
    what: &'static str,
    at: SocketAddr,
    /// Not there yet, if it could not be opened.
    listener: Option<std::net::TcpListener>,
    router: Router,
}

/// Starts the servers. They end with the process.
pub fn start(config: &ServeConfig, shown: Shown) -> Result<(), ServeError> {
    let given_way = shown.metrics.own.connections_given_way.clone();
    let clients = Clients::new(Limits::of(descriptors::limit()), given_way);
    let health = proxy::health(&shown.health, &shown.metrics);
    let healthz = Server::open("/healthz", config.healthz, health.clone(), config.hard_fail)?;
    let router = proxy::metrics(&shown.metrics);
    let metrics = Server::open("/metrics", config.metrics, router, config.hard_fail)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Thread)?;
    let local = config.local.clone();
    let serve = move || {
        runtime.block_on(async move {
            for server in [healthz, metrics].into_iter().flatten() {
                tokio::spawn(server.run(clients.clone()));
            }
            if let Some(bpffs) = local {
                let clients = clients.clone();
                tokio::spawn(async move { local::run(&bpffs, health, clients).await });
            }
            checks::run(shown, &clients).await;
        });
    };
    thread::Builder::new()
        .name("health".to_owned())
        .spawn(serve)
        .map_err(ServeError::Thread)?;
    Ok(())
}

impl Server {
    fn open(
        what: &'static str,
        at: Option<SocketAddr>,
        router: Router,
        hard_fail: bool,
    ) -> Result<Option<Self>, ServeError> {
        let Some(at) = at else { return Ok(None) };
        let listener = match listen::open(at) {
            Ok(listener) => Some(listener),
            Err(source) if hard_fail => return Err(ServeError::Bind { what, at, source }),
            Err(error) => {
                tracing::error!(error = chain(&error), %at, "can't listen for {what}; trying again");
                None
            }
        };
        Ok(Some(Self {
            what,
            at,
            listener,
            router,
        }))
    }

    async fn run(self, clients: Clients) {
        let mut opened = self.listener;
        let listener = loop {
            match opened
                .map_or_else(|| listen::open(self.at), Ok)
                .and_then(tokio::net::TcpListener::from_std)
            {
                Ok(listener) => break listener,
                Err(error) => {
                    tracing::debug!(error = chain(&error), at = %self.at, "still can't listen for {}", self.what);
                }
            }
            opened = None;
            sleep(RETRY).await;
        };
        tracing::info!(at = %self.at, "listening for {}", self.what);
        http::serve(listener, self.router, clients).await;
    }
}

#[cfg(test)]
mod tests;
