//! A client of HTTP without TLS, for probes, metrics and the programs of the lab.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::Result;
use crate::host::Host;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// Headers, by name in lower case.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: String,
}

impl HttpAnswer {
    /// The body as JSON; null, if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The value of a sample in the text format of Prometheus: `name` or `name{label="value"}`.
    pub fn sample(&self, name: &str) -> Option<f64> {
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        self.body.lines().find_map(value)
    }
}

/// How long a probe waits for its answer.
const PROBE: Duration = Duration::from_secs(5);
/// How long a program of the lab's own may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

impl Host {
    /// Requests a page from this host's namespace, over a new connection. The inner error means that
    /// there was no answer.
    pub fn http(&self, to: SocketAddr, path: &str) -> Result<io::Result<HttpAnswer>> {
        self.netns()
            .run(|| Ok(request(to, &format!("GET {path}"), "", PROBE)))
    }
}

/// `GET` from the calling thread's network namespace.
pub(crate) fn get(to: SocketAddr, path: &str) -> io::Result<HttpAnswer> {
    request(to, &format!("GET {path}"), "", PATIENCE)
}

/// `POST` from the calling thread's network namespace.
pub(crate) fn post(to: SocketAddr, path: &str, body: &str) -> io::Result<HttpAnswer> {
    request(to, &format!("POST {path}"), body, PATIENCE)
}

/// Sends a request in HTTP/1.0, in which the answer is not chunked and ends with the connection.
fn request(to: SocketAddr, method: &str, body: &str, timeout: Duration) -> io::Result<HttpAnswer> {
    let mut stream = TcpStream::connect_timeout(&to, PROBE)?;
    stream.set_read_timeout(Some(timeout))?;
    write!(
        stream,
        "{method} HTTP/1.0\r\nHost: {to}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, text))
}

/// An answer with a body that ends with the connection.
fn parse(text: &str) -> Option<HttpAnswer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Some(HttpAnswer {
        status,
        headers: headers.collect(),
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_headers_and_a_body() {
        let answer =
            parse("HTTP/1.1 503 Service Unavailable\r\nX-A: b\r\n\r\na 1\nab{c=\"d\"} 2.5\n")
                .expect("an answer");
        assert_eq!(answer.status, 503);
        assert_eq!(answer.headers["x-a"], "b");
        assert_eq!(answer.sample("a"), Some(1.0));
        assert_eq!(answer.sample("ab{c=\"d\"}"), Some(2.5));
        assert_eq!(answer.sample("ab"), None);
        assert!(parse("who are you\n").is_none());
    }
}
