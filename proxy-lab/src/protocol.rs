//! The protocol between the library and a `lab-host` process: one JSON object per line, requests on the
//! process's stdin, replies on its stdout. A reply carries the id of its request. Replies may come in any
//! order.

mod outcome;
mod request;

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use outcome::{
    BalanceReport, Exchange, Failure, FailureKind, Identity, ProbeReport, UdpStreamReport, UdpTurn,
};
pub use request::{
    BalanceRequest, BalancedNode, ProbeRequest, Serve, TcpRequest, Tunnel, UdpRequest,
    UdpStreamRequest, unspecified_like,
};

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
    /// The result, or an error message.
    pub result: Result<Answer, String>,
}

/// Commands of a `lab-host`.
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
    /// Make TCP connections, one after the other; answered by [`Answer::Exchanges`].
    Tcp(TcpRequest),
    /// Send UDP requests, one after the other; answered by [`Answer::Exchanges`].
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
    /// Report what a prober saw so far; answered by [`Answer::Probed`].
    ProbeReport {
        /// From [`Answer::Started`].
        probe: u64,
        /// Also stop the prober, and wait for its pending attempts.
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
    /// Start a UDP stream; answered by [`Answer::Started`].
    UdpStreamStart(UdpStreamRequest),
    /// Report what a UDP stream saw so far; answered by [`Answer::Streamed`].
    UdpStreamReport {
        /// From [`Answer::Started`].
        stream: u64,
        /// Also stop it.
        stop: bool,
    },
    /// Start a balancer; answered by [`Answer::Started`].
    BalanceStart(BalanceRequest),
    /// Stop a balancer; answered by [`Answer::Balanced`].
    BalanceStop {
        /// From [`Answer::Started`].
        balancer: u64,
    },
    /// Report what a balancer saw so far; answered by [`Answer::Balanced`].
    BalanceReport {
        /// From [`Answer::Started`].
        balancer: u64,
    },
    /// Forward packets between a tun device and other hosts.
    Tunnel(Tunnel),
    /// Keep running when stdin is closed.
    Detach,
}

/// Results of commands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// Success without a result.
    Done,
    /// A server runs.
    Serving {
        /// Its handle.
        server: u64,
        /// The listening address. If the request had port 0, the port that the kernel chose.
        address: SocketAddr,
    },
    /// Something was started.
    Started {
        /// Its handle.
        handle: u64,
    },
    /// Connections are held. Those that could not be opened are errors in `opened`, and are not held.
    Held {
        /// Their handle.
        hold: u64,
        /// First exchange over each.
        opened: Vec<Exchange>,
    },
    /// One result per request.
    Exchanges(Vec<Exchange>),
    /// A prober's report.
    Probed(ProbeReport),
    /// A balancer's report.
    Balanced(BalanceReport),
    /// A UDP stream's report.
    Streamed(UdpStreamReport),
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
