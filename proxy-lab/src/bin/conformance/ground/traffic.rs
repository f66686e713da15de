//! Sending requests, and checking the results.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use proxy_lab::protocol::FailureKind;
use proxy_lab::{Exchange, Host, Probe, ProbeRequest, Protocol, Result, TcpRequest, UdpRequest};

use super::Ground;
use crate::case::{Outcome, ensure};

/// Requests by which all servers are met, also one that should not be: one of three is missed by chance once in 4·10⁵ rounds.
const ROUND: usize = 32;
/// How long one request may take while it is waited for success.
const SUCCESS_WITHIN: Duration = Duration::from_secs(1);
/// How long one may take that must be refused: on veth a refusal may be seen only after the SYN's retransmit at 1 s.
const REFUSED_WITHIN: Duration = Duration::from_secs(3);
/// How long silence must last to be one: longer than any refusal takes, see above.
const SILENCE: Duration = Duration::from_millis(2500);

/// Ports of datagrams.
const FIRST_PORT: u16 = 33_000;
const LAST_PORT: u16 = 60_000;
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A client and where it asks.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    pub from: &'a Host,
    pub protocol: Protocol,
    pub to: SocketAddr,
}

impl<'a> Way<'a> {
    /// By TCP.
    pub fn tcp(from: &'a Host, to: SocketAddr) -> Self {
        let protocol = Protocol::Tcp;
        Self { from, protocol, to }
    }

    /// By UDP, each datagram from a new socket.
    pub fn udp(from: &'a Host, to: SocketAddr) -> Self {
        let protocol = Protocol::Udp;
        Self { from, protocol, to }
    }

    /// By both.
    pub fn both(from: &'a Host, to: SocketAddr) -> [Self; 2] {
        [Self::tcp(from, to), Self::udp(from, to)]
    }

    /// Asks so often.
    pub fn ask(&self, times: usize, timeout: Duration) -> Result<Answers> {
        match self.protocol {
            Protocol::Tcp => {
                let request = TcpRequest::to(self.to).times(times).timeout(timeout);
                Ok(Answers::of(&self.from.tcp_all(request)?))
            }
            Protocol::Udp => self.datagrams(times, &UdpRequest::to(self.to).timeout(timeout)),
        }
    }

    /// Like a plain request, but able to see refusals: UDP needs a connected socket for that.
    fn ask_for_refusal(&self, times: usize) -> Result<Answers> {
        match self.protocol {
            Protocol::Tcp => self.ask(times, REFUSED_WITHIN),
            Protocol::Udp => {
                let request = UdpRequest::to(self.to).timeout(REFUSED_WITHIN);
                self.datagrams(times, &request.connected())
            }
        }
    }

    /// Sends each datagram from a port that was not used recently. A recently used port could belong to
    /// an existing flow.
    fn datagrams(&self, times: usize, request: &UdpRequest) -> Result<Answers> {
        let mut exchanges = Vec::with_capacity(times);
        while exchanges.len() < times {
            let number = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
            let port = FIRST_PORT + number % (LAST_PORT - FIRST_PORT);
            let exchange = self.from.udp_all(request.clone().from_port(port))?;
            // One that the kernel has given to another socket does not count.
            exchanges.extend(exchange.into_iter().filter(|exchange| !is_in_use(exchange)));
        }
        Ok(Answers::of(&exchanges))
    }
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} {}", self.from.name(), self.to, self.protocol)
    }
}

/// What came of some requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// Who answered, and how often.
    pub servers: BTreeMap<String, usize>,
    /// The client's addresses as servers saw them.
    pub clients: BTreeSet<IpAddr>,
    /// Failures by kind.
    pub failures: BTreeMap<FailureKind, usize>,
    /// The last of them, in words.
    pub why: Option<String>,
}

impl Answers {
    /// Counts.
    pub fn of(exchanges: &[Exchange]) -> Self {
        let mut answers = Self::default();
        for exchange in exchanges {
            match &exchange.outcome {
                Ok(identity) => {
                    *answers.servers.entry(identity.server.clone()).or_default() += 1;
                    answers.clients.insert(identity.client.ip());
                }
                Err(failure) => {
                    *answers.failures.entry(failure.kind).or_default() += 1;
                    answers.why = Some(failure.to_string());
                }
            }
        }
        answers
    }

    /// Whether all were answered, by exactly these.
    pub fn are_by(&self, servers: &BTreeSet<&str>) -> bool {
        self.failures.is_empty()
            && self
                .servers
                .keys()
                .map(String::as_str)
                .eq(servers.iter().copied())
    }

    /// Whether all ended like this.
    pub fn all_failed(&self, kind: FailureKind) -> bool {
        self.servers.is_empty() && self.failures.keys().eq([&kind])
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = self
            .servers
            .iter()
            .map(|(name, count)| format!("{count} by {name}"));
        let failures = self
            .failures
            .iter()
            .map(|(kind, count)| format!("{count} {kind:?}"));
        f.write_str(&servers.chain(failures).collect::<Vec<_>>().join(", "))?;
        self.why.iter().try_for_each(|why| write!(f, " ({why})"))
    }
}

