//! Programs of others see what they saw without ours, and traffic that is not ours passes untouched (semantics P4; ADR 3): a
//! counting program before ours and one behind it in the tcx chain, and a filter of a clsact qdisc behind both. On a kernel
//! without tcx there is nothing to be before or behind.

mod counter;
mod frames;
mod stay;
mod told;
mod watch;

use std::net::{IpAddr, SocketAddr};

use proxy_agent::dataplane::sys::link::AttachType;
use proxy_lab::objects::Service;
use proxy_lab::{
    AgentOptions, Cni, Family, Frame, Host, Lab, NodeSpec, PodSpec, Protocol, Result, TcpRequest,
    UdpRequest, address, skipped,
};

use counter::Count;
use frames::{Named, Parties};
use watch::{Watch, mac};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
/// `--tc` without tcx.
const CLSACT: &str = "clsact";
/// The sender of frames that no kernel makes by itself.
const MARKED: [u8; 6] = [2, 0xfe, 0xed, 0, 0, 1];
const NOT_SEEN_BY_NETFILTER: Cni = Cni::Bridge {
    hairpin: false,
    nf_call_iptables: false,
};

/// worker-1 with pods `a` and `b`, and `server` behind a Service.
fn lab(label: &str, cni: Cni) -> Result<Lab> {
    let lab = Lab::builder(label)
        .node(NodeSpec::new("worker-1").cni(cni))
        .pod(PodSpec::new("a", "worker-1").not_covered_by_sockets())
        .pods("worker-1", ["b", "server"])
        .up()?;
    for name in ["b", "server"] {
        lab.pod(name).serve(TARGET_PORT)?;
    }
    Ok(lab)
}

/// `tc`: as `--tc` takes it.
fn agent_options(lab: &Lab, tc: &str) -> Result<AgentOptions> {
    let source = lab.source()?;
    let service = Service::new("chain")
        .cluster_ips(address::cluster_ip(1))
        .both(PORT)
        .load_balancer(address::load_balancer(1).v4)
        .load_balancer(address::load_balancer(1).v6);
    for family in Family::ALL {
        source.put(service.slice_of(family, TARGET_PORT, [lab.pod("server")]))?;
    }
    source.put(service)?;
    Ok(AgentOptions::files(source.path()).arg("--tc").arg(tc))
}

fn start_agent(lab: &Lab, tc: &str) -> Result<proxy_lab::Agent> {
    lab.node("worker-1").spawn_agent(&agent_options(lab, tc)?)
}

fn parties(from: &Host, to: &Host, device: &str, service: [IpAddr; 2]) -> Parties {
    Parties {
        to: mac(to, device),
        from: MARKED,
        sender: Family::ALL.map(|family| from.ip(family)),
        receiver: Family::ALL.map(|family| to.at(family, 9)),
        service: service.map(|ip| SocketAddr::new(ip, PORT)),
    }
}

/// What watchers saw of the frames, device by device, and what the receiver got.
#[derive(Debug, PartialEq)]
struct Seen {
    counts: Vec<[Count; 3]>,
    arrived: Vec<(Option<u16>, Vec<u8>)>,
}

/// Sends the frames, and waits until each watched place has seen all of them, or no more come.
fn send(from: &Host, to: &Host, frames: &[Named], watches: &[Watch<'_>]) -> Result<Seen> {
    let capture = to.capture("eth0", &[])?;
    let bytes: Vec<_> = frames.iter().map(|(_, frame)| frame.clone()).collect();
    from.inject("eth0", &bytes)?;
    let mut counts = Vec::new();
    for watch in watches {
        counts.push(watch.settled());
    }
    let marked = |frame: &Frame| !frame.outgoing && frame.bytes[6..12] == MARKED;
    let captured = capture.stop()?;
    assert_eq!(captured.missed, 0, "the capture is not whole");
    let arrived = captured.frames.into_iter().filter(marked);
    Ok(Seen {
        counts,
        arrived: arrived.map(|frame| (frame.tag, frame.bytes)).collect(),
    })
}

/// Says which frames did not arrive as they were sent.
fn compare(frames: &[Named], without: &Seen, with: &Seen) {
    for (place, (without, with)) in without.counts.iter().zip(&with.counts).enumerate() {
        assert_eq!(with, without, "place {place}: before, behind, clsact");
    }
    let missing: Vec<_> = without
        .arrived
        .iter()
        .filter(|frame| !with.arrived.contains(frame))
        .collect();
    let named = |bytes: &[u8]| {
        // A tag is not in the bytes that arrive.
        let same = |frame: &&Named| frame.1.ends_with(&bytes[14..]) && bytes.len() > 14;
        frames.iter().find(same).map(|(what, _)| what.as_str())
    };
    let missing: Vec<_> = missing.iter().map(|(_, bytes)| named(bytes)).collect();
    assert!(missing.is_empty(), "not as without us: {missing:?}");
    assert!(
        with.arrived == without.arrived,
        "the frames come in another order"
    );
}

#[test]
fn p4_frames_between_pods_are_seen_by_all_and_arrive_as_they_were_sent() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("chainpod", NOT_SEEN_BY_NETFILTER)?;
    let (node, a, b) = (lab.node("worker-1"), lab.pod("a"), lab.pod("b"));
    let vip = address::cluster_ip(1);
    let parties = parties(a, b, "eth0", Family::ALL.map(|family| vip.of(family)));
    let frames = frames::all(&parties);
    let around = || {
        [
            Watch::on(node, &node.device_of("a"), AttachType::TcxIngress, MARKED),
            Watch::on(node, &node.device_of("b"), AttachType::TcxEgress, MARKED),
        ]
    };
    let without = {
        let watches = around();
        for watch in &watches {
            watch.assert_chain(0);
        }
        send(a, b, &frames, &watches)?
    };
    assert_eq!(
        without.arrived.len(),
        frames.len(),
        "without us, all arrive"
    );
    let _agent = start_agent(&lab, "auto")?;
    let watches = around();
    for watch in &watches {
        watch.assert_chain(1);
    }
    let with = send(a, b, &frames, &watches)?;
    compare(&frames, &without, &with);
    let [before, behind, filter] = with.counts[0];
    assert_eq!(before.frames, frames.len() as u64);
    assert_eq!((before, before), (behind, filter), "all see the same");
    eprintln!("{} frames between pods: {before:?}", frames.len());
    Ok(())
}

