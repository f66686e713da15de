//! Counters around our program on a device.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proxy_agent::dataplane::sys::link::{self, AttachType, Order};
use proxy_agent::dataplane::sys::object::{self, LinkInfo};
use proxy_lab::{Host, Node};

use crate::counter::{Count, Counter};

/// Counters of one sender's frames: first in a device's tcx chain, last in it, and in a clsact filter.
pub struct Watch<'a> {
    node: &'a Node,
    ifindex: u32,
    side: AttachType,
    counters: [Counter; 3],
    links: [OwnedFd; 2],
    start: [Count; 3],
}

impl<'a> Watch<'a> {
    /// Puts them around whatever is attached now.
    pub fn on(node: &'a Node, device: &str, side: AttachType, sender: [u8; 6]) -> Self {
        let counters = [(); 3].map(|()| Counter::of(sender).expect("a counter can be loaded"));
        let ifindex = device_of(node, device).0;
        let attach = |counter: &Counter, order| {
            let attached = node
                .netns()
                .run(|| Ok(counter.attach(ifindex, side, order)));
            attached.expect("the node is there").expect("tcx is there")
        };
        let links = [
            attach(&counters[0], Order::First),
            attach(&counters[1], Order::Last),
        ];
        add_filter(node, device, side, &counters[2]);
        // They were not attached in one moment.
        let start = settled(&counters);
        Self {
            node,
            ifindex,
            side,
            counters,
            links,
            start,
        }
    }

    /// Our counters are at both ends of the chain, and this many programs between them.
    pub fn assert_chain(&self, between: usize) {
        let chain = self
            .node
            .netns()
            .run(|| Ok(link::tcx_chain(self.ifindex, self.side)));
        let chain = chain.expect("the node is there").expect("has a chain");
        let ids = self.ids();
        assert_eq!(chain.len(), between + 2, "{chain:?}");
        assert_eq!([chain[0].link, chain[between + 1].link], ids, "{chain:?}");
    }

    /// Our counters are in the chain in their order, and this many programs beside them: one that came later may have put
    /// itself before or behind them.
    pub fn assert_others(&self, when: &str, others: usize) {
        let chain = self
            .node
            .netns()
            .run(|| Ok(link::tcx_chain(self.ifindex, self.side)));
        let chain = chain.expect("the node is there").expect("has a chain");
        let ids = self.ids();
        let found: Vec<_> = chain.iter().map(|entry| entry.link).collect();
        let counters: Vec<_> = found.iter().filter(|link| ids.contains(link)).collect();
        assert_eq!(
            counters,
            ids.iter().collect::<Vec<_>>(),
            "{when}: {chain:?}"
        );
        assert_eq!(chain.len(), others + 2, "{when}: {chain:?}");
    }

    fn ids(&self) -> [u32; 2] {
        self.links
            .each_ref()
            .map(|link| object::info::<LinkInfo>(link).expect("is a link").id)
    }

    /// What the counters have seen since [`Watch::on`], once they see no more: before ours, behind it, in the filter.
    pub fn settled(&self) -> [Count; 3] {
        let counts = settled(&self.counters);
        std::array::from_fn(|place| counts[place] - self.start[place])
    }
}

fn settled(counters: &[Counter; 3]) -> [Count; 3] {
    let read = || {
        counters
            .each_ref()
            .map(|counter| counter.count().expect("a map"))
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut last = read();
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = read();
        if now == last || Instant::now() > deadline {
            return now;
        }
        last = now;
    }
}

/// A filter of a clsact qdisc, as CNIs without tcx have them.
fn add_filter(node: &Node, device: &str, side: AttachType, counter: &Counter) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let pin = node
        .bpffs()
        .with_file_name(format!("counter-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    counter.pin(&pin).expect("can be pinned");
    add_pinned_filter(node, device, side, &pin);
}

/// The same, for any program that is pinned.
pub fn add_pinned_filter(node: &Node, device: &str, side: AttachType, pin: &Path) {
    // It may have one already.
    let _ = node.exec(["tc", "qdisc", "add", "dev", device, "clsact"]);
    let hook = if side == AttachType::TcxIngress {
        "ingress"
    } else {
        "egress"
    };
    let path = pin.to_str().expect("a plain path");
    node.exec([
        "tc",
        "filter",
        "add",
        "dev",
        device,
        hook,
        "bpf",
        "direct-action",
        "object-pinned",
        path,
    ])
    .expect("tc knows BPF");
}

/// Index and MAC address of a host's device.
pub fn device_of(host: &Host, device: &str) -> (u32, [u8; 6]) {
    let text = host
        .exec(["ip", "-json", "link", "show", "dev", device])
        .expect("is there");
    let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let index = found[0]["ifindex"].as_u64().expect("an index");
    let octets = found[0]["address"]
        .as_str()
        .expect("a MAC address")
        .split(':');
    let octets: Vec<u8> = octets
        .map(|octet| u8::from_str_radix(octet, 16).expect("hexadecimal"))
        .collect();
    (index as u32, octets.try_into().expect("six"))
}

/// MAC address of a host's device.
pub fn mac(host: &Host, device: &str) -> [u8; 6] {
    device_of(host, device).1
}
