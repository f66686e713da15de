//! What an agent made of a node's devices, read from its maps.

use std::collections::BTreeMap;

use proxy_agent::dataplane::{open, pin::PinFolder};
use proxy_common::abi::{
    Pinned,
    counter::Counter,
    device::{Device, DeviceClass, LinkType},
};
use proxy_lab::{Node, Result};

/// Each device that has a class, by name, and which.
pub fn described(node: &Node) -> Result<Vec<(String, String)>> {
    let pins = PinFolder::new(node.bpffs());
    let map = open::open(&pins, Pinned::DEVICES).expect("DEVICES");
    let names = names(node)?;
    let entries = map.entries().expect("devices");
    let mut all: Vec<_> = entries
        .into_iter()
        .map(|(ifindex, device)| (names[&ifindex].clone(), describe(&names, &device)))
        .collect();
    all.sort();
    Ok(all)
}

fn describe(names: &BTreeMap<u32, String>, device: &Device) -> String {
    let classes = [
        (DeviceClass::Uplink, "uplink"),
        (DeviceClass::Overlay, "overlay"),
        (DeviceClass::Pod, "pod"),
        (DeviceClass::Bridge, "bridge"),
    ];
    let class = classes
        .iter()
        .find(|(class, _)| *class as u8 == device.class);
    let mut text = class.expect("a class").1.to_owned();
    if device.bridge != 0 {
        text += " of ";
        text += &names[&device.bridge];
    }
    if device.link == LinkType::RawIp as u8 {
        text += ", raw";
    }
    text
}

fn names(node: &Node) -> Result<BTreeMap<u32, String>> {
    let text = node.exec(["ip", "-o", "link"])?;
    let name = |line: &str| {
        let mut parts = line.split(": ");
        let ifindex = parts.next()?.parse().ok()?;
        let name = parts.next()?.split('@').next()?;
        Some((ifindex, name.to_owned()))
    };
    Ok(text.lines().filter_map(name).collect())
}

/// How often something was counted on a node.
pub fn counted(node: &Node, counter: Counter) -> u64 {
    let pins = PinFolder::new(node.bpffs());
    let counters = open::counters(&pins).expect("COUNTERS");
    counters.sum(counter as u32).expect("a counter")
}
