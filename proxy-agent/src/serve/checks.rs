//! Health checks of Services (semantics H1): a socket for each port and address, open while the Service wants it.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderName, HeaderValue, Response},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::sleep};

use super::{RETRY, Shown, answer, clients::Clients, http, listen};
use crate::{
    health::{
        Health,
        checks::{CheckReport, Checks, Subject},
    },
    model::{ObjectRef, Problem},
};

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// The sockets that are open, and those that could not be opened, with the reason.
#[derive(Default)]
struct Sockets {
    open: BTreeMap<SocketAddr, Open>,
    failed: BTreeMap<SocketAddr, (Subject, io::ErrorKind)>,
}

struct Open {
    subject: Subject,
    /// Has all connections.
    server: JoinSet<()>,
}

/// Keeps sockets open as Services want them, as long as the agent runs.
pub async fn run(shown: Shown, clients: &Clients) {
    let Shown {
        health,
        metrics,
        mut checks,
        problems,
    } = shown;
    let mut sockets = Sockets::default();
    loop {
        let wanted = checks.borrow_and_update().sockets();
        let serve = |subject: &Subject| router(subject.clone(), &health, &checks);
        for problem in sockets.reconcile(&wanted, clients, serve).await {
            // Nobody listens only while the agent ends.
            problems.send(problem).ok();
        }
        metrics
            .own
            .set_health_check_ports(sockets.open.len(), sockets.failed.len());
        let retry = if sockets.failed.is_empty() {
            Duration::MAX
        } else {
            RETRY
        };
        tokio::select! {
            changed = checks.changed() => if changed.is_err() {
                return;
            },
            () = sleep(retry) => {}
        }
    }
}

impl Sockets {
    /// Closes what is not wanted any more and opens what is; returns what can't be opened, when that is news.
    async fn reconcile(
        &mut self,
        wanted: &BTreeMap<SocketAddr, Subject>,
        clients: &Clients,
        router: impl Fn(&Subject) -> Router,
    ) -> Vec<Problem> {
        let is_over = |at: &SocketAddr, open: &mut Open| wanted.get(at) != Some(&open.subject);
        let over: Vec<_> = self.open.extract_if(.., is_over).collect();
        for (_, mut open) in over {
            // Another Service may want the port now.
            open.server.shutdown().await;
        }
        let failed = std::mem::take(&mut self.failed);
        let mut problems = Vec::new();
        for (&at, subject) in wanted {
            if self.open.contains_key(&at) {
                continue;
            }
            match self.listen(at, clients.limits().listeners) {
                Ok(listener) => {
                    tracing::info!(%at, service = %subject.service, "listening for health checks");
                    let mut server = JoinSet::new();
                    server.spawn(http::serve(listener, router(subject), clients.clone()));
                    let subject = subject.clone();
                    self.open.insert(at, Open { subject, server });
                }
                Err(error) => {
                    let why = (subject.clone(), error.kind());
                    if failed.get(&at) != Some(&why) {
                        problems.push(problem(at, subject, &error));
                    }
                    self.failed.insert(at, why);
                }
            }
        }
        problems
    }

    fn listen(&self, at: SocketAddr, most: usize) -> io::Result<TcpListener> {
        if self.open.len() >= most {
            return Err(io::Error::other(format!(
                "{most} health checks are served already, as many as the limit of open files allows"
            )));
        }
        TcpListener::from_std(listen::open_one_family(at)?)
    }
}

fn problem(at: SocketAddr, subject: &Subject, error: &io::Error) -> Problem {
    let name = &subject.service;
    Problem {
        object: ObjectRef::service(name),
        message: format!(
            "healthCheckNodePort: can't listen on {at} of this node: {error}; load balancers get no answer there until it can"
        ),
    }
}

/// Answers every path, as kube-proxy does.
fn router(subject: Subject, health: &Arc<Health>, checks: &watch::Receiver<Checks>) -> Router {
    let (health, checks) = (Arc::clone(health), checks.clone());
    Router::new().fallback(async move || {
        let ready = checks.borrow().ready(&subject);
        told(&subject, ready, health.is_healthy(Instant::now()))
    })
}

fn told(subject: &Subject, ready: usize, healthy: bool) -> Response<Body> {
    let report = CheckReport::new(&subject.service, ready, healthy);
    let status = answer::status(report.is_ok());
    let mut response = answer::json(status, answer::indented(&report));
    response
        .headers_mut()
        .insert(WEIGHT, HeaderValue::from(ready));
    response
}
