//! What maps hold, as text: sorted, without ids, so that it does not show how it came about.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use proxy_agent::{
    maps::{NODE_NAME, Snapshot, codec},
    plan::{ServiceName, TargetKey},
    report::Kind,
};
use proxy_common::{
    abi::{
        device::node_addr,
        frontend::{FrontendKey, FrontendValue, Scope},
        meta::{List, TargetMeta, backend_meta_flags},
        target::{Algorithm, BackendState, Target, TargetState, target_flags},
    },
    addr::Family,
};

/// What a target holds.
struct Entry<'a> {
    target: Target,
    /// Scopes by what listens.
    frontends: BTreeMap<(Kind, IpAddr, u16), Vec<&'static str>>,
    maps: &'a Snapshot,
}

/// The maps as text.
pub fn dump(maps: &Snapshot) -> String {
    let mut text = String::new();
    let name = maps.names.get(&NODE_NAME).and_then(codec::name_text);
    writeln!(text, "node {}", name.unwrap_or("?")).unwrap();
    for (flags, what) in [
        (node_addr::NODE_PORT, "node ports on"),
        (0, "not on"),
        (node_addr::LOOPBACK, "loopback"),
    ] {
        let chosen = maps.node_addrs.iter().filter(|(_, f)| **f == flags);
        let chosen: BTreeSet<IpAddr> = chosen.map(|(addr, _)| addr.to_ip()).collect();
        let chosen: Vec<String> = chosen.iter().map(ToString::to_string).collect();
        if !chosen.is_empty() {
            writeln!(text, "  {what} {}", chosen.join(" ")).unwrap();
        }
    }
    let targets = targets(maps);
    let mut port = None;
    for ((service, key), entry) in &targets {
        let this = (service, &key.port_name, key.protocol, key.family);
        if port.replace(this) != Some(this) {
            let family = match key.family {
                Family::V4 => "IPv4",
                Family::V6 => "IPv6",
            };
            let colon = if key.port_name.is_empty() { "" } else { ":" };
            let protocol = format!("{:?}", key.protocol).to_uppercase();
            writeln!(
                text,
                "{service}{colon}{} {protocol} {family}",
                key.port_name
            )
            .unwrap();
        }
        entry.write(key.list, &mut text);
        let siblings = targets.iter().filter(|((s, k), _)| {
            (s, &k.port_name, k.protocol, k.family) == this && k.list > key.list
        });
        if siblings.count() == 0 {
            draining(maps, entry.target.service, &mut text);
        }
    }
    text
}

fn targets(maps: &Snapshot) -> BTreeMap<(ServiceName, TargetKey), Entry<'_>> {
    let identity = |(&id, meta): (&u32, &TargetMeta)| {
        let entry = Entry {
            target: maps.target(id),
            frontends: BTreeMap::new(),
            maps,
        };
        (
            id,
            (codec::target_identity(meta).expect("an identity"), entry),
        )
    };
    let mut targets: BTreeMap<u32, _> = maps.meta_targets.iter().map(identity).collect();
    for (key, value) in &maps.frontends {
        let (_, entry) = targets.get_mut(&value.target()).expect("a target");
        entry.add(key, *value);
    }
    targets.into_values().collect()
}

impl Entry<'_> {
    fn add(&mut self, key: &FrontendKey, value: FrontendValue) {
        let scope = if key.scope == Scope::Cluster as u8 {
            "cluster"
        } else {
            "external"
        };
        let place = (value.kind().into(), key.addr.to_ip(), key.port.get());
        self.frontends.entry(place).or_default().push(scope);
    }

    fn write(&self, list: List, text: &mut String) {
        let Self { target, maps, .. } = self;
        let mut words = vec![target.word.algorithm().name().to_owned()];
        match target.word.state() {
            TargetState::Serve => {}
            state => words.push(format!("{state:?}").to_lowercase()),
        }
        if target.affinity_seconds > 0 {
            words.push(format!("affinity {} s", target.affinity_seconds));
        }
        if target.slow_start > 0 {
            words.push(format!("slow start {} s", target.slow_start));
        }
        if target.ranges > 0 {
            let set = maps.ranges.iter().filter(|key| key.set == target.ranges);
            let mut ranges: Vec<_> = set.filter_map(codec::range).collect();
            ranges.sort_unstable();
            let mut sources: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            if target.flags & target_flags::REFUSES_NODE == 0 {
                sources.push("this node".to_owned());
            }
            if sources.is_empty() {
                sources.push("nobody".to_owned());
            }
            let frontends = if target.flags & target_flags::FILTERS_ALL == 0 {
                ""
            } else {
                "all frontends "
            };
            words.push(format!("{frontends}for {}", sources.join(" ")));
        }
        let slots: Vec<u32> = maps
            .slots_of(target.word)
            .map(|slot| slot.backend)
            .collect();
        if target.word.algorithm() == Algorithm::Maglev && !slots.is_empty() {
            let table = slots.iter().map(|id| place(maps, *id).to_string());
            let table: Vec<String> = table.collect();
            words.push(format!(
                "{} slots #{:08x}",
                table.len(),
                fnv(&table.concat())
            ));
        }
        writeln!(text, "  {list:?}: {}", words.join(", ")).unwrap();
        for ((kind, ip, port), scopes) in &self.frontends {
            let at = if ip.is_unspecified() {
                format!("*:{port}")
            } else {
                SocketAddr::new(*ip, *port).to_string()
            };
            writeln!(text, "    {kind:?} {at} from {}", scopes.join(", ")).unwrap();
        }
        let mut lines: BTreeSet<_> = BTreeSet::new();
        for id in slots.iter().collect::<BTreeSet<_>>() {
            let count = slots.iter().filter(|slot| *slot == id).count();
            let times = if count > 1 {
                format!(", {count} slots")
            } else {
                String::new()
            };
            lines.insert((place(maps, *id), describe(maps, *id) + &times));
        }
        for (_, line) in lines {
            writeln!(text, "    → {line}").unwrap();
        }
    }
}

/// Backends of a Service port that no list names: they serve those who know them.
fn draining(maps: &Snapshot, service: u32, text: &mut String) {
    let mut lines = BTreeSet::new();
    for (id, meta) in &maps.meta_backends {
        let word = maps.backend(*id).word;
        let serves = word.state() == BackendState::Serving && word.lists() == 0;
        if meta.owner == service && serves {
            lines.insert((place(maps, *id), describe(maps, *id)));
        }
    }
    for (_, line) in lines {
        writeln!(text, "  draining {line}").unwrap();
    }
}

fn place(maps: &Snapshot, id: u32) -> SocketAddr {
    let backend = maps.backend(id);
    SocketAddr::new(backend.addr.to_ip(), backend.port.get())
}

fn describe(maps: &Snapshot, id: u32) -> String {
    let (backend, meta) = (maps.backend(id), maps.meta_backends[&id]);
    let name = |id| {
        maps.names
            .get(&id)
            .and_then(codec::name_text)
            .filter(|_| id != NODE_NAME)
    };
    let mut text = place(maps, id).to_string();
    text.extend(name(meta.node).map(|node| format!(" on {node}")));
    text.extend(name(meta.zone).map(|zone| format!(" in {zone}")));
    text.extend(backend.is_local().then_some(", local"));
    text.extend((meta.flags & backend_meta_flags::TERMINATING != 0).then_some(", terminating"));
    if backend.weight != 1 {
        write!(text, ", weight {}", backend.weight).unwrap();
    }
    text
}

/// FNV-1a, 32 bits (draft-eastlake-fnv): two tables with one hash are one table.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
