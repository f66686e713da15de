//! The proxy's own health and metrics (semantics H2, H3).

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    body::Body,
    http::{Response, StatusCode},
    routing::get,
};
use jiff::Timestamp;

use super::answer;
use crate::{
    health::{Health, Question, Report},
    metrics::Metrics,
    telemetry::chain,
};

/// What `/proxyMode` says.
pub const MODE: &str = "ebpf";

/// `/healthz`, `/livez` and `/readyz`.
pub fn health(health: &Arc<Health>, metrics: &Arc<Metrics>) -> Router {
    let asked = |question| {
        let (health, metrics) = (Arc::clone(health), Arc::clone(metrics));
        get(async move || {
            let report = health.report(question, Instant::now(), Timestamp::now());
            match question {
                Question::Health => metrics.kube_proxy.answered_healthz(report.is_ok()),
                Question::Life => metrics.kube_proxy.answered_livez(report.is_ok()),
                Question::Readiness => {}
            }
            told(&report)
        })
    };
    Router::new()
        .route("/healthz", asked(Question::Health))
        .route("/livez", asked(Question::Life))
        .route("/readyz", asked(Question::Readiness))
}

/// `/metrics` and `/proxyMode`; and `/healthz`, which there says that the server answers, no more.
pub fn metrics(metrics: &Arc<Metrics>) -> Router {
    let metrics = Arc::clone(metrics);
    Router::new()
        .route("/metrics", get(async move || scrape(&metrics)))
        .route("/proxyMode", get(async || answer::text(MODE)))
        .route("/healthz", get(async || answer::text("ok")))
}

fn told(report: &Report) -> Response<Body> {
    answer::json(answer::status(report.is_ok()), answer::compact(report))
}

fn scrape(metrics: &Metrics) -> Response<Body> {
    match metrics.text() {
        Ok(text) => answer::typed(StatusCode::OK, Metrics::CONTENT_TYPE, text),
        Err(error) => {
            tracing::error!(error = chain(&error), "the metrics can't be written");
            answer::typed(
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain; charset=utf-8",
                "the metrics can't be written; see the agent's log",
            )
        }
    }
}
