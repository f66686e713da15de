//! Labs go without a trace, however they end.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proxy_lab::sweep::{Leftovers, labs, take_down};
use proxy_lab::{Family, Lab, LabBuilder, Owner, Protocol};

/// Environment variable of the process that is to be killed. Its value says what to do with the lab.
const CHILD: &str = "PROXY_LAB_TEST_CHILD";

fn small(label: &str) -> LabBuilder {
    Lab::builder(label)
        .node("worker-1")
        .pods("worker-1", ["a1"])
}

#[test]
fn nothing_stays_after_a_drop() {
    if proxy_lab::skipped() {
        return;
    }
    let start = Instant::now();
    let lab = small("drop").up().expect("comes up");
    let up = start.elapsed();
    let prefix = lab.prefix().to_owned();
    let all = Leftovers::of(&prefix);
    assert_eq!(
        all.namespaces.len(),
        5,
        "switch, control plane, worker, workstation, pod: {all:?}"
    );
    assert_eq!(all.processes.len(), 4, "all but the switch: {all:?}");
    assert_eq!(
        all.folders.len(),
        3,
        "cgroup, bpffs, temporary files: {all:?}"
    );
    std::fs::create_dir(lab.node("worker-1").bpffs().join("left-by-an-agent"))
        .expect("bpffs is writable");
    drop(lab);
    assert!(
        Leftovers::of(&prefix).is_empty(),
        "{:?}",
        Leftovers::of(&prefix)
    );
    eprintln!("up in {up:?}, up and down in {:?}", start.elapsed());
    assert!(up < Duration::from_secs(2));
}

#[test]
fn nothing_stays_after_a_panic() {
    if proxy_lab::skipped() {
        return;
    }
    let prefix = std::sync::Mutex::new(String::new());
    let outcome = std::panic::catch_unwind(|| {
        let lab = small("panic").up().expect("comes up");
        lab.prefix()
            .clone_into(&mut prefix.lock().expect("nobody else has it"));
        panic!("a test that fails");
    });
    assert!(outcome.is_err());
    let prefix = prefix.into_inner().expect("unlocked before the panic");
    assert!(!prefix.is_empty());
    assert!(
        Leftovers::of(&prefix).is_empty(),
        "{:?}",
        Leftovers::of(&prefix)
    );
}

#[test]
fn labs_coexist_and_dead_ones_are_swept_at_the_next_start() {
    if proxy_lab::skipped() {
        return;
    }
    let bystander = small("bystander").up().expect("comes up");
    let (mut child, prefix) = child("wait");
    assert_eq!(owner(&prefix), Some(Owner::Alive));

    // Another start leaves both alone.
    drop(small("other").up().expect("comes up"));
    assert!(!Leftovers::of(&prefix).namespaces.is_empty());

    // Its processes end with it by themselves; the rest is for the next start.
    child.kill().expect("is running");
    child.wait().expect("is ours");
    let deadline = Instant::now() + Duration::from_secs(5);
    while !Leftovers::of(&prefix).processes.is_empty() {
        assert!(Instant::now() < deadline, "{:?}", Leftovers::of(&prefix));
        std::thread::sleep(Duration::from_millis(10));
    }
    // (A start of another test may have been faster than we are.)
    assert!([Some(Owner::Dead), None].contains(&owner(&prefix)));
    drop(small("next").up().expect("comes up"));
    assert!(
        Leftovers::of(&prefix).is_empty(),
        "{:?}",
        Leftovers::of(&prefix)
    );
    assert_eq!(owner(&prefix), None);

    let server = bystander.pod("a1").serve(80);
    assert!(server.is_ok(), "the bystander's processes live");
}

#[test]
fn a_kept_lab_stays_until_it_is_taken_down() {
    if proxy_lab::skipped() {
        return;
    }
    let (mut child, prefix) = child("keep");
    child.wait().expect("is ours");
    assert_eq!(owner(&prefix), Some(Owner::Kept));
    drop(small("next").up().expect("comes up"));
    let left = Leftovers::of(&prefix);
    assert_eq!(
        (left.namespaces.len(), left.processes.len()),
        (5, 4),
        "{left:?}"
    );
    take_down(&prefix).expect("goes down");
    assert!(
        Leftovers::of(&prefix).is_empty(),
        "{:?}",
        Leftovers::of(&prefix)
    );
    assert_eq!(owner(&prefix), None);
}

#[test]
fn a_signal_takes_the_lab_down_before_the_program_ends() {
    if proxy_lab::skipped() {
        return;
    }
    let (mut child, prefix) = child("signal");
    let pid = i32::try_from(child.id()).expect("process ids fit");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGTERM)
        .expect("is running");
    let status = child.wait().expect("is ours");
    assert!(status.success(), "it ended by itself: {status}");
    assert!(
        Leftovers::of(&prefix).is_empty(),
        "{:?}",
        Leftovers::of(&prefix)
    );
    assert_eq!(owner(&prefix), None);
}

fn owner(prefix: &str) -> Option<Owner> {
    labs()
        .into_iter()
        .find(|(name, _)| name == prefix)
        .map(|(_, owner)| owner)
}

/// Another process with a lab, and the lab's prefix.
fn child(task: &str) -> (Child, String) {
    let program = std::env::current_exe().expect("is a file");
    let mut child = Command::new(program)
        .args(["--exact", "the_owner_in_another_process", "--nocapture"])
        .env(CHILD, task)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let stdout = BufReader::new(child.stdout.take().expect("is piped"));
    let mut lines = stdout.lines().map_while(Result::ok);
    let prefix = lines.find_map(|line| line.strip_prefix("prefix ").map(str::to_owned));
    // Its harness goes on talking.
    std::thread::spawn(move || lines.for_each(drop));
    (child, prefix.expect("says its prefix"))
}

/// Not a test by itself: the body of [`child`].
#[test]
fn the_owner_in_another_process() {
    let Ok(task) = std::env::var(CHILD) else {
        return;
    };
    if task == "signal" {
        proxy_lab::take_down_on_signals().expect("can be handled");
    }
    let lab = small("child").up().expect("comes up");
    println!("\nprefix {}", lab.prefix());
    match task.as_str() {
        "keep" => drop(lab.keep().expect("can be kept")),
        "signal" => {
            let pod = lab.pod("a1");
            while pod.server(Protocol::Tcp, Family::V4, 0).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(proxy_lab::interrupted());
        }
        _ => std::thread::sleep(Duration::from_mins(1)),
    }
}
