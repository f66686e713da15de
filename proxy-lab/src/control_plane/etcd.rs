//! Requests to etcd itself, by the JSON form of its API (etcd.io/docs, "gRPC gateway").

use serde_json::{Value, json};

use super::component::ETCD_CLIENTS;
use crate::error::{LabError, Result};
use crate::http;

/// Forgets all revisions but the newest, and returns that; from the calling thread's network namespace.
pub(super) fn compact() -> Result<u64> {
    let status = ask("maintenance/status", &json!({}))?;
    let revision = status["header"]["revision"]
        .as_str()
        .and_then(|text| text.parse().ok());
    let revision: u64 = revision.ok_or_else(|| refused("names no revision", &status))?;
    match ask(
        "kv/compaction",
        &json!({"revision": revision.to_string(), "physical": true}),
    ) {
        // Compacted already: nothing was written since.
        Err(error) if error.chain().contains("has been compacted") => Ok(revision),
        other => other.map(|_| revision),
    }
}

fn ask(method: &str, question: &Value) -> Result<Value> {
    let failed = LabError::kernel(format!("asking etcd for {method}"));
    let answer = http::post(
        ETCD_CLIENTS,
        &format!("/v3/{method}"),
        &question.to_string(),
    );
    let answer = answer.map_err(failed)?;
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    if answer.status == 200 {
        Ok(body)
    } else {
        Err(refused(&format!("refuses {method}"), &body))
    }
}

fn refused(problem: &str, answer: &Value) -> LabError {
    LabError::Daemon {
        name: "etcd".to_owned(),
        problem: problem.to_owned(),
        log: answer.to_string(),
    }
}
