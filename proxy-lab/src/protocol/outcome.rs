//! Results of requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A server's answer: `name client_ip:port local_ip:port` and a newline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The server's name.
    pub server: String,
    /// The client's address, as seen by the server.
    pub client: SocketAddr,
    /// The server's local address (getsockname).
    pub local: SocketAddr,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.server, self.client, self.local)
    }
}

impl std::str::FromStr for Identity {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let (Some(server), Some(client), Some(local), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(format!("not an identity line: {line:?}"));
        };
        let address = |word: &str| {
            word.parse()
                .map_err(|_| format!("not an address: {word:?} in {line:?}"))
        };
        Ok(Self {
            server: server.to_owned(),
            client: address(client)?,
            local: address(local)?,
        })
    }
}

/// One connection or datagram, and its result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exchange {
    /// The server's answer, or the failure.
    pub outcome: Result<Identity, Failure>,
    /// From connect or send to the answer or failure.
    pub elapsed: Duration,
    /// The client's local address (getsockname).
    pub local: Option<SocketAddr>,
    /// The peer as seen by the client: getpeername if the socket is connected, else the answer's source
    /// address.
    pub peer: Option<SocketAddr>,
}

impl Exchange {
    /// The name of the server that answered.
    pub fn server(&self) -> Option<&str> {
        self.outcome
            .as_ref()
            .ok()
            .map(|identity| identity.server.as_str())
    }
}

/// Why an exchange had no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was tried: `connect`, `send`, `read`…
    pub stage: String,
    /// How it ended.
    pub kind: FailureKind,
    /// The error number, if the kernel gave one.
    pub errno: Option<i32>,
    /// The error as text.
    pub message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.stage, self.message)
    }
}

/// Kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// ECONNREFUSED.
    Refused,
    /// No answer in time.
    TimedOut,
    /// ECONNRESET, EPIPE, or end of file before an answer.
    Reset,
    /// ECONNABORTED.
    Aborted,
    /// ENETUNREACH, EHOSTUNREACH.
    Unreachable,
    /// Anything else.
    Other,
}

/// What a prober saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Attempts that ended.
    pub attempts: u64,
    /// With an answer.
    pub ok: u64,
    /// With ECONNREFUSED.
    pub refused: u64,
    /// Without an answer in time.
    pub timed_out: u64,
    /// With any other error.
    pub other: u64,
    /// Answers by server.
    pub servers: BTreeMap<String, u64>,
    /// Failures, oldest first (the first 1,000): time since the prober started, and why.
    pub failures: Vec<(Duration, Failure)>,
    /// The slowest answer.
    pub slowest: Duration,
}

impl ProbeReport {
    /// Attempts without an answer.
    pub fn failed(&self) -> u64 {
        self.attempts - self.ok
    }
}

/// What a balancer saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BalanceReport {
    /// Results of the connections.
    pub connections: ProbeReport,
    /// Connections that took at least as long as the SYN's first retransmission (1 s).
    pub late: u64,
    /// Changes of health check results, oldest first: time since the balancer started, the node's index
    /// in the request, and whether the node takes connections.
    pub turns: Vec<(Duration, usize, bool)>,
}

/// What a UDP stream saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct UdpStreamReport {
    /// How often the stream opened a socket.
    pub opened: u64,
    /// Answers.
    pub answers: u64,
    /// Changes of the server or error, oldest first.
    pub turns: Vec<UdpTurn>,
}

/// A change in a UDP stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UdpTurn {
    /// When, by [`now`](crate::clock::now).
    pub at: Duration,
    /// The server that now answers, or the error that calls now return.
    pub what: Result<String, Failure>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_line_round_trips_for_both_families() {
        for line in ["a 10.0.0.1:5 10.0.0.2:80", "b [fd00::1]:5 [fd00::2]:80"] {
            let identity: Identity = line.parse().expect("parses");
            assert_eq!(identity.to_string(), line);
        }
        assert!("HTTP/1.1 200 OK".parse::<Identity>().is_err());
        assert!("a b c".parse::<Identity>().is_err());
    }
}
