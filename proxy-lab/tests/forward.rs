//! Where a FORWARD chain drops, what the agent translated and the replies pass it, and what another component drops stays
//! dropped (ADR 16; semantics P1). With the programs that distributions have: iptables on nftables, iptables-legacy, nft.

use std::net::SocketAddr;
use std::time::Duration;

use proxy_lab::objects::Service;
use proxy_lab::{
    Agent, AgentOptions, Family, Host, Lab, Node, PodSpec, Protocol, Result, TcpRequest,
    UdpRequest, address, agent_command, eventually, skipped,
};

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const NODE_PORT: u16 = 30_500;
/// From a change of a chain to its being right again.
const PLACED: Duration = Duration::from_secs(15);

/// One node: pods that packets are translated of, and a server.
fn lab(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label)
        .node("worker-1")
        .pod(PodSpec::new("a", "worker-1").not_covered_by_sockets())
        .pod(PodSpec::new("b", "worker-1").not_covered_by_sockets())
        .pods("worker-1", ["server"])
        .up()?;
    lab.pod("server").serve(TARGET_PORT)?;
    Ok(lab)
}

fn start(lab: &Lab, arguments: &[&str]) -> Result<Agent> {
    let source = lab.source()?;
    let service = Service::new("forward")
        .cluster_ips(address::cluster_ip(1))
        .both(PORT)
        .node_port(NODE_PORT);
    for family in Family::ALL {
        source.put(service.slice_of(family, TARGET_PORT, [lab.pod("server")]))?;
    }
    source.put(service)?;
    let options = AgentOptions::files(source.path());
    let options = arguments
        .iter()
        .fold(options, |options, argument| options.arg(*argument));
    node(lab).spawn_agent(&options)
}

fn node(lab: &Lab) -> &Node {
    lab.node("worker-1")
}

/// Whether the server answers over TCP and over UDP.
fn reaches(client: &Host, to: SocketAddr) -> Result<[bool; 2]> {
    let timeout = Duration::from_millis(400);
    let tcp = client.tcp_all(TcpRequest::to(to).timeout(timeout))?;
    let udp = client.udp_all(UdpRequest::to(to).timeout(timeout))?;
    Ok([tcp, udp].map(|exchanges| exchanges[0].server() == Some("server")))
}

/// Whether each of the ways is open: from a pod and from outside by the Service; from a pod without it.
#[derive(Debug, PartialEq)]
struct Open {
    pod: [bool; 2],
    outside: [bool; 2],
    directly: [bool; 2],
}

/// What a chain that drops leaves open.
const SERVICES: Open = Open {
    pod: [true; 2],
    outside: [true; 2],
    directly: [false; 2],
};

fn open(lab: &Lab, family: Family) -> Result<Open> {
    let cluster_ip = (address::cluster_ip(1).of(family), PORT).into();
    Ok(Open {
        pod: reaches(lab.pod("a"), cluster_ip)?,
        outside: reaches(lab.workstation(), node(lab).at(family, NODE_PORT))?,
        directly: reaches(lab.pod("a"), lab.pod("server").at(family, TARGET_PORT))?,
    })
}

/// Waits until exactly the Service's ways are open.
fn placed(lab: &Lab, families: &[Family]) -> Result<()> {
    for &family in families {
        eventually(&format!("Services pass over {family}"), PLACED, || {
            Ok(open(lab, family)? == SERVICES)
        })?;
    }
    Ok(())
}

fn run_all(node: &Node, commands: &[&str]) -> Result<()> {
    commands
        .iter()
        .try_for_each(|command| node.exec(command.split_whitespace()).map(drop))
}

/// The rules of a chain, in short: ours, and the targets of others.
fn rules(node: &Node, iptables: &str) -> Result<Vec<String>> {
    let text = node.exec([iptables, "-S", "FORWARD"])?;
    let short = |line: &str| {
        let rule = line.strip_prefix("-A FORWARD ")?;
        Some(if rule.contains("kube-proxy-ebpf: translated") {
            "translated".to_owned()
        } else if rule.contains("kube-proxy-ebpf: replies") {
            "replies".to_owned()
        } else {
            rule.split_once("-j ")?.1.split(' ').next()?.to_owned()
        })
    };
    Ok(text.lines().filter_map(short).collect())
}

fn become_right(node: &Node, iptables: &str, right: &[&str]) -> Result<()> {
    eventually(&format!("{iptables} has {right:?}"), PLACED, || {
        Ok(rules(node, iptables)? == right)
    })
    .map(drop)
}

/// The policy drops; the chain is flushed and another rule comes; the policy drops no more.
fn policy(label: &str, variant: &str) -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab(label)?;
    let node = node(&lab);
    let tools = ["iptables", "ip6tables"].map(|tool| format!("{tool}-{variant}"));
    let all = |arguments: &str| -> Result<()> {
        let command = |tool| format!("{tool} {arguments}");
        run_all(
            node,
            &tools.each_ref().map(command).each_ref().map(String::as_str),
        )
    };
    let right = |right: &[&str]| -> Result<()> {
        tools
            .iter()
            .try_for_each(|tool| become_right(node, tool, right))
    };
    all("-P FORWARD DROP")?;
    let _agent = start(&lab, &[])?;
    placed(&lab, &Family::ALL)?;
    all("-F FORWARD")?;
    all("-A FORWARD -i nothing -j DROP")?;
    right(&["DROP", "translated", "replies"])?;
    placed(&lab, &Family::ALL)?;
    all("-P FORWARD ACCEPT")?;
    right(&["DROP"])
}

