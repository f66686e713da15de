//! What the library and a `lab-host` process say to each other: one JSON object a line, requests on the process's
//! stdin, replies on its stdout. Replies carry the request's id and may come in any order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The first line that a `lab-host` prints.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::inside::FINGERPRINT`] of the sources that the process was built from.
    pub fingerprint: u64,
    /// Its process id.
    pub pid: u32,
}

/// One request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the library, repeated in the reply.
    pub id: u64,
    /// What to do.
    pub command: Command,
}

/// One reply.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id.
    pub id: u64,
    /// The result, or a sentence that says why there is none.
    pub result: Result<Answer, String>,
}

/// What a `lab-host` can be asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Command {
    /// Start a server; answered by [`Answer::Serving`].
    Serve(Serve),
    /// Stop a server.
    StopServing {
        /// From [`Answer::Serving`].
        server: u64,
        /// Also reset the connections it has accepted.
        drop_connections: bool,
    },
    /// TCP connections, one after the other; answered by [`Answer::Exchanges`].
    Tcp(TcpRequest),
    /// UDP requests, one after the other; answered by [`Answer::Exchanges`].
    Udp(UdpRequest),
    /// Open TCP connections and keep them; answered by [`Answer::Held`].
    HoldOpen {
        /// Where, how many and from where.
        request: TcpRequest,
    },
    /// Send a line over each held connection and read the answer; answered by [`Answer::Exchanges`].
    HoldCheck {
        /// From [`Answer::Held`].
        hold: u64,
        /// How long to wait for all answers together.
        timeout: Duration,
    },
    /// Close held connections.
    HoldClose {
        /// From [`Answer::Held`].
        hold: u64,
    },
    /// Start a prober; answered by [`Answer::Started`].
    ProbeStart(ProbeRequest),
    /// What a prober saw so far; answered by [`Answer::Probed`].
    ProbeReport {
        /// From [`Answer::Started`].
        probe: u64,
        /// Also stop it, and wait for its attempts under way.
        stop: bool,
    },
    /// Open a UDP socket that lives until it is closed; answered by [`Answer::Started`].
    UdpOpen {
        /// Local address, or the family's unspecified one.
        bind: SocketAddr,
        /// Connect it.
        connect: Option<SocketAddr>,
    },
    /// Send one datagram on an open socket and wait for the answer; answered by [`Answer::Exchanges`] with one item.
    UdpExchange {
        /// From [`Answer::Started`].
        socket: u64,
        /// Destination; `None` on a connected socket.
        to: Option<SocketAddr>,
        /// How long to wait.
        timeout: Duration,
    },
    /// Close an open UDP socket.
    UdpClose {
        /// From [`Answer::Started`].
        socket: u64,
    },
    /// Go on living when stdin ends.
    Detach,
}

/// Results of commands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing to tell.
    Done,
    /// A server runs.
    Serving {
        /// Its handle.
        server: u64,
        /// The address it listens on, with the port that the kernel chose if 0 was asked for.
        address: SocketAddr,
    },
    /// Something was started.
    Started {
        /// Its handle.
        handle: u64,
    },
    /// Connections are held; those that could not be opened are in `opened` as errors and not held.
    Held {
        /// Their handle.
        hold: u64,
        /// First exchange over each.
        opened: Vec<Exchange>,
    },
    /// Request by request.
    Exchanges(Vec<Exchange>),
    /// A prober's report.
    Probed(ProbeReport),
}

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A server that answers each line (TCP) or datagram (UDP) with [`Identity`]'s text form, with as many blanks as the question
/// had, and an HTTP GET with a page of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Serve {
    /// The name it gives.
    pub name: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where to listen. An IPv6 address never covers IPv4.
    pub address: SocketAddr,
    /// Wait before each answer.
    pub delay: Duration,
    /// Accept and read, never answer.
    pub silent: bool,
}

/// What a server says of an exchange: `name client_ip:port local_ip:port`, and a newline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The server's name.
    pub server: String,
    /// The client's address as the server saw it.
    pub client: SocketAddr,
    /// The server's own address as it saw it.
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

