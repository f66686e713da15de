//! The conformance suite finds no unexplained difference: all cases for our agent, and a few quick, telling
//! ones for kube-proxy.

use std::process::Command;

use proxy_lab::agent_binary;

/// Of kube-proxy, which writes its rules once a second at most.
const SUBSET: &str = "cluster-ip-from-pods,no-endpoints,internal-local,external-local";

fn judge(arguments: &[&str]) {
    if proxy_lab::control_plane::skipped() {
        return;
    }
    let agent = match agent_binary() {
        Ok(agent) => agent,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    let output = Command::new(env!("CARGO_BIN_EXE_conformance"))
        .args(arguments)
        .env("PROXY_AGENT_BIN", agent)
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&output.stderr);
    eprintln!("{said}{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", output.status);
}

#[test]
fn ours_by_sockets_and_per_packet() {
    judge(&["--subjects", "sockets,packets"]);
}

#[test]
fn kube_proxys_nftables_on_a_few() {
    judge(&["--subjects", "nftables", "--cases", SUBSET]);
}
