//! What is refused changes nothing, and what fails leaves nothing: the order of steps of `run` and `cleanup`, and the folder
//! that they pin in, which must be theirs alone.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use proxy_lab::{Result, agent_binary, bpffs};

/// A place in the BPF file system of which everything is removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Result<Self> {
        let path = Path::new(bpffs::ROOT).join(format!("lab-order-{name}-{}", std::process::id()));
        Ok(Self(bpffs::create(&path)?))
    }

    /// The agent's folder.
    fn base(&self) -> PathBuf {
        self.0.join("base")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        bpffs::remove(&self.0).expect("can be removed");
    }
}

/// Runs a shell script in a network namespace of its own; `$BASE` is the agent's folder.
fn script(base: &Path, script: &str) -> Output {
    Command::new("unshare")
        .args(["--net", "sh", "-euc", script])
        .env("AGENT", agent_binary().expect("is built"))
        .env("BASE", base)
        .output()
        .expect("util-linux is there")
}

fn text(output: &Output) -> String {
    let both = [&*output.stdout, &*output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("is there").mode() & 0o7777
}

fn make(path: &Path, mode: u32) {
    fs::create_dir(path).expect("can be made");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("can be set");
}

const CLEANUP: &str = "$AGENT cleanup --bpffs $BASE";
/// It ends by itself: the cgroup, the source and the folder are looked at before anything that lasts is made.
const RUN: &str = "$AGENT run --source kube --kubeconfig /no/such/file --hostname-override w --bpffs $BASE \
    --healthz-bind-address off --metrics-bind-address off";

#[test]
fn a_cleanup_that_is_refused_leaves_the_running_agents_rules() -> Result<()> {
    if proxy_lab::skipped() {
        return Ok(());
    }
    let place = Place::new("refused")?;
    make(&place.base(), 0o700);
    let rule = "FORWARD -m comment --comment 'kube-proxy-ebpf: replies' -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
    let output = script(
        &place.base(),
        &format!(
            "iptables-nft -P FORWARD DROP
            iptables-nft -A {rule}
            # As a running agent, of this or an earlier version.
            exec 9<$BASE
            flock --nonblock 9
            if {CLEANUP}; then echo not refused; fi
            iptables-nft -S FORWARD
            exec 9<&-
            {CLEANUP}
            echo left: $(iptables-nft -S FORWARD)"
        ),
    );
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("another agent works on"), "{said}");
    let (refused, done) = said.split_once("left: ").expect("it came to the end");
    assert!(
        !refused.contains("not refused") && refused.contains("-A FORWARD"),
        "{said}"
    );
    assert!(!done.contains("-A FORWARD"), "{said}");
    assert!(!place.base().exists());
    Ok(())
}

#[test]
fn a_first_start_that_fails_leaves_nothing() -> Result<()> {
    if proxy_lab::skipped() {
        return Ok(());
    }
    let place = Place::new("fails")?;
    let output = script(&place.base(), RUN);
    assert!(!output.status.success());
    assert!(text(&output).contains("/no/such/file"), "{}", text(&output));
    assert!(!place.base().exists(), "something is left");
    Ok(())
}

#[test]
fn a_folder_that_others_could_fill_is_refused_by_every_command_and_left_as_it_is() -> Result<()> {
    if proxy_lab::skipped() {
        return Ok(());
    }
    let place = Place::new("others")?;
    let base = place.base();
    let commands = [
        RUN,
        CLEANUP,
        "$AGENT services --bpffs $BASE",
        "$AGENT flows --bpffs $BASE",
    ];
    let refused = |words: &str| {
        for command in commands {
            let output = script(&base, command);
            let said = text(&output);
            assert!(!output.status.success(), "{command}: {said}");
            assert!(
                said.contains(words) && said.contains("--bpffs"),
                "{command}: {said}"
            );
        }
    };
    make(&base, 0o1777);
    make(&base.join("v1"), 0o755);
    refused("written to by others (mode 1777)");
    assert!(base.join("v1").is_dir() && mode(&base) == 0o1777);

    fs::set_permissions(&base, Permissions::from_mode(0o755)).expect("can be set");
    std::os::unix::fs::chown(&base, Some(65_534), None).expect("can be given away");
    refused("belongs to user 65534");
    assert_eq!(mode(&base), 0o755);
    fs::remove_dir(base.join("v1")).expect("is empty");
    fs::remove_dir(&base).expect("is empty");

    let elsewhere = place.0.join("elsewhere");
    make(&elsewhere, 0o700);
    symlink(&elsewhere, &base).expect("bpffs has links");
    refused("is a link");
    assert_eq!(fs::read_dir(&elsewhere).expect("is there").count(), 0);
    Ok(())
}

#[test]
fn a_folder_of_an_earlier_version_is_closed_to_others() -> Result<()> {
    if proxy_lab::skipped() {
        return Ok(());
    }
    let place = Place::new("upgrade")?;
    make(&place.base(), 0o755);
    make(&place.base().join("v0"), 0o755);
    let output = script(&place.base(), RUN);
    assert!(text(&output).contains("/no/such/file"), "{}", text(&output));
    // It is not the first start: what is there serves.
    assert!(place.base().join("v0").is_dir());
    assert_eq!(mode(&place.base()), 0o700);
    let output = script(&place.base(), CLEANUP);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!place.base().exists());
    Ok(())
}
