//! Devices and addresses as a kernel tells them: needs root and ip(8).

#![cfg(test)]

#[path = "devices/namespace.rs"]
mod namespace;
#[path = "devices/warnings.rs"]
mod warnings;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    time::Duration,
};

use proxy_agent::devices::{
    addresses::node_addresses,
    classify::{DeviceConfig, classify},
    netlink::Watcher,
    observed::Observed,
};
use proxy_common::abi::device::{DeviceClass, LinkType};
use tokio::time;

use self::namespace::{ip, node};

/// What a change may take to be noticed.
const NOTICED: Duration = Duration::from_secs(1);

/// Waits until the watcher tells what is asked for.
async fn noticed(watcher: &mut Watcher, what: &str, is: impl Fn(&Observed) -> bool) -> Observed {
    let told = async {
        loop {
            let observed = watcher.changed().await.unwrap();
            if is(&observed) {
                return observed;
            }
        }
    };
    let told = time::timeout(NOTICED, told).await;
    told.unwrap_or_else(|_| panic!("{what} was not noticed within {NOTICED:?}"))
}

fn has(observed: &Observed, address: &str) -> bool {
    let address: IpAddr = address.parse().unwrap();
    node_addresses(observed).contains(&address)
}

/// Class, link type and bridge of each device that matters, by name.
fn classes(observed: &Observed) -> BTreeMap<String, (u8, u8, String)> {
    let classes = classify(observed, &DeviceConfig::default());
    assert_eq!(classes.problems, []);
    let ports = classes.ports.into_values();
    ports
        .map(|port| {
            let device = port.device;
            let bridge = observed.links.get(&device.bridge);
            let bridge = bridge.map(|link| link.name.clone()).unwrap_or_default();
            (port.name, (device.class, device.link, bridge))
        })
        .collect()
}

