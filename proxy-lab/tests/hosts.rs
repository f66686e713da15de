//! What hosts can do for a test: keep connections and sockets, probe, serve, and be wired as asked.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use proxy_lab::protocol::{FailureKind, Serve};
use proxy_lab::{
    Cni, Family, Lab, NodeSpec, ProbeRequest, Protocol, RpFilter, TcpRequest, UdpRequest,
    eventually,
};

const TIMEOUT: Duration = Duration::from_secs(3);

fn lab(label: &str) -> Lab {
    let builder = Lab::builder(label)
        .node(NodeSpec::new("worker-1").rp_filter(RpFilter::Loose))
        .node(NodeSpec::new("worker-2").cni(Cni::Bridge {
            hairpin: false,
            nf_call_iptables: false,
        }))
        .node(NodeSpec::new("worker-3").cni(Cni::BRIDGE))
        .pods("worker-1", ["a1"])
        .pods("worker-2", ["b1"])
        .pods("worker-3", ["c1"]);
    builder
        .up()
        .unwrap_or_else(|error| panic!("{}", error.chain()))
}

#[test]
fn held_connections_are_lost_with_their_server_only() {
    if proxy_lab::skipped() {
        return;
    }
    let lab = lab("hold");
    let (client, server) = (lab.pod("a1"), lab.pod("b1"));
    let running = server
        .server(Protocol::Tcp, Family::V4, 80)
        .expect("serves");
    let hold = client
        .hold(TcpRequest::to(server.at(Family::V4, 80)).times(20))
        .expect("opens");
    assert!(hold.opened.iter().all(|exchange| exchange.outcome.is_ok()));
    for _ in 0..2 {
        let alive = hold.check(TIMEOUT).expect("checks");
        assert_eq!(
            alive
                .iter()
                .filter(|exchange| exchange.server() == Some("b1"))
                .count(),
            20
        );
    }
    running.stop_and_drop().expect("stops");
    let lost = hold.check(TIMEOUT).expect("checks");
    assert_eq!(
        lost.iter()
            .filter(|exchange| exchange.outcome.is_err())
            .count(),
        20
    );
    let refused = client
        .tcp(server.at(Family::V4, 80))
        .expect("tries")
        .outcome
        .expect_err("nobody listens");
    assert_eq!(refused.kind, FailureKind::Refused);
    hold.close().expect("closes");
}

#[test]
fn probers_count_answers_refusals_and_timeouts() {
    if proxy_lab::skipped() {
        return;
    }
    let lab = lab("probe");
    let (client, server) = (lab.pod("a1"), lab.pod("b1"));
    let to = server.at(Family::V6, 80);
    let request = |protocol| ProbeRequest {
        protocol,
        to,
        interval: Duration::from_millis(5),
        timeout: Duration::from_millis(300),
    };
    let tcp = client.probe(request(Protocol::Tcp)).expect("starts");
    let udp = client.probe(request(Protocol::Udp)).expect("starts");
    eventually(
        "some are refused",
        TIMEOUT,
        || Ok(tcp.report()?.refused > 5),
    )
    .expect("are counted");
    server.serve(80).expect("serves");
    eventually("some are answered", TIMEOUT, || {
        Ok(tcp.report()?.ok > 5 && udp.report()?.ok > 5)
    })
    .expect("are counted");
    let (tcp, udp) = (tcp.stop().expect("stops"), udp.stop().expect("stops"));
    assert_eq!((tcp.timed_out, tcp.other), (0, 0), "{tcp:?}");
    assert_eq!(tcp.attempts, tcp.ok + tcp.failed());
    assert_eq!(tcp.servers.get("b1"), Some(&tcp.ok));
    assert_eq!(
        (udp.refused, udp.other),
        (0, 0),
        "unconnected sockets are not told of refusals: {udp:?}"
    );
    assert_eq!(udp.failed(), udp.timed_out);
}

#[test]
fn udp_sockets_live_as_long_as_they_are_wanted() {
    if proxy_lab::skipped() {
        return;
    }
    let lab = lab("udp");
    let (client, server) = (lab.pod("a1"), lab.pod("c1"));
    let to = server.at(Family::V4, 80);
    server.serve(80).expect("serves");
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let socket = client.udp_socket(any, None).expect("opens");
    let first = socket.exchange(Some(to), TIMEOUT).expect("exchanges");
    let second = socket.exchange(Some(to), TIMEOUT).expect("exchanges");
    assert_eq!(first.local, second.local, "it is the same socket");
    assert_eq!((first.peer, second.peer), (Some(to), Some(to)));
    socket.close().expect("closes");

    let connected = client.udp_socket(any, Some(to)).expect("opens");
    assert_eq!(
        connected
            .exchange(None, TIMEOUT)
            .expect("exchanges")
            .server(),
        Some("c1")
    );
    let same = client
        .udp_all(UdpRequest::to(to).times(3).same_socket().from_port(4000))
        .expect("exchanges");
    assert!(
        same.iter()
            .all(|exchange| exchange.local.is_some_and(|local| local.port() == 4000))
    );
    assert!(same.iter().all(|exchange| exchange.server() == Some("c1")));
    let nowhere = client
        .udp_all(UdpRequest::to(server.at(Family::V4, 81)).connected())
        .expect("tries");
    assert_eq!(
        nowhere[0]
            .outcome
            .as_ref()
            .expect_err("nobody is there")
            .kind,
        FailureKind::Refused
    );

    // Many connections from one port, one after the other.
    let again = client
        .tcp_all(TcpRequest::to(to).times(5).from_port(4001))
        .expect("connects");
    assert!(
        again.iter().all(|exchange| exchange.server() == Some("c1")),
        "{again:?}"
    );

    // An IPv4-mapped destination is IPv4 on the wire.
    let mapped = SocketAddr::from((Ipv4Addr::to_ipv6_mapped(&server.addresses().v4), 80));
    for exchange in [client.tcp(mapped), client.udp(mapped)] {
        let identity = exchange.expect("tries").outcome.expect("is answered");
        assert_eq!(identity.client.ip(), client.ip(Family::V4));
    }
}