#[test]
fn p4_frames_from_outside_are_seen_by_all() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("chainout", Cni::Ptp)?;
    let (node, outside) = (lab.node("worker-1"), lab.workstation());
    let vip = address::load_balancer(1);
    let parties = parties(
        outside,
        node,
        "eth0",
        Family::ALL.map(|family| vip.of(family)),
    );
    let frames = frames::all(&parties);
    let around = || [Watch::on(node, "eth0", AttachType::TcxIngress, MARKED)];
    let without = send(outside, node, &frames, &around())?;
    let _agent = start_agent(&lab, "auto")?;
    let watches = around();
    watches[0].assert_chain(1);
    let with = send(outside, node, &frames, &watches)?;
    compare(&frames, &without, &with);
    let [before, behind, filter] = with.counts[0];
    assert_eq!(before.frames, frames.len() as u64);
    assert_eq!((before, before), (behind, filter), "all see the same");
    eprintln!("{} frames from outside: {before:?}", frames.len());
    Ok(())
}

/// Conversations between pods, and one that is ours: what is translated goes on to the others, too.
fn conversations(label: &str, cni: Cni, tc: &str) -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab(label, cni)?;
    let (node, a) = (lab.node("worker-1"), lab.pod("a"));
    let _agent = start_agent(&lab, tc)?;
    let bridged = matches!(cni, Cni::Bridge { .. });
    for (peer, destination) in [("b", None), ("server", Some(address::cluster_ip(1)))] {
        let peer = lab.pod(peer);
        // Bridged frames keep their sender, routed ones are the node's.
        let forwarded = |sender: &Host, device: &str| {
            if bridged {
                mac(sender, "eth0")
            } else {
                mac(node, device)
            }
        };
        let (to_peer, to_a) = (node.device_of(peer.name()), node.device_of("a"));
        let places = [
            ("a sends", &to_a, AttachType::TcxIngress, mac(a, "eth0")),
            (
                "to the peer",
                &to_peer,
                AttachType::TcxEgress,
                forwarded(a, &to_peer),
            ),
            (
                "the peer sends",
                &to_peer,
                AttachType::TcxIngress,
                mac(peer, "eth0"),
            ),
            ("to a", &to_a, AttachType::TcxEgress, forwarded(peer, &to_a)),
        ];
        let watches = places.map(|(what, device, side, sender)| {
            let watch = Watch::on(node, device, side, sender);
            watch.assert_chain(usize::from(tc != CLSACT));
            (what, watch)
        });
        for family in Family::ALL {
            let to = destination.map_or_else(
                || peer.at(family, TARGET_PORT),
                |vip| SocketAddr::new(vip.of(family), PORT),
            );
            for protocol in Protocol::ALL {
                let exchanges = match protocol {
                    Protocol::Tcp => a.tcp_all(TcpRequest::to(to).times(3).padded(100_000))?,
                    Protocol::Udp => a.udp_all(UdpRequest::to(to).times(10).padded(1_000))?,
                };
                for exchange in exchanges {
                    assert_eq!(
                        exchange.server(),
                        Some(peer.name()),
                        "{protocol} to {to}: {exchange:?}"
                    );
                }
            }
        }
        for (what, watch) in &watches {
            let [before, behind, filter] = watch.settled();
            assert!(
                before.frames > 40,
                "{label}: {what}: too little was seen: {before:?}"
            );
            assert_eq!(
                (before.frames, before.bytes),
                (behind.frames, behind.bytes),
                "{label}: {what}"
            );
            // Among filters, ours is before the other at ingress and behind it at egress: the other sees what was translated,
            // or what is still to be.
            assert_eq!(behind.frames, filter.frames, "{label}: {what}: clsact");
            if tc != CLSACT || destination.is_none() {
                assert_eq!(behind, filter, "{label}: {what}: clsact");
            }
            if destination.is_none() {
                assert_eq!(before, behind, "{label}: {what}: not ours, and yet changed");
            }
            eprintln!("{label}: {what} {}: {before:?}", peer.name());
        }
    }
    Ok(())
}

#[test]
fn p4_conversations_of_ptp_pods_are_seen_by_all() -> Result<()> {
    conversations("chainptp", Cni::Ptp, "auto")
}

#[test]
fn p4_conversations_of_pods_are_seen_by_all_where_there_is_no_tcx() -> Result<()> {
    conversations("chaincls", Cni::Ptp, CLSACT)
}

#[test]
fn p4_conversations_of_bridged_pods_are_seen_by_all() -> Result<()> {
    conversations("chainbr", NOT_SEEN_BY_NETFILTER, "auto")
}