/// TCP connections to open, each with one question and one answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TcpRequest {
    /// Destination.
    pub to: SocketAddr,
    /// Local address and port, either may be unspecified.
    pub bind: Option<SocketAddr>,
    /// How many, one after the other.
    pub times: usize,
    /// For each: connect, send and read together.
    pub timeout: Duration,
    /// End with a reset instead of a FIN, so that the local port is free at once.
    pub abort: bool,
    /// Bytes that are added to each question, and by the server to its answer.
    pub padding: usize,
}

impl TcpRequest {
    /// One connection with a timeout of 3 s. (On veth a refusal by ICMP or RST may be seen only after the SYN's
    /// retransmit at 1 s, so shorter ones take it for a drop.)
    pub fn to(to: SocketAddr) -> Self {
        Self {
            to,
            bind: None,
            times: 1,
            timeout: Duration::from_secs(3),
            abort: false,
            padding: 0,
        }
    }

    /// How many connections.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// With this many bytes more in each question and each answer.
    #[must_use]
    pub fn padded(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// The timeout of each.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// From this local address or port; the connection then ends with a reset, so that the port can be used again.
    #[must_use]
    pub fn from(self, bind: SocketAddr) -> Self {
        Self {
            bind: Some(bind),
            abort: true,
            ..self
        }
    }

    /// From this local port of the unspecified address.
    #[must_use]
    pub fn from_port(self, port: u16) -> Self {
        let bind = SocketAddr::new(unspecified_like(self.to), port);
        self.from(bind)
    }
}

/// UDP datagrams to send, each with one answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UdpRequest {
    /// Destination.
    pub to: SocketAddr,
    /// Local address and port, either may be unspecified.
    pub bind: Option<SocketAddr>,
    /// How many, one after the other.
    pub times: usize,
    /// How long to wait for each answer.
    pub timeout: Duration,
    /// Connect the socket first (refusals by ICMP are reported to connected sockets only).
    pub connected: bool,
    /// Send all from one socket instead of one socket each.
    pub same_socket: bool,
    /// Bytes that are added to each question, and by the server to its answer.
    pub padding: usize,
}

impl UdpRequest {
    /// One datagram from an unconnected socket, with a timeout of 3 s.
    pub fn to(to: SocketAddr) -> Self {
        Self {
            to,
            bind: None,
            times: 1,
            timeout: Duration::from_secs(3),
            connected: false,
            same_socket: false,
            padding: 0,
        }
    }

    /// How many datagrams.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// With this many bytes more in each question and each answer.
    #[must_use]
    pub fn padded(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// The timeout of each.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// From a connected socket.
    #[must_use]
    pub fn connected(self) -> Self {
        Self {
            connected: true,
            ..self
        }
    }

    /// All from one socket.
    #[must_use]
    pub fn same_socket(self) -> Self {
        Self {
            same_socket: true,
            ..self
        }
    }

    /// From this local address or port.
    #[must_use]
    pub fn from(self, bind: SocketAddr) -> Self {
        Self {
            bind: Some(bind),
            ..self
        }
    }

    /// From this local port of the unspecified address.
    #[must_use]
    pub fn from_port(self, port: u16) -> Self {
        let bind = SocketAddr::new(unspecified_like(self.to), port);
        self.from(bind)
    }
}

/// The unspecified address of `address`'s family.
pub fn unspecified_like(address: SocketAddr) -> std::net::IpAddr {
    match address {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// One connection or datagram, and what came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exchange {
    /// The server's answer, or where it failed.
    pub outcome: Result<Identity, Failure>,
    /// From connect or send to the answer or failure.
    pub elapsed: Duration,
    /// The client's own address by getsockname.
    pub local: Option<SocketAddr>,
    /// The other side as the client sees it: getpeername if connected, else the answer's source address.
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
    /// ECONNRESET, EPIPE or an end without an answer.
    Reset,
    /// ECONNABORTED.
    Aborted,
    /// ENETUNREACH, EHOSTUNREACH.
    Unreachable,
    /// Anything else.
    Other,
}

/// A prober: a new connection or datagram each `interval`, until it is stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// TCP or UDP (a new unconnected socket for each datagram).
    pub protocol: Protocol,
    /// Destination.
    pub to: SocketAddr,
    /// Time between starts.
    pub interval: Duration,
    /// For each attempt.
    pub timeout: Duration,
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
