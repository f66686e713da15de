//! A connected UDP socket whose backend is gone (semantics L6, ADR 9) is told, with `--abort-udp-sockets`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proxy_lab::objects::Service;
use proxy_lab::protocol::{FailureKind, Protocol, Serve};
use proxy_lab::{
    AgentOptions, Family, Folder, Host, Lab, Pod, Result, address, skipped, spawn_agents,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const TIMEOUT: Duration = Duration::from_secs(2);
/// From the write of a file to the last socket's error.
const ABORTED: Duration = Duration::from_millis(500);

/// One here, one elsewhere.
const SERVERS: [&str; 2] = ["here", "there"];

fn lab(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["client", "here"])
        .pods("worker-2", ["there"])
        .up()?;
    for name in SERVERS {
        lab.pod(name).serve(TARGET_PORT)?;
    }
    Ok(lab)
}

fn service() -> Service {
    Service::new("service")
        .cluster_ips(address::cluster_ip(1))
        .both(PORT)
}

fn put(lab: &Lab, source: &Folder, service: &Service, servers: &[&str]) -> Result<()> {
    for family in Family::ALL {
        let pods: Vec<&Pod> = servers.iter().map(|name| lab.pod(name)).collect();
        source.put(service.slice_of(family, TARGET_PORT, pods))?;
    }
    Ok(())
}

fn unspecified(family: Family) -> SocketAddr {
    match family {
        Family::V4 => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        Family::V6 => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn cluster_ip(number: u16, family: Family) -> SocketAddr {
    (address::cluster_ip(number).of(family), PORT).into()
}

#[test]
fn l6_a_socket_that_waits_for_an_answer_is_woken_when_its_backend_is_gone() -> Result<()> {
    /// Where nobody answers.
    const SILENT: u16 = 9090;
    if skipped() {
        return Ok(());
    }
    let lab = lab("abortwait")?;
    let source = lab.source()?;
    let service = service();
    source.put(service.clone())?;
    for family in Family::ALL {
        lab.pod("there").serve_as(Serve {
            name: "silent".to_owned(),
            protocol: Protocol::Udp,
            address: SocketAddr::new(unspecified(family).ip(), SILENT),
            delay: Duration::ZERO,
            silent: true,
        })?;
        source.put(service.slice_of(family, SILENT, [lab.pod("there")]))?;
    }
    let _agents = spawn_agents(
        &lab,
        &AgentOptions::files(source.path()).arg("--abort-udp-sockets"),
    )?;
    let clients: [&Host; 2] = [lab.node("worker-1"), lab.pod("client")];
    let mut sockets = Vec::new();
    for client in clients {
        for family in Family::ALL {
            let to = cluster_ip(1, family);
            let socket = client.udp_socket(unspecified(family), Some(to))?;
            sockets.push((client, family, socket));
        }
    }
    std::thread::scope(|scope| -> Result<()> {
        let waiting: Vec<_> = sockets
            .iter()
            .map(|(_, _, socket)| scope.spawn(|| socket.exchange(None, 2 * TIMEOUT)))
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        put(&lab, &source, &service, &["here"])?;
        let written = Instant::now();
        for one in waiting {
            let exchange = one.join().expect("no panic")?;
            let failure = exchange.outcome.expect_err("nobody answers");
            assert_eq!(failure.kind, FailureKind::Aborted, "{failure}");
            assert_eq!(failure.stage, "read", "{failure}");
        }
        assert!(written.elapsed() < ABORTED, "{:?}", written.elapsed());
        Ok(())
    })?;
    for (client, family, _) in &sockets {
        let again = client.udp_socket(unspecified(*family), Some(cluster_ip(1, *family)))?;
        let again = again.exchange(None, TIMEOUT)?;
        assert_eq!(again.server(), Some("here"));
    }
    Ok(())
}
