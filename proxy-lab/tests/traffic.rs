//! Hosts reach each other without any proxy: the ground is sound.

use proxy_lab::{Cni, Family, Lab, NodeSpec, PodSpec, Protocol, RpFilter};

#[test]
fn everyone_reaches_everyone() {
    if proxy_lab::skipped() {
        return;
    }
    let start = std::time::Instant::now();
    let lab = Lab::builder("traffic")
        .node("worker-1")
        .node(
            NodeSpec::new("worker-2")
                .cni(Cni::BRIDGE)
                .rp_filter(RpFilter::Loose),
        )
        .pods("worker-1", ["a1", "a2"])
        .pods("worker-2", ["b1", "b2"])
        .pod(PodSpec::new("b3", "worker-2").not_covered_by_sockets())
        .up()
        .unwrap_or_else(|error| panic!("{}", error.chain()));
    eprintln!("up in {:?}", start.elapsed());
    for host in lab.hosts() {
        host.serve(8080)
            .unwrap_or_else(|error| panic!("{}", error.chain()));
    }
    for client in lab.hosts() {
        // The world outside has no routes to pods: neither can call the other without a translation.
        let pod = |name: &str| lab.pods().iter().any(|pod| pod.name() == name);
        let outside = |name: &str| name == "workstation";
        let apart = |one: &str, other: &str| outside(one) && pod(other);
        for server in lab.hosts().filter(|server| {
            !apart(client.name(), server.name()) && !apart(server.name(), client.name())
        }) {
            for (family, protocol) in Family::ALL
                .into_iter()
                .flat_map(|f| Protocol::ALL.map(|p| (f, p)))
            {
                let exchange = client
                    .request(protocol, server.at(family, 8080))
                    .expect("lab-host answers");
                let identity = exchange.outcome.unwrap_or_else(|failure| {
                    panic!(
                        "{} to {} {family} {protocol}: {failure}",
                        client.name(),
                        server.name()
                    )
                });
                assert_eq!(identity.server, server.name());
                // A node speaks to its own pods from the pods' gateway address, as with real CNIs.
                let own_pod = lab
                    .pods()
                    .iter()
                    .any(|pod| pod.name() == server.name() && pod.node() == client.name());
                let source = if own_pod {
                    lab.node(client.name()).pod_gateway().of(family)
                } else {
                    client.ip(family)
                };
                assert_eq!(
                    identity.client.ip(),
                    source,
                    "{} to {}",
                    client.name(),
                    server.name()
                );
                assert_eq!(identity.local, server.at(family, 8080));
                assert_eq!(exchange.peer, Some(server.at(family, 8080)));
            }
        }
    }
    eprintln!("done in {:?}", start.elapsed());
}
