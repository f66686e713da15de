//! A node's devices, addresses and routes in a network namespace, and a bpf file system, that end with their thread.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};

/// The outside.
pub const UPLINK: u32 = 102;
/// Another way to the outside.
pub const SECOND: u32 = 104;
/// Stands for a tunnel: its programs are those for packets without an Ethernet header.
pub const OVERLAY: u32 = 103;
/// Pods A and B, by devices of their own.
pub const POD_A: u32 = 111;
pub const POD_B: u32 = 112;
/// A bridge with pods C and D; the kernel knows the neighbour D.
pub const BRIDGE: u32 = 120;
pub const POD_C: u32 = 123;
pub const POD_D: u32 = 124;

pub const MAC_D: [u8; 6] = [2, 0xd, 0, 0, 0, 4];
/// The routers that clients and pods of other nodes are behind. The one to far pods by IPv6 is not known as a neighbour.
pub const MAC_ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
pub const MAC_FAR: [u8; 6] = [2, 0, 0, 0, 0, 0xfc];
pub const MAC_SECOND: [u8; 6] = [2, 0, 0, 0, 0, 0xfd];
/// The kernel's test run takes a packet's first six bytes for a destination MAC address: those of a plain IPv6 header with
/// a payload of 20 bytes, so that such a packet is for this node. Any IPv4 packet begins like a multicast address.
pub const MAC_OVERLAY: [u8; 6] = [0x60, 0, 0, 0, 0, 20];
/// The MAC address of any other device: the last byte is its number.
pub const fn mac(ifindex: u32) -> [u8; 6] {
    if ifindex == OVERLAY {
        MAC_OVERLAY
    } else {
        [2, 0, 0, 0, 1, ifindex as u8]
    }
}

const PORTS: [(u32, &str); 7] = [
    (UPLINK, "uplink"),
    (SECOND, "second"),
    (OVERLAY, "overlay"),
    (POD_A, "pod-a"),
    (POD_B, "pod-b"),
    (POD_C, "pod-c"),
    (POD_D, "pod-d"),
];

const ADDRESSES: &str = "
    addr add 192.0.2.10/24 dev uplink
    addr add 192.0.2.11/32 dev uplink
    addr add 2001:db8::10/64 dev uplink nodad
    addr add 2001:db8::11/128 dev uplink nodad
    addr add 192.0.3.10/24 dev second
    addr add 2001:db8:3::10/64 dev second nodad
    addr add 10.0.2.1/24 dev overlay
    addr add fd00:2::1/64 dev overlay nodad
    addr add 10.0.0.1/24 dev bridge
    addr add fd00::1/64 dev bridge nodad
    route add 10.0.0.11/32 dev pod-a
    route add 10.0.0.12/32 dev pod-b
    route add fd00::11/128 dev pod-a
    route add fd00::12/128 dev pod-b
    route add 10.0.1.0/24 via 192.0.2.20
    route add fd00:1::/64 via 2001:db8::20
    route add 198.51.100.0/24 via 192.0.2.1
    route add 2001:db8:f::/64 via 2001:db8::1
    route add 10.0.3.0/24 via 192.0.3.20
    route add fd00:3::/64 via 2001:db8:3::20
    neigh add 192.0.3.20 lladdr 02:00:00:00:00:fd dev second nud permanent
    neigh add 2001:db8:3::20 lladdr 02:00:00:00:00:fd dev second nud permanent
    neigh add 192.0.2.20 lladdr 02:00:00:00:00:fc dev uplink nud permanent
    neigh add 192.0.2.1 lladdr 02:00:00:00:00:fe dev uplink nud permanent
    neigh add 2001:db8::1 lladdr 02:00:00:00:00:fe dev uplink nud permanent
    neigh add 10.0.0.24 lladdr 02:0d:00:00:00:04 dev bridge nud permanent
    neigh add fd00::24 lladdr 02:0d:00:00:00:04 dev bridge nud permanent
";

/// Why the kernel cannot be asked here, if so.
pub fn skip_reason() -> Option<&'static str> {
    if !geteuid().is_root() {
        return Some("needs root, to load programs");
    }
    if proxy_agent::dataplane::load::OBJECT.is_empty() {
        return Some("this build embeds no eBPF object (PROXY_EBPF_SKIP=1)");
    }
    None
}

/// Runs `work` on a thread in namespaces of its own, with the folder of a bpf file system.
pub fn inside<T: Send>(work: impl FnOnce(&Path) -> T + Send) -> T {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let name = format!("proxy-differential-{}-{run}", std::process::id());
    let folder = MountPoint::create(std::env::temp_dir().join(name));
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces");
            let none = None::<&str>;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(none, "/", none, private, none).expect("private mounts");
            mount(Some("bpf"), &folder.0, Some("bpf"), MsFlags::empty(), none).expect("a bpffs");
            wire();
            work(&folder.0)
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A folder to mount on, seen from outside always empty.
struct MountPoint(PathBuf);

impl MountPoint {
    fn create(path: PathBuf) -> Self {
        fs::create_dir(&path).expect("a folder to mount on");
        Self(path)
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        // What cannot be removed is an empty folder among temporary files.
        let _ = fs::remove_dir(&self.0);
    }
}

fn wire() {
    let sysctl = |name: &str, value: &str| {
        fs::write(Path::new("/proc/sys/net").join(name), value).expect(name);
    };
    sysctl("ipv4/ip_forward", "1");
    sysctl("ipv6/conf/all/forwarding", "1");

    let mut script = vec!["link set lo up".to_owned()];
    let hex = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let veth = |(ifindex, name): (u32, &str)| {
        let (mac, far) = (hex(mac(ifindex)), ifindex + 100);
        format!(
            "link add name {name} index {ifindex} address {mac} type veth peer name {name}-far index {far}"
        )
    };
    script.extend(PORTS.map(veth));
    let mac = hex(mac(BRIDGE));
    script.push(format!(
        "link add name bridge index {BRIDGE} address {mac} type bridge"
    ));
    script.push("link set overlay mtu 1450".to_owned());
    script.extend(["pod-c", "pod-d"].map(|pod| format!("link set {pod} master bridge")));
    let ends = PORTS
        .iter()
        .flat_map(|(_, name)| [(*name).to_owned(), format!("{name}-far")]);
    for name in ends.chain(["bridge".to_owned()]) {
        script.push(format!("link set {name} addrgenmode none"));
        script.push(format!("link set {name} up"));
    }
    script.extend(ADDRESSES.lines().map(|line| line.trim().to_owned()));
    ip(&script.join("\n"));
}

/// Runs one command of ip(8) a line.
pub fn ip(script: &str) {
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("ip(8), of the package iproute2");
    let lines: Vec<&str> = script.lines().map(str::trim).collect();
    let mut input = ip.stdin.take().expect("a pipe");
    input
        .write_all(lines.join("\n").as_bytes())
        .expect("a script");
    drop(input);
    assert!(
        ip.wait().expect("an end").success(),
        "ip(8) refused:\n{script}"
    );
}
