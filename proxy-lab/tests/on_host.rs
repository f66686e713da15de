//! An agent in a container runs the host's iptables and nft: a process 1 stands for the host's, a mount namespace and an
//! empty PATH for the container.

use std::process::{Command, Output};

use proxy_lab::agent_binary;

/// Runs a shell script in which `agent` is the agent in its container.
fn on_a_host(script: &str) -> Option<Output> {
    if proxy_lab::skipped() {
        return None;
    }
    let agent = agent_binary().expect("is built");
    let script = format!(
        "agent() {{ unshare --mount env PATH=/nowhere {} \"$@\"; }}\n{script}",
        agent.display()
    );
    let output = Command::new("unshare")
        .args(["--net", "--pid", "--fork", "--mount-proc", "sh", "-euc"])
        .arg(script)
        .output();
    Some(output.expect("util-linux is there"))
}

#[test]
fn the_hosts_programs_are_run_in_its_mounts() {
    let Some(output) = on_a_host("agent on-host nft --version; agent on-host no-such-program")
    else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("nftables v"), "{output:?}");
    assert_eq!(output.status.code(), Some(127), "{output:?}");
}

/// The rules of an earlier run are found and removed, so listing and editing work that way.
#[test]
fn forward_rules_are_managed_with_them() {
    let script = "
        rule=\"FORWARD -m comment --comment 'kube-proxy-ebpf: replies' -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\"
        iptables-nft -P FORWARD DROP
        eval iptables-nft -A $rule
        agent cleanup --bpffs /sys/fs/bpf/no-such-folder
        echo left: $(iptables-nft -S FORWARD)";
    let Some(output) = on_a_host(script) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("left: -P FORWARD DROP\n"), "{output:?}");
}
