//! What the maps say, in the words of a plan: the command `services`, and the proof that both mean the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use proxy_common::{
    abi::{
        device::node_addr,
        frontend::{FrontendKey, FrontendValue, Scope},
        meta::backend_meta_flags,
        target::{Target, TargetState, target_flags},
    },
    addr::Family,
};

use crate::{
    maps::{NODE_NAME, Snapshot, codec},
    model::service::family_of,
    report::{Backend, Empty, Frontend, Report},
};

/// What is programmed, from the maps alone. Frontends that the datapath would not serve are left out.
pub fn report(maps: &Snapshot) -> Report {
    let sets = range_sets(maps);
    let mut frontends = BTreeMap::new();
    for (key, value) in &maps.frontends {
        let is_node_port = key.addr.is_unspecified();
        let addresses = if is_node_port {
            node_addresses(maps, key.addr.family())
        } else {
            vec![key.addr.to_ip()]
        };
        for address in addresses {
            let Some(frontend) = frontend(maps, &sets, key, *value, address) else {
                continue;
            };
            // A frontend of its own address goes before the node port of the same number, as in the datapath.
            let place = (address, frontend.port, frontend.protocol, frontend.scope);
            if is_node_port {
                frontends.entry(place).or_insert(frontend);
            } else {
                frontends.insert(place, frontend);
            }
        }
    }
    Report {
        node: text(maps, NODE_NAME).unwrap_or_default(),
        frontends: frontends.into_values().collect(),
        warnings: Vec::new(),
    }
}

/// This node's addresses of a family on which node ports answer, without the loopback.
fn node_addresses(maps: &Snapshot, family: Family) -> Vec<IpAddr> {
    let answers =
        |flags: u32| flags & node_addr::NODE_PORT != 0 && flags & node_addr::LOOPBACK == 0;
    let addrs = maps.node_addrs.iter().filter(|(_, flags)| answers(**flags));
    addrs
        .map(|(addr, _)| addr.to_ip())
        .filter(|ip| family_of(*ip) == family)
        .collect()
}

/// Source ranges by set, sorted.
fn range_sets(maps: &Snapshot) -> BTreeMap<u32, Vec<IpNet>> {
    let mut sets: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    for key in &maps.ranges {
        sets.entry(key.set).or_default().extend(codec::range(key));
    }
    for ranges in sets.values_mut() {
        ranges.sort_unstable();
    }
    sets
}

fn frontend(
    maps: &Snapshot,
    sets: &BTreeMap<u32, Vec<IpNet>>,
    key: &FrontendKey,
    value: FrontendValue,
    address: IpAddr,
) -> Option<Frontend> {
    if !value.belongs_to(key) {
        return None;
    }
    let target = maps.target(value.target());
    let (service, identity) = codec::target_identity(maps.meta_targets.get(&value.target())?)?;
    let empty = match target.word.state() {
        TargetState::Absent => return None,
        TargetState::Serve => None,
        TargetState::Reject => Some(Empty::Reject),
        TargetState::Drop => Some(Empty::Drop),
    };
    let scope = if key.scope == Scope::Cluster as u8 {
        Scope::Cluster
    } else {
        Scope::External
    };
    let set = Some(target.ranges).filter(|set| *set != 0 && target.filters(value.kind()));
    Some(Frontend {
        service: service.to_string(),
        port_name: identity.port_name,
        kind: value.kind().into(),
        address,
        port: key.port.get(),
        protocol: identity.protocol.into(),
        scope: scope.into(),
        algorithm: target.word.algorithm().into(),
        affinity_seconds: Some(target.affinity_seconds).filter(|seconds| *seconds != 0),
        slow_start_seconds: Some(target.slow_start).filter(|seconds| *seconds != 0),
        source_ranges: set.map(|set| sets.get(&set).cloned().unwrap_or_default()),
        admits_node: set.is_none() || target.flags & target_flags::REFUSES_NODE == 0,
        empty,
        backends: backends(maps, target),
    })
}

/// Backends of a target, each once, by address and port.
fn backends(maps: &Snapshot, target: Target) -> Vec<Backend> {
    let ids: BTreeSet<u32> = maps
        .slots_of(target.word)
        .map(|slot| slot.backend)
        .collect();
    let mut backends: Vec<Backend> = ids
        .into_iter()
        .map(|id| {
            let value = maps.backend(id);
            let meta = maps.meta_backends.get(&id).copied().unwrap_or_default();
            Backend {
                address: value.addr.to_ip(),
                port: value.port.get(),
                node: name(maps, meta.node),
                zone: name(maps, meta.zone),
                weight: value.weight,
                terminating: meta.flags & backend_meta_flags::TERMINATING != 0,
            }
        })
        .collect();
    backends.sort_by_key(|backend| (backend.address, backend.port));
    backends.dedup();
    backends
}

/// A name that something refers to.
fn name(maps: &Snapshot, id: u32) -> Option<String> {
    text(maps, id).filter(|_| id != NODE_NAME)
}

fn text(maps: &Snapshot, id: u32) -> Option<String> {
    maps.names
        .get(&id)
        .and_then(codec::name_text)
        .map(str::to_owned)
}
