//! Networks drawn as tables, a device a line: name, kind, properties, `->`, what becomes of it.
//!
//! Properties are addresses (`192.0.2.1/24`, with `,secondary` or `,deprecated`), `default` and `default6` for routes
//! (with `=metric` and `,source`), `hosts` for routes to single hosts of a subnet, `in=<master>`, `far` for a pair's
//! device whose other end is elsewhere, `down`, and `arphrd=<number>`. Kinds are those of `ip link`, and `hardware` and `loopback`. A device's ifindex is its line.

use std::collections::BTreeMap;

use proxy_common::{abi::device::Device, addr::Family};

use super::super::{
    super::observed::{Address, DefaultRoute, Link, Observed},
    Classes, DeviceClass, DeviceConfig, LinkType, Port, classify,
};

/// A network, and what is expected of its devices.
pub(super) struct Shape {
    pub(super) observed: Observed,
    expected: BTreeMap<String, String>,
}

impl Shape {
    pub(super) fn new(table: &str) -> Self {
        let mut shape = Self {
            observed: Observed::default(),
            expected: BTreeMap::new(),
        };
        let lines = || {
            let rows = table.lines().map(str::trim).filter(|row| !row.is_empty());
            (1..).zip(rows)
        };
        let names: BTreeMap<_, u32> = lines()
            .map(|(ifindex, row)| (row.split_whitespace().next().unwrap(), ifindex))
            .collect();
        for (ifindex, row) in lines() {
            let (properties, outcome) = row.split_once("->").unwrap();
            shape.device(ifindex, properties, &names);
            if outcome.trim() != "nothing" {
                let name = properties.split_whitespace().next().unwrap();
                let outcome = outcome.trim().to_owned();
                shape.expected.insert(name.to_owned(), outcome);
            }
        }
        shape
    }

    fn device(&mut self, ifindex: u32, properties: &str, names: &BTreeMap<&str, u32>) {
        let mut words = properties.split_whitespace();
        let name = words.next().unwrap().to_owned();
        let kind = words.next().unwrap();
        let mut link = Link {
            name,
            up: true,
            loopback: kind == "loopback",
            layer: layer_of(kind),
            mtu: 1500,
            ..Link::default()
        };
        if !matches!(kind, "hardware" | "loopback") {
            // A tap is a tun with Ethernet headers.
            link.kind = if kind == "tap" { "tun" } else { kind }.to_owned();
        }
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, "0"));
            match key {
                "down" => link.up = false,
                "hosts" => drop(self.observed.host_routes.insert(ifindex)),
                "far" => link.peer_elsewhere = true,
                "in" => link.master = Some(names[value]),
                "arphrd" => link.layer = value.parse().unwrap(),
                _ if key.contains('/') => self.observed.addresses.push(address(ifindex, key)),
                _ => {
                    let route = default_route(ifindex, key, value);
                    self.observed.default_routes.insert(route);
                }
            }
        }
        self.observed.links.insert(ifindex, link);
    }

    /// Classifies with these `--devices`, compares with the table, and hands over for more.
    pub(super) fn check(&self, devices: &[&str]) -> Classes {
        let devices: Vec<_> = devices.iter().map(|&name| name.to_owned()).collect();
        let classes = classify(&self.observed, &DeviceConfig::parse(&devices).unwrap());
        let named = |port: &Port| (port.name.clone(), self.describe(&port.device));
        let found: BTreeMap<_, _> = classes.ports.values().map(named).collect();
        assert_eq!(found, self.expected);
        classes
    }

    fn describe(&self, device: &Device) -> String {
        let classes = [
            (DeviceClass::Uplink, "uplink"),
            (DeviceClass::Overlay, "overlay"),
            (DeviceClass::Pod, "pod"),
            (DeviceClass::Bridge, "bridge"),
        ];
        let class = classes
            .into_iter()
            .find(|&(class, _)| class as u8 == device.class);
        let mut text = class.unwrap().1.to_owned();
        if device.bridge != 0 {
            text += " of ";
            text += &self.observed.links[&device.bridge].name;
        }
        if device.link == LinkType::RawIp as u8 {
            text += ", raw";
        }
        text
    }

    /// The IPv4 and IPv6 source addresses of each device, `-` for none.
    pub(super) fn sources(&self) -> BTreeMap<String, (String, String)> {
        let text = |addr: proxy_common::addr::Addr| {
            if addr.is_unspecified() {
                "-".to_owned()
            } else {
                addr.to_string()
            }
        };
        let ports = self.check(&[]).ports.into_values();
        ports
            .map(|Port { name, device, .. }| (name, (text(device.snat_v4), text(device.snat_v6))))
            .collect()
    }
}

fn layer_of(kind: &str) -> u16 {
    match kind {
        "loopback" => libc::ARPHRD_LOOPBACK,
        "tun" | "wireguard" => libc::ARPHRD_NONE,
        "ipip" => libc::ARPHRD_TUNNEL,
        "sit" => libc::ARPHRD_SIT,
        "gre" => libc::ARPHRD_IPGRE,
        "ppp" => libc::ARPHRD_PPP,
        _ => libc::ARPHRD_ETHER,
    }
}

fn address(ifindex: u32, text: &str) -> Address {
    let mut parts = text.split(',');
    let (ip, prefix) = parts.next().unwrap().split_once('/').unwrap();
    let flags: Vec<_> = parts.collect();
    Address {
        ifindex,
        ip: ip.parse().unwrap(),
        prefix: prefix.parse().unwrap(),
        secondary: flags.contains(&"secondary"),
        deprecated: flags.contains(&"deprecated"),
    }
}

fn default_route(ifindex: u32, key: &str, value: &str) -> DefaultRoute {
    let (metric, source) = value.split_once(',').unzip();
    DefaultRoute {
        family: match key {
            "default" => Family::V4,
            "default6" => Family::V6,
            other => panic!("{other} is no property"),
        },
        metric: metric.unwrap_or(value).parse().unwrap(),
        ifindex,
        source: source.map(|ip| ip.parse().unwrap()),
    }
}