#[test]
fn classes_of_real_devices() {
    node(async |pods| {
        ip(&format!(
            "link set lo up
             link add eth0 type veth peer name eth0-far
             link add kind0 type veth peer name kind0 netns {pods}
             link add cali1 type veth peer name cali1 netns {pods}
             link add ptp1 type veth peer name ptp1 netns {pods}
             link add kind1 type veth peer name kind1 netns {pods}
             link add sub1 type veth peer name sub1 netns {pods}
             link add cni0 type bridge
             link add veth1 type veth peer name veth1 netns {pods} mtu 1450
             link set veth1 master cni0 mtu 1450
             link add flannel.1 type vxlan id 1 dstport 8472 dev eth0
             tuntap add tun0 mode tun
             tuntap add tap0 mode tap
             link add off0 type veth peer name off0-far
             link add br0 type bridge
             link set off0 master br0
             link add vx-br1 type vxlan id 2 dstport 4789 dev eth0
             link add br1 type bridge
             link set vx-br1 master br1
             addr add 192.0.2.1/24 dev eth0
             addr add 192.0.2.2/24 dev eth0
             addr add 2001:db8::1/64 dev eth0 nodad
             addr add 172.18.0.2/32 dev kind0
             addr add 10.244.0.1/32 dev ptp1
             addr add 172.19.0.2/16 dev kind1
             addr add fd00:246::1/64 dev sub1 nodad
             addr add 10.244.1.1/24 dev cni0
             addr add 10.244.1.0/32 dev flannel.1
             addr add 10.8.0.2 peer 10.8.0.1 dev tun0
             addr add 203.0.113.1/24 dev off0-far
             addr add 10.5.0.1/24 dev br1"
        ));
        for device in [
            "eth0",
            "eth0-far",
            "kind0",
            "cali1",
            "ptp1",
            "kind1",
            "sub1",
            "cni0",
            "veth1",
            "flannel.1",
            "tun0",
            "tap0",
            "off0",
            "vx-br1",
            "br1",
        ] {
            ip(&format!("link set {device} up"));
        }
        ip("route add default dev kind0 metric 50
            route add default via 192.0.2.254 metric 100
            route add default dev eth0 table 77
            route add fd00:246::7/128 dev sub1
            route add 172.19.0.7/32 via 172.19.0.9
            route add 10.9.9.9/32 dev kind1
            route add unreachable ::/0 metric 9");
        let (_, observed) = Watcher::start().await.unwrap();

        let of = |name: &str, class: DeviceClass, link: LinkType, bridge: &str| {
            (
                name.to_owned(),
                (class as u8, link as u8, bridge.to_owned()),
            )
        };
        let (ethernet, raw) = (LinkType::Ethernet, LinkType::RawIp);
        let expected = [
            of("eth0", DeviceClass::Uplink, ethernet, ""),
            // As in a kind node; the metric does not matter.
            of("kind0", DeviceClass::Uplink, ethernet, ""),
            of("cali1", DeviceClass::Pod, ethernet, ""),
            of("ptp1", DeviceClass::Pod, ethernet, ""),
            of("kind1", DeviceClass::Uplink, ethernet, ""),
            // The gateway of pods, whose routes say so.
            of("sub1", DeviceClass::Pod, ethernet, ""),
            of("cni0", DeviceClass::Bridge, ethernet, ""),
            of("veth1", DeviceClass::Pod, ethernet, "cni0"),
            of("flannel.1", DeviceClass::Overlay, ethernet, ""),
            of("tun0", DeviceClass::Overlay, raw, ""),
            of("tap0", DeviceClass::Pod, ethernet, ""),
            // Its bridge is down; what that is for is not its business.
            of("off0", DeviceClass::Pod, ethernet, "br0"),
            // With a tunnel as a port, it leads out.
            of("br1", DeviceClass::Uplink, ethernet, ""),
        ];
        assert_eq!(classes(&observed), expected.into());

        let ports = classify(&observed, &DeviceConfig::default()).ports;
        let port = |name: &str| ports.values().find(|port| port.name == name).unwrap();
        let sources = |name: &str| {
            let device = port(name).device;
            [device.snat_v4, device.snat_v6].map(|addr| addr.to_string())
        };
        assert_eq!(sources("eth0"), ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(sources("veth1")[0], "10.244.1.1");
        assert_eq!(sources("tun0")[0], "10.8.0.2");
        assert_eq!(sources("cali1")[0], "172.18.0.2");
        assert_eq!(port("veth1").device.mtu, 1450);
        assert_ne!(port("eth0").device.mac, [0; 6]);
        assert_eq!(port("tun0").device.mac, [0; 6]);
    });
}

#[test]
fn what_comes_and_goes_is_noticed_within_a_second() {
    node(async |pods| {
        let (mut watcher, before) = Watcher::start().await.unwrap();
        assert!(before.links.values().any(|link| link.loopback && !link.up));

        ip(&format!(
            "link add cali1 type veth peer name cali1 netns {pods}\nlink set cali1 up"
        ));
        let pod = |observed: &Observed| {
            let found = classes(observed).remove("cali1");
            found.map(|(class, ..)| class) == Some(DeviceClass::Pod as u8)
        };
        noticed(&mut watcher, "a pod's device", pod).await;

        ip("addr add 192.0.2.1/24 dev cali1");
        noticed(&mut watcher, "an address", |o| has(o, "192.0.2.1")).await;
        ip("addr add 2001:db8::1/64 dev cali1 nodad");
        noticed(&mut watcher, "an IPv6 address", |o| has(o, "2001:db8::1")).await;

        ip("route add default via 192.0.2.254");
        let leads_out = |observed: &Observed| !observed.default_routes.is_empty();
        noticed(&mut watcher, "a default route", leads_out).await;
        ip("route del default");
        noticed(&mut watcher, "its end", |o| !leads_out(o)).await;

        ip("addr del 192.0.2.1/24 dev cali1");
        noticed(&mut watcher, "an address's end", |o| !has(o, "192.0.2.1")).await;
        ip("link set cali1 name cali2 mtu 1400");
        let renamed = |o: &Observed| {
            let mut links = o.links.values();
            links.any(|link| link.name == "cali2" && link.mtu == 1400)
        };
        noticed(&mut watcher, "another name and MTU", renamed).await;
        ip("link set cali2 down");
        noticed(&mut watcher, "a device down", |o| classes(o).is_empty()).await;
        ip("link del cali2");
        noticed(&mut watcher, "a device's end", |o| o.links.len() == 1).await;
    });
}

/// A call of `changed()` that is dropped, at whatever point, takes nothing with it.
#[test]
fn a_call_that_is_dropped_loses_nothing() {
    node(async |_| {
        let (mut watcher, _) = Watcher::start().await.unwrap();
        ip("link set lo up");
        let mut told = None;
        for wait in (1..)
            .map(|round| Duration::from_millis(round * 2))
            .take(100)
        {
            if let Ok(observed) = time::timeout(wait, watcher.changed()).await {
                told = Some(observed.unwrap());
                break;
            }
        }
        let told = told.expect("a device that came up");
        assert!(told.links.values().any(|link| link.up));
    });
}

/// The agent's loop waits for several things, and drops the call at each turn. netlink-proto warns of each message of a list
/// that nobody reads any more.
#[test]
fn calls_that_are_dropped_leave_no_warnings() {
    node(async |_| {
        let pair = |n| format!("link add a{n} up type veth peer name b{n}\n");
        ip(&(0..40).map(pair).collect::<String>());
        warnings::begin();
        let (mut watcher, mut last) = Watcher::start().await.unwrap();
        for round in 0..20 {
            ip(&format!("addr add 10.0.0.{}/32 dev a1", round + 1));
            // The list is dropped at every stage of it.
            for _ in 0..200 {
                let told = time::timeout(Duration::from_micros(500), watcher.changed()).await;
                if let Ok(now) = told {
                    last = now.unwrap();
                }
            }
        }
        if !has(&last, "10.0.0.20") {
            noticed(&mut watcher, "the last address", |o| has(o, "10.0.0.20")).await;
        }
        assert_eq!(warnings::end(), Vec::<String>::new());
    });
}

/// An IPv6 address is used from when no other host has claimed it (RFC 4862 §5.4), and noticed then.
#[test]
fn an_address_counts_when_it_was_found_to_be_alone() {
    node(async |_| {
        ip("link add eth0 type veth peer name eth1\nlink set eth0 up\nlink set eth1 up");
        let (mut watcher, _) = Watcher::start().await.unwrap();
        ip("addr add 2001:db8::1/64 dev eth0");
        let (_, now) = Watcher::start().await.unwrap();
        assert!(!has(&now, "2001:db8::1"), "in doubt yet");
        let told = async { while !has(&watcher.changed().await.unwrap(), "2001:db8::1") {} };
        let most = Duration::from_secs(10);
        time::timeout(most, told).await.expect("its time is over");
    });
}

/// Events that the kernel threw away because a socket of this namespace was full.
fn lost_events() -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let mut lines = table.lines();
    let mut names = lines.next().unwrap().split_whitespace();
    let drops = names.position(|name| name == "Drops").unwrap();
    let count = |line: &str| line.split_whitespace().nth(drops)?.parse::<u64>().ok();
    lines.filter_map(count).sum()
}

/// The agent does not read while `ip` runs: this runtime has one thread.
#[test]
fn a_burst_of_addresses_ends_in_the_right_state() {
    node(async |_| {
        ip("link add eth0 type veth peer name eth1\nlink set eth0 up");
        let (mut watcher, _) = Watcher::start().await.unwrap();
        let address = |n: usize| format!("10.1.{}.{}", n / 200, n % 200 + 1);
        let script = |verb: &str, numbers: &mut dyn Iterator<Item = usize>| {
            let line = |n| format!("addr {verb} {}/16 dev eth0", address(n));
            ip(&numbers.map(line).collect::<Vec<_>>().join("\n"));
        };
        let of = |numbers: &mut dyn Iterator<Item = usize>| -> BTreeSet<IpAddr> {
            numbers.map(|n| address(n).parse().unwrap()).collect()
        };

        script("add", &mut (0..1000));
        assert!(lost_events() > 0, "the burst was to overflow the socket");
        let all = of(&mut (0..1000));
        noticed(&mut watcher, "the burst", |o| node_addresses(o) == all).await;

        // The first stays, as otherwise all others go with it.
        script("del", &mut (1..1000).filter(|n| n % 3 != 0));
        let rest = of(&mut (0..1000).filter(|n| n % 3 == 0));
        noticed(&mut watcher, "its end", |o| node_addresses(o) == rest).await;
    });
}

/// Routes of pods fill the socket, and none of them matters; that events were lost does.
#[test]
fn what_was_lost_behind_events_that_do_not_matter_is_noticed() {
    node(async |_| {
        ip("link add eth0 type veth peer name eth1\nlink set eth0 up\nlink set eth1 up");
        let (mut watcher, _) = Watcher::start().await.unwrap();
        let route = |n| format!("route add 10.{}.{}.1/32 dev eth0\n", n / 200, n % 200);
        let mut script: String = (0..2000).map(route).collect();
        script += "addr add 192.0.2.1/24 dev eth0";
        ip(&script);
        assert!(lost_events() > 0, "the routes were to overflow the socket");
        noticed(&mut watcher, "the address", |o| has(o, "192.0.2.1")).await;
    });
}

/// Nothing is told when nothing that matters has changed.
#[test]
fn routes_of_pods_are_no_news() {
    node(async |_| {
        ip("link add eth0 type veth peer name eth1\nlink set eth0 up\nlink set eth1 up");
        let (mut watcher, _) = Watcher::start().await.unwrap();
        ip("route add 10.0.0.1/32 dev eth0\nneigh add 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0");
        let told = time::timeout(Duration::from_millis(500), watcher.changed()).await;
        assert!(told.is_err(), "told {told:?}");
    });
}
