//! UDP conversations that go on while endpoints change, and how soon each followed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_lab::protocol::{Failure, UdpTurn};
use proxy_lab::{
    Family, Host, Lab, Result, UdpStream, UdpStreamReport, UdpStreamRequest, address, eventually,
};

pub const PORT: u16 = 80;
pub const NODE_PORT: u16 = 30_400;
/// Each socket sends a question so often.
const INTERVAL: Duration = Duration::from_millis(5);

/// How soon traffic follows a change.
pub const SOON: Duration = Duration::from_millis(100);
/// On a busy machine agent and clients may have to wait for a processor; but in every round traffic follows in less time than
/// anything would take that moves a flow but the datapath's own look at its backend: a round of the collector begins each 10 s,
/// the shortest timeout is 30 s.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Rounds at least, …
const ROUNDS: usize = 5;
/// … and at most, until each conversation has followed in time as often as not.
const MOST_ROUNDS: usize = 25;

/// A conversation.
pub struct Conversation<'a> {
    pub what: String,
    stream: UdpStream<'a>,
    /// Connected by the socket hooks: it is told that its server is gone, and connects again.
    is_told: bool,
    moved: Vec<Duration>,
    told: Vec<Duration>,
}

/// Who translates a pod's UDP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PodsBy {
    Sockets,
    Packets,
}

/// Conversations of every kind: connected and not, from everywhere, to each kind of frontend.
pub fn everywhere(lab: &Lab, pods: PodsBy) -> Result<Vec<Conversation<'_>>> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let cluster_ip: SocketAddr = (address::cluster_ip(1).of(family), PORT).into();
        let node_port = lab.node("worker-1").at(family, NODE_PORT);
        let inside: [(&Host, bool); 3] = [
            (lab.pod("sockets"), pods == PodsBy::Sockets),
            (lab.pod("packets"), false),
            (lab.node("worker-1"), true),
        ];
        let inside = inside
            .into_iter()
            .flat_map(|(client, hooks)| [(client, hooks, cluster_ip), (client, hooks, node_port)]);
        for (client, hooks, to) in inside.chain([(lab.workstation(), false, node_port)]) {
            for connected in [false, true] {
                all.push(Conversation::begin(client, to, connected, hooks)?);
            }
        }
    }
    Ok(all)
}

impl<'a> Conversation<'a> {
    pub fn begin(client: &'a Host, to: SocketAddr, connected: bool, hooks: bool) -> Result<Self> {
        let kind = if connected {
            "connected"
        } else {
            "unconnected"
        };
        let request = UdpStreamRequest {
            to,
            connected,
            interval: INTERVAL,
        };
        Ok(Self {
            what: format!("{} → {to}, {kind}", client.name()),
            stream: client.udp_stream(request)?,
            is_told: connected && hooks,
            moved: Vec::new(),
            told: Vec::new(),
        })
    }

    pub fn report(&self) -> Result<UdpStreamReport> {
        self.stream.report()
    }

    /// The server that answers now.
    pub fn server(&self) -> Result<Option<String>> {
        let last = self.report()?.turns.pop();
        Ok(last.and_then(|turn| turn.what.ok()))
    }

    /// Notes when `server` answered first after `event`, and when the socket was told, if that is its way; nothing else may have
    /// happened to it.
    pub fn note(&mut self, event: Duration, server: &str) -> Result<()> {
        let report = self.report()?;
        let moved = self.note_answer(event, server)?;
        let failures = report
            .turns
            .iter()
            .filter(|turn| turn.at >= event && turn.at < moved);
        let mut failures = failures.filter_map(|turn| Some((turn.at, turn.what.as_ref().err()?)));
        let first = failures.next();
        assert_eq!(first.is_some(), self.is_told, "{}: {first:?}", self.what);
        if let Some((at, failure)) = first {
            assert!(is_abort(failure), "{}: {failure}", self.what);
            self.told.push(at.saturating_sub(event));
        } else {
            assert_eq!(report.opened, 1, "{}: another socket", self.what);
        }
        Ok(())
    }

    /// Notes when `server` answered first after `event`, and returns it.
    pub fn note_answer(&mut self, event: Duration, server: &str) -> Result<Duration> {
        let turns = self.report()?.turns;
        let moved = answered(&turns, event, server);
        let moved = moved.unwrap_or_else(|| panic!("{}: {turns:?}", self.what));
        self.moved.push(moved.saturating_sub(event));
        Ok(moved)
    }
}