#[test]
fn servers_can_be_slow_and_silent_and_speak_http() {
    if proxy_lab::skipped() {
        return;
    }
    let lab = lab("serve");
    let (client, server) = (lab.pod("a1"), lab.pod("b1"));
    let delay = Duration::from_millis(200);
    let serve = |name: &str, port, delay, silent| Serve {
        name: name.to_owned(),
        protocol: Protocol::Tcp,
        address: (Ipv4Addr::UNSPECIFIED, port).into(),
        delay,
        silent,
    };
    server
        .serve_as(serve("slow", 80, delay, false))
        .expect("serves");
    let slow = client.tcp(server.at(Family::V4, 80)).expect("connects");
    assert_eq!(slow.server(), Some("slow"));
    assert!(slow.elapsed >= delay);

    let silent = server
        .serve_as(serve("silent", 0, Duration::ZERO, true))
        .expect("serves");
    let to = server.at(Family::V4, silent.address().port());
    let request = TcpRequest::to(to).timeout(delay);
    let nothing = client
        .tcp_all(request)
        .expect("connects")
        .remove(0)
        .outcome
        .expect_err("is silent");
    assert_eq!(nothing.kind, FailureKind::TimedOut);
    silent.stop().expect("stops");

    let page = format!(
        "exec 3<>/dev/tcp/{}/80; printf 'GET / HTTP/1.1\\r\\n\\r\\n' >&3; cat <&3",
        server.addresses().v4
    );
    let page = client.exec(["bash", "-c", &page]).expect("reads a page");
    assert!(
        page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("slow 10.244.1.10:"),
        "{page}"
    );
}

#[test]
fn nodes_are_wired_as_asked() {
    if proxy_lab::skipped() {
        return;
    }
    let lab = lab("wiring");
    let read = |node: &str, name: &str| {
        lab.node(node)
            .exec(["cat", &format!("/proc/sys/{name}")])
            .expect("reads")
    };
    assert_eq!(read("worker-1", "net/ipv4/conf/eth0/rp_filter").trim(), "2");
    assert_eq!(read("worker-2", "net/ipv4/conf/eth0/rp_filter").trim(), "1");
    assert_eq!(
        read("worker-2", "net/bridge/bridge-nf-call-iptables").trim(),
        "0"
    );
    assert_eq!(
        read("worker-3", "net/bridge/bridge-nf-call-iptables").trim(),
        "1"
    );
    for (node, pod, mode) in [
        ("worker-2", "b1", "hairpin off"),
        ("worker-3", "c1", "hairpin on"),
    ] {
        let node = lab.node(node);
        let port = node
            .exec(["ip", "-details", "link", "show", &node.device_of(pod)])
            .expect("shows");
        assert!(port.contains(mode), "{port}");
    }
    // A command that fails says what it said.
    let error = lab
        .node("worker-1")
        .exec(["ip", "link", "show", "nothing"])
        .expect_err("there is no such device");
    assert!(error.to_string().contains("does not exist"), "{error}");
}

#[test]
fn masqueraded_pods_reach_the_world_in_their_nodes_name() {
    if proxy_lab::skipped() {
        return;
    }
    let lab = lab("masquerade");
    let outside = lab.workstation();
    outside.serve(80).expect("serves");
    for (node, pod) in [("worker-1", "a1"), ("worker-2", "b1")] {
        lab.node(node).masquerade().expect("has nft");
        for (family, protocol) in Family::ALL
            .into_iter()
            .flat_map(|family| Protocol::ALL.map(|protocol| (family, protocol)))
        {
            let exchange = lab
                .pod(pod)
                .request(protocol, outside.at(family, 80))
                .expect("tries");
            let identity = exchange
                .outcome
                .unwrap_or_else(|failure| panic!("{pod} {family} {protocol}: {failure}"));
            assert_eq!(identity.client.ip(), lab.node(node).ip(family));
        }
    }
    lab.pod("c1").serve(80).expect("serves");
    let identity = lab
        .pod("a1")
        .tcp(lab.pod("c1").at(Family::V4, 80))
        .expect("tries")
        .outcome
        .expect("is answered");
    assert_eq!(
        identity.client.ip(),
        lab.pod("a1").ip(Family::V4),
        "pods keep their address among themselves"
    );
}