#[test]
fn the_policy_of_iptables_on_nftables_drops() -> Result<()> {
    policy("fwnft", "nft")
}

#[test]
fn the_policy_of_iptables_legacy_drops() -> Result<()> {
    policy("fwlegacy", "legacy")
}

/// A chain of another component, as Calico and kube-router have them, drops one pair of pods; a REJECT refuses the rest.
#[test]
fn what_a_policy_chain_drops_stays_dropped_and_a_reject_comes_last() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("fwpolicy")?;
    let node = node(&lab);
    let (b, server) = (lab.pod("b"), lab.pod("server"));
    for (tool, family) in [("iptables", Family::V4), ("ip6tables", Family::V6)] {
        let (b, server) = (b.ip(family), server.ip(family));
        run_all(
            node,
            &[
                &format!("{tool} -N POLICY"),
                &format!("{tool} -A POLICY -s {b} -d {server} -j DROP"),
                &format!("{tool} -A FORWARD -j POLICY"),
                &format!("{tool} -A FORWARD -j REJECT"),
            ],
        )?;
    }
    let agent = start(&lab, &[])?;
    placed(&lab, &Family::ALL)?;
    let denied = |when: &str| -> Result<()> {
        for family in Family::ALL {
            let vip = (address::cluster_ip(1).of(family), PORT).into();
            assert_eq!(reaches(b, vip)?, [false; 2], "{when}: {family} of pod b");
        }
        Ok(())
    };
    let right = ["POLICY", "translated", "replies", "REJECT"];
    denied("at first")?;
    for tool in ["iptables", "ip6tables"] {
        become_right(node, tool, &right)?;
        // The component comes back behind us, as after a restart of its own.
        run_all(node, &[&format!("{tool} -D FORWARD -j POLICY")])?;
        run_all(node, &[&format!("{tool} -I FORWARD 3 -j POLICY")])?;
        become_right(node, tool, &right)?;
    }
    denied("afterwards")?;
    placed(&lab, &Family::ALL)?;

    // A restart changes nothing; without the flag's default, the rules go.
    agent.terminate()?;
    become_right(node, "iptables", &right)?;
    let agent = start(&lab, &["--fwmark-bit=20"])?;
    placed(&lab, &Family::ALL)?;
    assert!(node.exec(["iptables", "-S"])?.contains("0x100000/0x100000"));
    agent.terminate()?;
    let _agent = start(&lab, &["--manage-forward=off"])?;
    become_right(node, "iptables", &["POLICY", "REJECT"])?;
    become_right(node, "ip6tables", &["POLICY", "REJECT"])
}

/// Base chains of an administrator's own.
#[test]
fn native_chains_of_nftables_drop() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("fwnative")?;
    let node = node(&lab);
    node.nft(
        "add table inet own\n\
         add chain inet own pass { type filter hook forward priority -10; policy drop; }\n\
         add chain inet own rest\n\
         add rule inet own pass ct state invalid drop\n\
         add rule inet own pass jump rest\n\
         add rule inet own pass log prefix \"own\"\n\
         add rule inet own pass counter reject\n\
         add chain inet own open { type filter hook forward priority 10; policy accept; }",
    )?;
    let agent = start(&lab, &[])?;
    placed(&lab, &Family::ALL)?;
    let ours = || -> Result<Vec<String>> {
        let text = node.exec(["nft", "list", "table", "inet", "own"])?;
        let rules = text.lines().map(str::trim);
        let rules = rules.filter(|line| {
            ["kube-proxy-ebpf", "jump", "log", "reject"]
                .iter()
                .any(|word| line.contains(word))
        });
        Ok(rules
            .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
            .collect())
    };
    assert_eq!(ours()?, ["jump", "meta", "ct", "log", "counter"]);
    node.nft("flush chain inet own pass")?;
    placed(&lab, &Family::ALL)?;
    eventually("our rules are alone", PLACED, || {
        Ok(ours()? == ["meta", "ct"])
    })?;

    agent.terminate()?;
    let bpffs = node.bpffs().display().to_string();
    let said = agent_command(node, ["cleanup", "--bpffs", &bpffs])?;
    assert!(said.contains("inet own pass"), "{said}");
    assert_eq!(ours()?, [""; 0]);
    let said = agent_command(node, ["cleanup", "--bpffs", &bpffs])?;
    assert!(!said.contains("inet own pass"), "{said}");
    Ok(())
}

/// Nothing is made where nothing drops.
#[test]
fn chains_that_let_everything_pass_are_left_alone() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("fwopen")?;
    let node = node(&lab);
    let _agent = start(&lab, &[])?;
    let vip = (address::cluster_ip(1).of(Family::V4), PORT).into();
    for protocol in Protocol::ALL {
        assert_eq!(
            lab.pod("a").request(protocol, vip)?.server(),
            Some("server")
        );
    }
    // The agent has looked when it has put another chain right.
    node.nft("add table inet own\nadd chain inet own pass { type filter hook forward priority 0; policy drop; }")?;
    placed(&lab, &[Family::V4])?;
    let all = node.exec(["nft", "list", "tables"])?;
    assert_eq!(all.trim(), "table inet own");
    let names = node.exec(["cat", "/proc/self/net/ip_tables_names"]);
    assert!(!names.is_ok_and(|names| names.contains("filter")));
    Ok(())
}
