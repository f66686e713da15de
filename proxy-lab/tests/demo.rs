//! The demo runs through, and leaves nothing behind.

use std::process::Command;

use proxy_lab::agent_binary;
use proxy_lab::sweep::{kept, take_down};

fn demo(argument: Option<&str>) -> Option<String> {
    let skipped = match argument {
        Some("--cluster") => proxy_lab::control_plane::skipped(),
        _ => proxy_lab::skipped(),
    };
    if skipped {
        return None;
    }
    let agent = match agent_binary() {
        Ok(agent) => agent,
        Err(error) => {
            eprintln!("skipped: {error}");
            return None;
        }
    };
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(argument)
        .env("PROXY_AGENT_BIN", agent)
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}\n{said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Some(said)
}

#[test]
fn all_outcomes_are_observed() {
    let Some(said) = demo(None) else { return };
    is_whole(&said);
}

#[test]
fn the_same_story_is_told_on_a_real_control_plane() {
    let Some(said) = demo(Some("--cluster")) else {
        return;
    };
    is_whole(&said);
}

fn is_whole(said: &str) {
    for part in [
        "01  ClusterIP",
        "02  NodePort",
        "03  LoadBalancer",
        "04  Service discovery",
        "05  Headless and ExternalName",
        "06  A pod crashes",
        "07  A Service moves to another version",
        "08  The agent of worker-1 restarts",
        "What is in the maps",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(
        said.contains("outcomes were observed") && !said.contains('✗'),
        "{said}"
    );
}

#[test]
fn a_kept_cluster_can_be_entered_and_taken_down() {
    let Some(said) = demo(Some("--keep")) else {
        return;
    };
    let prefix = kept().pop().expect("is kept");
    assert!(said.contains(&prefix), "{said}");
    // Its sockets are the pod's, which the agent's socket hooks see, and so is its resolv.conf.
    let page = "exec 3<>/dev/tcp/mlflow/5000; printf 'GET / HTTP/1.1\\r\\n\\r\\n' >&3; cat <&3";
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--enter", "notebook", "bash", "-c", page])
        .output()
        .expect("starts");
    take_down(&prefix).expect("goes down");
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(
        page.contains("mlflow-"),
        "{said}\n{page}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!kept().contains(&prefix));
}
