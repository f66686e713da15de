//! Requests to serve, send and probe.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Protocol;

/// A server. It answers each line (TCP) or datagram (UDP) with the text form of
/// [`Identity`](super::Identity), padded with as many blanks as the question had, and an HTTP GET with a
/// page that contains it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Serve {
    /// The server's name, as in its answers.
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
    /// One connection with a timeout of 3 s. (On veth, a client may see a refusal by ICMP or RST only
    /// after the SYN's retransmission at 1 s. With a shorter timeout the refusal would look like a
    /// drop.)
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
    /// Connect the socket first (the kernel reports ICMP errors to connected sockets only).
    pub connected: bool,
    /// Send all from one socket instead of one socket each.
    pub same_socket: bool,
    /// Bytes that are added to each question, and by the server to its answer.
    pub padding: usize,
    /// The hop limit. If set, the socket receives all ICMP errors (`IP_RECVERR`).
    pub hops: Option<u8>,
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
            hops: None,
        }
    }

    /// Sets the hop limit. The sockets then receive all ICMP errors.
    #[must_use]
    pub fn hops(self, hops: u8) -> Self {
        Self {
            hops: Some(hops),
            ..self
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
pub fn unspecified_like(address: SocketAddr) -> IpAddr {
    match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A prober: opens a connection or sends a datagram every `interval`, until it is stopped.
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

/// One UDP socket that sends a question each `interval`, whether or not answers come, until it is stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UdpStreamRequest {
    /// Destination.
    pub to: SocketAddr,
    /// Whether to connect the socket. If connecting fails, or a call reports an error, the next turn
    /// opens a new socket.
    pub connected: bool,
    /// Time between questions.
    pub interval: Duration,
}

/// A cloud load balancer and its clients: new connections, one after the other, each to a node whose health
/// check succeeds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BalanceRequest {
    /// The nodes.
    pub nodes: Vec<BalancedNode>,
    /// Time between two health checks of a node.
    pub check_interval: Duration,
    /// Connections per second in total.
    pub rate: u32,
    /// For each: connect, send and read together.
    pub timeout: Duration,
}

/// A node as a balancer sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BalancedNode {
    /// Destination of connections.
    pub to: SocketAddr,
    /// Address of the health check (`healthCheckNodePort`). HTTP status 200 means that the node takes
    /// connections.
    pub check: SocketAddr,
}

/// A tun device whose packets go to other hosts, each in a UDP datagram.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tunnel {
    /// Name of the device, which must exist.
    pub device: String,
    /// Local address, to receive and send datagrams.
    pub bind: SocketAddr,
    /// The other hosts: the first addresses of the ranges behind each (/24 and /64), and its tunnel
    /// address.
    pub peers: Vec<(Ipv4Addr, Ipv6Addr, SocketAddr)>,
}
