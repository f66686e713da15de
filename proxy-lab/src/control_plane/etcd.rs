//! What is asked of etcd itself, by the JSON form of its API (etcd.io/docs, "gRPC gateway").

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::component::ETCD_CLIENTS;
use crate::error::{LabError, Result};

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
    let failed = || LabError::kernel(format!("asking etcd for {method}"));
    let text = question.to_string();
    let mut stream =
        TcpStream::connect_timeout(&ETCD_CLIENTS, Duration::from_secs(2)).map_err(failed())?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .map_err(failed())?;
    // HTTP/1.0: the answer ends with the connection.
    let head = format!(
        "POST /v3/{method} HTTP/1.0\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    stream
        .write_all(format!("{head}{text}").as_bytes())
        .map_err(failed())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed())?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    if head.split_whitespace().nth(1) == Some("200") {
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
