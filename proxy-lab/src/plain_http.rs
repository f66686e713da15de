//! Small questions by HTTP without TLS, from the calling thread's network namespace.

use std::io::{Read as _, Result, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer: its status and body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// `GET`.
pub(crate) fn get(server: SocketAddr, path: &str) -> Result<Answer> {
    ask(server, &format!("GET {path} HTTP/1.0\r\n\r\n"))
}

/// `POST`.
pub(crate) fn post(server: SocketAddr, path: &str, body: &str) -> Result<Answer> {
    let head = format!(
        "POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    ask(server, &format!("{head}{body}"))
}

/// HTTP/1.0: the answer ends with the connection.
fn ask(server: SocketAddr, question: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(question.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok());
    Ok(Answer {
        status: status.unwrap_or(0),
        body: body.to_owned(),
    })
}