/// As ADR 9 says: the kernel looks for a peer before it looks for errors.
fn is_abort(failure: &Failure) -> bool {
    [libc::ECONNABORTED, libc::EDESTADDRREQ]
        .map(Some)
        .contains(&failure.errno)
}

/// When `server` answered first after `event`.
fn answered(turns: &[UdpTurn], event: Duration, server: &str) -> Option<Duration> {
    let mut later = turns.iter().filter(|turn| turn.at >= event);
    later
        .find(|turn| turn.what.as_deref() == Ok(server))
        .map(|turn| turn.at)
}

/// Waits until `server` has answered in each conversation after `event`, and notes how long that took.
pub fn follow(all: &mut [Conversation<'_>], event: Duration, server: &str) -> Result<()> {
    wait_for(all, event, server)?;
    all.iter_mut().try_for_each(|one| one.note(event, server))
}

/// Waits until `server` has answered in each conversation after `event`.
pub fn wait_for(all: &[Conversation<'_>], event: Duration, server: &str) -> Result<()> {
    let mut left: Vec<_> = all.iter().collect();
    let followed = eventually("all conversations have followed", PATIENCE, || {
        let mut still = Vec::new();
        for one in std::mem::take(&mut left) {
            let turns = one.report()?.turns;
            if answered(&turns, event, server).is_none() {
                still.push(one);
            }
        }
        left = still;
        Ok(left.is_empty())
    });
    for one in left {
        eprintln!("{} did not follow: {:?}", one.what, one.report()?.turns);
    }
    followed.map(drop)
}

/// Waits until no conversation gets answers.
pub fn wait_for_silence(all: &[Conversation<'_>]) -> Result<()> {
    let answers = || -> Result<u64> {
        let reports: Result<Vec<_>> = all.iter().map(Conversation::report).collect();
        Ok(reports?.iter().map(|report| report.answers).sum())
    };
    eventually("nobody answers", PATIENCE, || {
        let before = answers()?;
        std::thread::sleep(10 * INTERVAL);
        Ok(answers()? == before)
    })
    .map(drop)
}

/// Does `round` again and again until each conversation has followed in time as often as not; then prints how soon each did,
/// and sees to it that each did so in time at least once: what depends on a timer never would.
pub fn judge<'a>(
    title: &str,
    all: &mut Vec<Conversation<'a>>,
    mut round: impl FnMut(usize, &mut Vec<Conversation<'a>>) -> Result<()>,
) -> Result<()> {
    let mut rounds = 0;
    while rounds < ROUNDS || rounds < MOST_ROUNDS && all.iter().any(|one| !one.is_in_time()) {
        round(rounds, all)?;
        rounds += 1;
    }
    println!("\n{title}: {rounds} rounds at {}\n", clock_and_load());
    println!(
        "| conversation | ms until the new server answers: least | median | most | until it is told: median | most |"
    );
    println!("|---|---|---|---|---|---|");
    let mut late = BTreeMap::new();
    for one in all.iter() {
        let [least, median, most] = figures(&one.moved);
        let [_, told, told_most] = figures(&one.told);
        println!(
            "| {} | {least} | {median} | {most} | {told} | {told_most} |",
            one.what
        );
        let best = one.moved.iter().chain(&one.told).min();
        let told = one.told.iter().min().is_none_or(|told| *told <= SOON);
        if !told || best.is_none_or(|best| *best > SOON) {
            late.insert(&one.what, (&one.moved, &one.told));
        }
    }
    assert!(late.is_empty(), "never within {SOON:?}: {late:?}");
    Ok(())
}

impl Conversation<'_> {
    /// Whether half of its rounds were in time.
    fn is_in_time(&self) -> bool {
        let median = |times: &[Duration]| {
            let mut times = times.to_vec();
            times.sort_unstable();
            times.get(times.len() / 2).copied().unwrap_or_default()
        };
        median(&self.moved) <= SOON && median(&self.told) <= SOON
    }
}

/// Least, median and most, in milliseconds.
fn figures(times: &[Duration]) -> [String; 3] {
    let mut times = times.to_vec();
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    [0, times.len() / 2, last].map(|at| {
        times.get(at).map_or_else(String::new, |time| {
            format!("{:.1}", time.as_secs_f64() * 1000.0)
        })
    })
}

fn clock_and_load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!("load {load}")
}
