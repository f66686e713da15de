//! `--masquerade-local` (semantics A2): a backend on the node that a client from outside comes to sees that node, as with
//! kube-proxy; and the rules that do it are kept, and go (ADR 31).

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use proxy_lab::objects::{Endpoint, Service};
use proxy_lab::{
    Agent, AgentOptions, Cni, Family, Host, Lab, Node, NodeSpec, PodSpec, Protocol, Result,
    TcpRequest, UdpRequest, address, agent_command, eventually, skipped,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const OPTION: &str = "--masquerade-local";
/// From the agent's start, or a change of the rules, to their being right again.
const PLACED: Duration = Duration::from_secs(15);
const TIMEOUT: Duration = Duration::from_secs(2);
/// The default of `--snat-ports`, its widest range but the last.
const PORTS: std::ops::RangeInclusive<u16> = 1024..=29_999;

/// The Services, by their numbers.
const CLUSTER: u16 = 1;
const LOCAL: u16 = 2;
const HOST_NETWORK: u16 = 3;

const fn node_port(service: u16) -> u16 {
    30_700 + service
}

/// One node: a server, a client of which packets are translated, and three Services.
fn lab(label: &str, cni: Cni) -> Result<Lab> {
    let lab = Lab::builder(label)
        .node(NodeSpec::new("worker-1").cni(cni))
        .pods("worker-1", ["server"])
        .pod(PodSpec::new("packets", "worker-1").not_covered_by_sockets())
        .up()?;
    lab.pod("server").serve(TARGET_PORT)?;
    node(&lab).serve(TARGET_PORT)?;
    // What conntrack cannot place is dropped, as hardened nodes have it.
    node(&lab).nft(
        "add table inet strict\n\
         add chain inet strict pass { type filter hook forward priority 0; policy accept; }\n\
         add rule inet strict pass ct state invalid drop",
    )?;
    let source = lab.source()?;
    for number in [CLUSTER, LOCAL, HOST_NETWORK] {
        let balancer = address::load_balancer(number as u8);
        let mut service = Service::new(&format!("web-{number}"))
            .cluster_ips(address::cluster_ip(number))
            .both(PORT)
            .node_port(node_port(number))
            .load_balancer(balancer.v4)
            .load_balancer(balancer.v6);
        if number == LOCAL {
            service = service.external_local();
        }
        for family in Family::ALL {
            let endpoint = if number == HOST_NETWORK {
                Endpoint::host_network(node(&lab), family)
            } else {
                Endpoint::of(lab.pod("server"), family)
            };
            source.put(service.slice(family, TARGET_PORT).endpoint(endpoint))?;
        }
        source.put(service)?;
    }
    Ok(lab)
}

fn node(lab: &Lab) -> &Node {
    lab.node("worker-1")
}

fn options(lab: &Lab, arguments: &[&str]) -> Result<AgentOptions> {
    let options = AgentOptions::files(lab.source()?.path());
    Ok(arguments
        .iter()
        .fold(options, |options, argument| options.arg(*argument)))
}

fn start(lab: &Lab, arguments: &[&str]) -> Result<Agent> {
    node(lab).spawn_agent(&options(lab, arguments)?)
}

/// Where a Service answers to the outside.
fn frontends(lab: &Lab, service: u16, family: Family) -> [SocketAddr; 2] {
    [
        node(lab).at(family, node_port(service)),
        (address::load_balancer(service as u8).of(family), PORT).into(),
    ]
}

/// The client as the server saw it; the client must have seen the frontend.
fn seen(client: &Host, protocol: Protocol, to: SocketAddr) -> Result<SocketAddr> {
    let exchanges = match protocol {
        Protocol::Tcp => client.tcp_all(TcpRequest::to(to).timeout(TIMEOUT))?,
        Protocol::Udp => client.udp_all(UdpRequest::to(to).timeout(TIMEOUT))?,
    };
    let exchange = exchanges.into_iter().next().expect("one was asked for");
    let what = format!("{} to {to} by {protocol}: {exchange:?}", client.name());
    assert_eq!(exchange.peer, Some(to), "{what}");
    Ok(exchange.outcome.expect(&what).client)
}

/// Whether the backend of the Service takes all that comes from outside for the node's; or, if not `masqueraded`, nothing.
fn is(masqueraded: bool, lab: &Lab, family: Family) -> Result<bool> {
    let mut right = true;
    for protocol in Protocol::ALL {
        for to in frontends(lab, CLUSTER, family) {
            let seen = seen(lab.workstation(), protocol, to)?;
            let own = [node(lab).ip(family), node(lab).pod_gateway().of(family)];
            let is_own = own.contains(&seen.ip());
            assert!(
                is_own || seen.ip() == lab.workstation().ip(family),
                "{seen} is neither the node nor the client"
            );
            assert!(!is_own || PORTS.contains(&seen.port()), "{seen}");
            right &= is_own == masqueraded;
        }
    }
    Ok(right)
}

/// Waits until it is so in both families.
fn becomes(lab: &Lab, masqueraded: bool) -> Result<()> {
    for family in Family::ALL {
        eventually(
            &format!("masqueraded over {family}: {masqueraded}"),
            PLACED,
            || is(masqueraded, lab, family),
        )?;
    }
    Ok(())
}

fn sources(label: &str, cni: Cni) -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab(label, cni)?;
    let _agent = start(&lab, &[OPTION])?;
    becomes(&lab, true)?;
    for family in Family::ALL {
        for _ in 0..10 {
            assert!(is(true, &lab, family)?, "{family}");
        }
        for protocol in Protocol::ALL {
            let own = |client: &Host, to| -> Result<()> {
                let seen = seen(client, protocol, to)?;
                let name = client.name();
                assert_eq!(seen.ip(), client.ip(family), "{name} to {to} by {protocol}");
                Ok(())
            };
            for service in [LOCAL, HOST_NETWORK] {
                for to in frontends(&lab, service, family) {
                    own(lab.workstation(), to)?;
                }
            }
            for to in frontends(&lab, CLUSTER, family) {
                own(lab.pod("packets"), to)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a2_masquerade_local_gives_backends_the_nodes_address() -> Result<()> {
    sources("masqptp", Cni::Ptp)
}

/// The pods' devices have no address.
#[test]
fn a2_masquerade_local_where_devices_have_no_address() -> Result<()> {
    sources("masqcalico", Cni::Calico)
}

#[test]
fn a2_masquerade_local_over_a_bridge_that_netfilter_sees() -> Result<()> {
    sources(
        "masqbridge",
        Cni::Bridge {
            hairpin: true,
            nf_call_iptables: true,
        },
    )
}

/// The rules come back, outlive the agent, and go with the option or by `cleanup`; what was open goes on.
#[test]
fn the_rules_are_kept_and_go() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("masqkept", Cni::Ptp)?;
    let node = node(&lab);
    // As CNIs have it. Without any chain of type nat, the kernel stops translating what has begun (ADR 31).
    node.masquerade()?;
    let tables = || node.exec(["nft", "list", "tables"]);
    let has_ours = || -> Result<bool> { Ok(tables()?.contains("inet kube-proxy-ebpf")) };

    let agent = start(&lab, &[])?;
    for family in Family::ALL {
        assert!(is(false, &lab, family)?, "it is no default");
    }
    assert!(!has_ours()?);
    let before = lab
        .workstation()
        .hold(TcpRequest::to(frontends(&lab, CLUSTER, Family::V4)[0]).times(5))?;
    agent.terminate()?;

    let agent = start(&lab, &[OPTION])?;
    becomes(&lab, true)?;
    let after = lab
        .workstation()
        .hold(TcpRequest::to(frontends(&lab, CLUSTER, Family::V6)[1]).times(5))?;
    let go_on = |what: &str| -> Result<()> {
        for exchange in [before.check(TIMEOUT)?, after.check(TIMEOUT)?].concat() {
            assert_eq!(exchange.server(), Some("server"), "{what}: {exchange:?}");
        }
        Ok(())
    };
    go_on("masqueraded, and not")?;
    let bpffs = node.bpffs().display().to_string();
    let flows = agent_command(node, ["flows", "--bpffs", &bpffs, "-o", "json"])?;
    assert!(flows.contains("\"masquerade\""), "{flows}");

    node.nft("delete table inet kube-proxy-ebpf")?;
    becomes(&lab, true)?;
    go_on("the table was deleted")?;
    node.nft("flush chain inet kube-proxy-ebpf postrouting")?;
    becomes(&lab, true)?;

    agent.kill9()?;
    for family in Family::ALL {
        assert!(is(true, &lab, family)?, "the agent was killed");
    }
    go_on("the agent was killed")?;

    let agent = start(&lab, &[OPTION, "--masquerade-bit=20"])?;
    becomes(&lab, true)?;
    eventually("the rules have the other bit", PLACED, || {
        Ok(node
            .exec(["nft", "list", "table", "inet", "kube-proxy-ebpf"])?
            .contains("0x00100000"))
    })?;
    becomes(&lab, true)?;
    agent.terminate()?;

    let agent = start(&lab, &[])?;
    eventually("our table is gone", PLACED, || Ok(!has_ours()?))?;
    becomes(&lab, false)?;
    agent.terminate()?;

    let agent = start(&lab, &[OPTION])?;
    becomes(&lab, true)?;
    agent.terminate()?;
    let said = agent_command(node, ["cleanup", "--bpffs", &bpffs])?;
    assert!(said.contains("table inet kube-proxy-ebpf"), "{said}");
    assert!(!has_ours()?);
    let said = agent_command(node, ["cleanup", "--bpffs", &bpffs])?;
    assert!(!said.contains("kube-proxy-ebpf:"), "{said}");
    Ok(())
}

/// A folder that has these programs of iptables alone, under their plain names.
fn programs(lab: &Lab, variant: &str) -> Result<PathBuf> {
    let folder = lab.temp().join(variant);
    std::fs::create_dir(&folder).expect("a folder");
    for tool in ["iptables", "ip6tables"] {
        for suffix in ["", "-restore"] {
            let found = node(lab).exec(["which", &format!("{tool}-{variant}{suffix}")])?;
            symlink(found.trim(), folder.join(format!("{tool}{suffix}"))).expect("a link");
        }
    }
    Ok(folder)
}

/// Without nft the rules are iptables', and go when nft comes.
fn by_iptables(label: &str, variant: &str) -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab(label, Cni::Ptp)?;
    let node = node(&lab);
    let rules = || -> Result<usize> {
        let mut rules = 0;
        for tool in ["iptables", "ip6tables"] {
            let program = format!("{tool}-{variant}");
            let listing = node.exec([program.as_str(), "-t", "nat", "-S", "POSTROUTING"])?;
            rules += listing.matches("kube-proxy-ebpf: masquerade").count();
        }
        Ok(rules)
    };
    let path = programs(&lab, variant)?;
    let options = options(&lab, &[OPTION])?;
    let agent = node.spawn_agent(&options.clone().env("PATH", &path))?;
    becomes(&lab, true)?;
    assert_eq!(rules()?, 6);
    for tool in ["iptables", "ip6tables"] {
        let program = format!("{tool}-{variant}");
        node.exec([program.as_str(), "-t", "nat", "-F"])?;
    }
    becomes(&lab, true)?;
    agent.kill9()?;
    for family in Family::ALL {
        assert!(is(true, &lab, family)?, "the agent was killed");
    }

    let agent = node.spawn_agent(&options)?;
    eventually("nft has taken over", PLACED, || Ok(rules()? == 0))?;
    becomes(&lab, true)?;
    agent.terminate()?;

    // Also where nft finds its table right: it was iptables' turn in between.
    let agent = node.spawn_agent(&options.clone().env("PATH", &path))?;
    eventually("iptables has its rules beside the table", PLACED, || {
        Ok(rules()? == 6)
    })?;
    agent.terminate()?;
    let agent = node.spawn_agent(&options)?;
    eventually("nft has taken over again", PLACED, || Ok(rules()? == 0))?;
    becomes(&lab, true)?;
    agent.terminate()?;

    // And by the option itself.
    node.nft("delete table inet kube-proxy-ebpf")?;
    let agent = node.spawn_agent(&options.env("PATH", &path))?;
    becomes(&lab, true)?;
    agent.terminate()?;
    let _agent = start(&lab, &[])?;
    eventually("no rule is left", PLACED, || Ok(rules()? == 0))?;
    becomes(&lab, false)
}

#[test]
fn the_rules_by_iptables_on_nftables() -> Result<()> {
    by_iptables("masqipt", "nft")
}

#[test]
fn the_rules_by_iptables_legacy() -> Result<()> {
    by_iptables("masqlegacy", "legacy")
}

#[test]
fn a_node_without_any_program_is_told_what_to_do() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("masqnone", Cni::Ptp)?;
    let options = options(&lab, &[OPTION])?.env("PATH", "/nowhere");
    let agent = node(&lab).spawn_agent(&options)?;
    let log = || std::fs::read_to_string(agent.log()).expect("a log");
    eventually("it says so", PLACED, || {
        Ok(log().contains("neither nft nor iptables is installed"))
    })?;
    assert!(log().contains("see to it that nft or iptables works"));
    // Services work all the same.
    for family in Family::ALL {
        assert!(is(false, &lab, family)?, "{family}");
    }
    Ok(())
}
