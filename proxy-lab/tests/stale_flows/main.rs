//! How fast long-lived UDP conversations follow a change of endpoints (semantics L3, L6; ADR 4, 9). Each
//! sends a datagram every few milliseconds from one socket, and the datapath checks the backend for each.
//! Traffic reaches the new server within 100 ms of the change. A socket that the socket hooks connected
//! gets an error within that time, and reaches the new server when it reconnects.

mod api;
mod streams;

use proxy_lab::objects::{Endpoint, Service};
use proxy_lab::{
    AgentOptions, Family, Folder, Lab, PodSpec, Result, address, clock, skipped, spawn_agents,
};
use std::time::Duration;

use streams::{Conversation, NODE_PORT, PORT, PodsBy, everywhere, follow, judge};

const TARGET_PORT: u16 = 8080;
/// Flows of either kind must move: to a server here, and to one elsewhere.
const SERVERS: [&str; 2] = ["here", "there"];

fn lab(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["sockets", "here"])
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .pods("worker-2", ["there"])
        .up()?;
    for name in SERVERS {
        lab.pod(name).serve(TARGET_PORT)?;
    }
    Ok(lab)
}

fn service() -> Service {
    Service::new("flows")
        .cluster_ips(address::cluster_ip(1))
        .both(PORT)
        .node_port(NODE_PORT)
}

/// How an endpoint is.
#[derive(Clone, Copy)]
enum Is {
    Ready,
    NotReady,
    Terminating { serving: bool },
}

/// Makes these pods the endpoints of both families, by one event; when that was.
fn put(lab: &Lab, source: &Folder, servers: &[(&str, Is)]) -> Result<Duration> {
    let slices = Family::ALL.map(|family| {
        let endpoints = servers.iter().map(|(name, is)| {
            let endpoint = Endpoint::of(lab.pod(name), family);
            match *is {
                Is::Ready => endpoint,
                Is::NotReady => endpoint.not_ready(),
                Is::Terminating { serving } => endpoint.terminating(serving),
            }
        });
        service().slice(family, TARGET_PORT).endpoints(endpoints)
    });
    let event = clock::now();
    source.put_together("slices.yaml", slices)?;
    Ok(event)
}

/// The servers of a round: the one that leaves, and the one that comes.
fn turn(round: usize) -> (&'static str, &'static str) {
    (SERVERS[round % 2], SERVERS[(round + 1) % 2])
}

/// All conversations are with the first server; `change` sends them to the other and back, round by round.
fn moves(
    label: &str,
    title: &str,
    options: &[&str],
    pods: PodsBy,
    change: impl Fn(&Lab, &Folder, &[Conversation<'_>], (&str, &str)) -> Result<Duration>,
) -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab(label)?;
    let source = lab.source()?;
    source.put(service())?;
    let event = put(&lab, &source, &[(SERVERS[0], Is::Ready)])?;
    let agents = AgentOptions::files(source.path());
    let agents = options.iter().fold(agents, AgentOptions::arg);
    let _agents = spawn_agents(&lab, &agents)?;
    let mut all = everywhere(&lab, pods)?;
    streams::wait_for(&all, event, SERVERS[0])?;
    judge(title, &mut all, |round, all| {
        let (old, new) = turn(round);
        let event = change(&lab, &source, all, (old, new))?;
        follow(all, event, new)
    })
}

#[test]
fn l3_conversations_move_when_their_server_is_replaced() -> Result<()> {
    moves(
        "stalerepl",
        "One endpoint is replaced by another",
        &[],
        PodsBy::Sockets,
        |lab, source, _, (_, new)| put(lab, source, &[(new, Is::Ready)]),
    )
}

#[test]
fn l3_connected_sockets_of_pods_move_silently_where_packets_are_translated() -> Result<()> {
    moves(
        "staletcp",
        "One endpoint is replaced by another, --socket-lb=tcp",
        &["--socket-lb=tcp"],
        PodsBy::Packets,
        |lab, source, _, (_, new)| put(lab, source, &[(new, Is::Ready)]),
    )
}

#[test]
fn l3_conversations_move_when_their_server_does_not_serve_though_it_lives() -> Result<()> {
    moves(
        "stalenot",
        "An endpoint becomes unready, another ready",
        &[],
        PodsBy::Sockets,
        |lab, source, _, (old, new)| put(lab, source, &[(old, Is::NotReady), (new, Is::Ready)]),
    )
}

#[test]
fn l4_conversations_stay_with_a_server_that_terminates_until_it_serves_no_more() -> Result<()> {
    moves(
        "staleterm",
        "A terminating endpoint serves no more",
        &[],
        PodsBy::Sockets,
        |lab, source, all, (old, new)| {
            let leaving = (old, Is::Terminating { serving: true });
            let event = put(lab, source, &[leaving, (new, Is::Ready)])?;
            let (client, to) = (lab.pod("sockets"), address::cluster_ip(1).v4);
            let to = (to, PORT).into();
            proxy_lab::eventually("new connections leave it", streams::PATIENCE, || {
                Ok(client.tcp(to)?.server() == Some(new))
            })?;
            // Both families come with one event, and nodes follow it at the same time.
            std::thread::sleep(3 * streams::SOON);
            for one in all {
                let turns = one.report()?.turns;
                let later = turns.iter().find(|turn| turn.at >= event);
                assert!(later.is_none(), "{} did not stay: {later:?}", one.what);
            }
            let leaving = (old, Is::Terminating { serving: false });
            put(lab, source, &[leaving, (new, Is::Ready)])
        },
    )
}

#[test]
fn l3_conversations_begin_with_the_first_endpoint() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("stalefirst")?;
    let source = lab.source()?;
    source.put(service())?;
    let _agents = spawn_agents(&lab, &AgentOptions::files(source.path()))?;
    let mut all = everywhere(&lab, PodsBy::Sockets)?;
    judge("The first endpoint", &mut all, |round, all| {
        streams::wait_for_silence(all)?;
        let (_, new) = turn(round);
        let event = put(&lab, &source, &[(new, Is::Ready)])?;
        streams::wait_for(all, event, new)?;
        for one in all.iter_mut() {
            one.note_answer(event, new)?;
        }
        put(&lab, &source, &[]).map(drop)
    })
}
