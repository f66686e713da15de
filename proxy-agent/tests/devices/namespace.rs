//! A network namespace that stands for a node, and another one for its pods; both end with the test.

use std::{
    fs::File,
    io::Write as _,
    os::fd::AsRawFd as _,
    process::{Command, Stdio},
    thread,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use tokio::runtime;

/// Runs a test in a node, on a runtime of one thread; it is given the path of the pods' namespace. Without root it says
/// so, and does not.
pub fn node(test: impl AsyncFnOnce(&str) + Send) {
    if !geteuid().is_root() {
        println!("skipped: needs root, to make network namespaces");
        return;
    }
    if let Err(error) = Command::new("ip").arg("-Version").output() {
        println!("skipped: needs ip(8), of the package iproute2: {error}");
        return;
    }
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of the pods");
        let pods = File::open("/proc/thread-self/ns/net").expect("its file");
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of the node");
        let path = format!("/proc/{}/fd/{}", std::process::id(), pods.as_raw_fd());
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(test(&path));
    };
    thread::scope(|scope| {
        let inside = scope.spawn(run);
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Runs a command of ip(8) a line, in the calling thread's namespace.
pub fn ip(script: &str) {
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("ip(8)");
    let lines: Vec<_> = script.lines().map(str::trim).collect();
    let mut input = ip.stdin.take().expect("a pipe");
    input
        .write_all(lines.join("\n").as_bytes())
        .expect("a script");
    drop(input);
    let status = ip.wait().expect("an end");
    assert!(status.success(), "ip(8) refused a line of\n{script}");
}