impl Ground<'_> {
    /// Expects that soon exactly these servers answer on all of these ways, and that this does not
    /// change.
    pub fn served_by<'w, S: AsRef<str>>(
        &self,
        ways: impl IntoIterator<Item = Way<'w>>,
        servers: impl IntoIterator<Item = S>,
    ) -> Outcome {
        let servers: Vec<S> = servers.into_iter().collect();
        let servers: BTreeSet<&str> = servers.iter().map(AsRef::as_ref).collect();
        for way in ways {
            let mut last = Answers::default();
            let settled = self.eventually("", || {
                last = round(&way, &servers)?;
                Ok(last.are_by(&servers))
            });
            settled.map_err(|failure| {
                failure.in_words(|| self.unmet(&way, &format!("answers by {servers:?}"), &last))
            })?;
            let again = round(&way, &servers)?;
            ensure(again.are_by(&servers), || {
                format!("{way}: answers by {servers:?}, and later {again}")
            })?;
        }
        Ok(())
    }

    /// Soon connections are refused on all of these ways, and it stays so.
    pub fn refused<'w>(&self, ways: impl IntoIterator<Item = Way<'w>>) -> Outcome {
        for way in ways {
            let mut last = Answers::default();
            let settled = self.eventually("", || {
                last = way.ask_for_refusal(1)?;
                Ok(last.all_failed(FailureKind::Refused))
            });
            settled.map_err(|failure| failure.in_words(|| self.unmet(&way, "a refusal", &last)))?;
            let again = way.ask_for_refusal(2)?;
            ensure(again.all_failed(FailureKind::Refused), || {
                format!("{way}: a refusal, and later {again}")
            })?;
        }
        Ok(())
    }

    fn unmet(&self, way: &Way<'_>, wanted: &str, last: &Answers) -> String {
        let within = self.patience;
        format!("{way}: {wanted} within {within:?} was awaited, at last there was {last}")
    }
}

#[expect(
    clippy::unused_self,
    reason = "a case says all that it expects in one form, whether it has to be waited for or not"
)]
impl Ground<'_> {
    /// Expects neither an answer nor a refusal on these ways. The subject must have programmed all
    /// changes before: see [`Ground::settled`].
    pub fn silent<'w>(&self, ways: impl IntoIterator<Item = Way<'w>>) -> Outcome {
        for way in ways {
            let answers = way.ask(1, SILENCE)?;
            ensure(answers.all_failed(FailureKind::TimedOut), || {
                format!("{way}: silence was expected, there was {answers}")
            })?;
        }
        Ok(())
    }

    /// Expects no answer on these ways: a timeout, a refusal, or no route. See also
    /// [`Ground::settled`].
    pub fn unanswered<'w>(&self, ways: impl IntoIterator<Item = Way<'w>>) -> Outcome {
        for way in ways {
            let answers = way.ask(1, SILENCE)?;
            ensure(answers.servers.is_empty(), || format!("{way}: {answers}"))?;
        }
        Ok(())
    }

    /// Asks on a way that works, each 20 ms, until [`Self::never_failed`].
    pub fn probe<'w>(&self, way: &Way<'w>) -> Result<Probe<'w>> {
        way.from.probe(ProbeRequest {
            protocol: way.protocol,
            to: way.to,
            interval: Duration::from_millis(20),
            timeout: REFUSED_WITHIN,
        })
    }

    /// Ends it: all was answered.
    pub fn never_failed(&self, probe: Probe<'_>) -> Outcome {
        let report = probe.stop()?;
        ensure(report.failed() == 0 && report.ok > 0, || {
            let first = report.failures.first();
            let first = first.map(|(at, why)| format!(", the first after {at:?}: {why}"));
            let first = first.unwrap_or_default();
            format!(
                "{} of {} requests failed{first}",
                report.failed(),
                report.attempts
            )
        })
    }

    /// The client addresses that the servers see on a way that works.
    pub fn client_seen(&self, way: &Way<'_>) -> Outcome<BTreeSet<IpAddr>> {
        let answers = way.ask(ROUND / 2, SUCCESS_WITHIN)?;
        ensure(answers.failures.is_empty(), || format!("{way}: {answers}"))?;
        Ok(answers.clients)
    }
}

/// Whether another socket has the port.
fn is_in_use(exchange: &Exchange) -> bool {
    let failure = exchange.outcome.as_ref().err();
    failure.is_some_and(|failure| failure.errno == Some(libc::EADDRINUSE))
}

/// Enough requests to meet all of them; few, if the first fails or a stranger answers.
fn round(way: &Way<'_>, servers: &BTreeSet<&str>) -> Result<Answers> {
    let first = way.ask(1, SUCCESS_WITHIN)?;
    let known = first
        .servers
        .keys()
        .all(|name| servers.contains(name.as_str()));
    if !first.failures.is_empty() || !known {
        return Ok(first);
    }
    way.ask(ROUND, 2 * SUCCESS_WITHIN)
}
