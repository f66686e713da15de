//! What is on the wire, and what a proxy remembers by number.

use std::thread;
use std::time::{Duration, Instant};

use proxy_lab::{Family, Host, Offload};
use serde_json::json;

use crate::case::{Case, Outcome, ensure};
use crate::ground::{Ground, PORT, Way};

/// The cases.
pub const CASES: &[Case] = &[
    Case::new("P1", "checksums-are-right-without-offload", &[], checksums).alone(),
    Case::new("P1", "answers-come-from-whom-was-asked", &[], answers),
    Case::new("L3", "udp-flow-moves-with-the-service", &[], moves_at_once),
    Case::new("L6", "socket-never-reaches-a-stranger", &[], no_stranger).alone(),
];

/// A sender that leaves checksums to its device, as a virtual one always may, does not notice wrong ones, nor does who
/// receives from it. Here clients and servers compute them, and are checked.
fn checksums(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let spec = json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack"});
    let service = ground.service("web", &spec)?;
    let senders: [&Host; 4] = [ground.client(), ground.outside(), &a, &b];
    let offload = |on: bool| {
        let mut senders = senders.iter();
        senders.try_for_each(|host| host.offload("eth0", Offload::TxChecksum, on))
    };
    let ways = Family::ALL.into_iter().flat_map(|family| {
        let node_port = ground.node("worker-1").at(family, service.node_port());
        let inside = Way::both(ground.client(), service.at(family, PORT));
        let outside = Way::both(ground.outside(), node_port);
        inside.into_iter().chain(outside)
    });
    offload(false)?;
    let outcome = ground.served_by(ways, [&a.name, &b.name]);
    offload(true)?;
    outcome
}

/// Replies come from the Service's address, whichever backend sends them: over TCP, and in datagrams.
fn answers(ground: &Ground<'_>) -> Outcome {
    let [a, b] = ground.servers([("a", "worker-1"), ("b", "worker-2")])?;
    let spec = json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack"});
    let service = ground.service("web", &spec)?;
    for family in Family::ALL {
        let vip = service.at(family, PORT);
        let node_port = ground.node("worker-1").at(family, service.node_port());
        for (client, to) in [
            (ground.client(), vip),
            (ground.client(), node_port),
            (&**ground.node("worker-2"), vip),
            (ground.outside(), node_port),
        ] {
            for way in Way::both(client, to) {
                ground.served_by([way], [&a.name, &b.name])?;
                for _ in 0..8 {
                    let exchange = client.request(way.protocol, to)?;
                    ensure(
                        exchange.outcome.is_ok() && exchange.peer == Some(to),
                        || format!("{way}: {exchange:?}"),
                    )?;
                }
            }
        }
    }
    Ok(())
}

/// A socket that goes on sending reaches the server that there is now as soon as others do, not when something is cleaned
/// up at last.
fn moves_at_once(ground: &Ground<'_>) -> Outcome {
    const AT_ONCE: Duration = Duration::from_secs(2);
    let mut server = ground.server_with("a0", "worker-2", &json!({}))?;
    let service = ground.service("web", &json!({}))?;
    let vip = service.vip();
    let way = Way::udp(ground.client(), vip);
    ground.served_by([way], [&server.name])?;
    let any = (std::net::Ipv4Addr::UNSPECIFIED, 0).into();
    let socket = ground.client().udp_socket(any, None)?;
    for next in ["a1", "a2", "a3"] {
        let exchange = socket.exchange(Some(vip), AT_ONCE)?;
        ensure(exchange.server() == Some(&server.name), || {
            format!("{exchange:?}")
        })?;
        let successor = ground.server_with(next, "worker-2", &json!({}))?;
        ground.delete_pod_now(&server)?;
        ground.served_by([way], [&successor.name])?;
        let start = Instant::now();
        let mut last = None;
        while start.elapsed() < AT_ONCE {
            let exchange = socket.exchange(Some(vip), AT_ONCE / 10)?;
            last = exchange.server().map(str::to_owned);
            if last.is_some() {
                break;
            }
        }
        ensure(last.as_ref() == Some(&successor.name), || {
            format!(
                "{AT_ONCE:?} after others reach {}, a socket reaches {last:?}",
                successor.name
            )
        })?;
        server = successor;
    }
    Ok(())
}

/// A proxy that knows backends by number must not take one for another when a number comes around again.
fn no_stranger(ground: &Ground<'_>) -> Outcome {
    const TIMEOUT: Duration = Duration::from_secs(1);
    /// A proxy may leave a number alone for a while before it gives it away again.
    const UNTIL_REUSED: Duration = Duration::from_secs(2);
    let [a1, a2] = ground.servers([("a1", "worker-2"), ("a2", "worker-2")])?;
    let service = ground.service("web", &json!({}))?;
    let vip = service.vip();
    ground.served_by([Way::udp(ground.client(), vip)], [&a1.name, &a2.name])?;
    // Each socket has its server.
    let any = (std::net::Ipv4Addr::UNSPECIFIED, 0).into();
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let socket = ground.client().udp_socket(any, None)?;
        let exchange = socket.exchange(Some(vip), TIMEOUT)?;
        ensure(exchange.server().is_some(), || format!("{exchange:?}"))?;
        sockets.push(socket);
    }
    for server in [&a1, &a2] {
        ground.delete_pod_now(server)?;
    }
    // Pods that end refuse, too, before they are silent.
    ground.settled_on("web", [])?;
    ground.refused([Way::udp(ground.client(), vip)])?;
    // Unrelated pods get the addresses of the deleted ones.
    let other = json!({"metadata": {"labels": {"app": "other"}}});
    let strangers = [
        ground.server_with("c1", "worker-2", &other)?,
        ground.server_with("c2", "worker-2", &other)?,
    ];
    thread::sleep(UNTIL_REUSED);
    let selector = json!({"selector": {"app": "other"}});
    let others = ground.service("other", &selector)?;
    let names = strangers.each_ref().map(|stranger| &stranger.name);
    ground.served_by([Way::udp(ground.client(), others.vip())], names)?;
    let [b] = ground.servers([("b", "worker-2")])?;
    ground.served_by([Way::udp(ground.client(), vip)], [&b.name])?;
    for socket in &sockets {
        let mut reached = None;
        let moved = ground.eventually("a socket reaches the server that there is now", || {
            let exchange = socket.exchange(Some(vip), TIMEOUT)?;
            reached = exchange.server().map(str::to_owned);
            Ok(reached.is_some())
        });
        let told = || format!("a socket that had another server of {vip} reaches {reached:?}");
        moved.map_err(|failure| failure.in_words(told))?;
        ensure(reached.as_ref() == Some(&b.name), told)?;
    }
    Ok(())
}
