//! Which ids the things in the maps have.

use std::{collections::BTreeMap, net::IpAddr};

use proxy_agent::{
    maps::{NODE_NAME, Snapshot, codec},
    plan::{Protocol, ServiceName, TargetKey},
};
use proxy_common::{
    abi::{
        frontend::{FrontendKey, FrontendValue},
        target::BackendState,
    },
    addr::Family,
};

/// A port of a Service.
type Port = (ServiceName, String, Protocol, Family);

/// Ids by what has them.
#[derive(Debug, PartialEq, Eq)]
pub struct Ids {
    frontends: BTreeMap<FrontendKey, FrontendValue>,
    targets: BTreeMap<(ServiceName, TargetKey), u32>,
    ports: BTreeMap<Port, u32>,
    /// With generations.
    backends: BTreeMap<(Port, IpAddr, u16), (u32, u32)>,
    names: BTreeMap<String, u32>,
}

impl Ids {
    pub fn new(maps: &Snapshot) -> Self {
        let mut targets = BTreeMap::new();
        let mut ports = BTreeMap::new();
        for (&id, meta) in &maps.meta_targets {
            let (service, key) = codec::target_identity(meta).unwrap();
            let port = (
                service.clone(),
                key.port_name.clone(),
                key.protocol,
                key.family,
            );
            ports.insert(port, maps.target(id).service);
            targets.insert((service, key), id);
        }
        let owners: BTreeMap<u32, &Port> = ports.iter().map(|(port, id)| (*id, port)).collect();
        let mut backends = BTreeMap::new();
        for (&id, meta) in &maps.meta_backends {
            let value = maps.backend(id);
            if let Some(&port) = owners.get(&meta.owner)
                && value.word.state() == BackendState::Serving
            {
                let key = (port.clone(), value.addr.to_ip(), value.port.get());
                let other = backends.insert(key, (id, value.word.generation()));
                assert_eq!(other, None, "an endpoint is there twice");
            }
        }
        // The node's own name may be that of a backend's node too.
        let names = maps.names.iter().filter(|(id, _)| **id != NODE_NAME);
        Self {
            frontends: maps.frontends.clone(),
            targets,
            ports,
            backends,
            names: names
                .map(|(&id, name)| (codec::name_text(name).unwrap().to_owned(), id))
                .collect(),
        }
    }

    /// What is in both has the same ids; returns how much that is.
    pub fn assert_kept(&self, later: &Self) -> usize {
        // A frontend may pass to another Service.
        let owner = |ids: &Self, value: &FrontendValue| {
            let mut targets = ids.targets.iter();
            let (key, _) = targets.find(|(_, id)| **id == value.target()).unwrap();
            key.clone()
        };
        let same_owner = self.frontends.iter().filter(|(key, value)| {
            let now = later.frontends.get(key);
            now.is_some_and(|now| owner(later, now) == owner(self, value))
        });
        let frontends: BTreeMap<_, _> = same_owner
            .map(|(key, value)| (*key, value.target()))
            .collect();
        let now = later.frontends.iter();
        let now = now.map(|(key, value)| (*key, value.target())).collect();
        kept("frontends", &frontends, &now)
            + kept("targets", &self.targets, &later.targets)
            + kept("ports", &self.ports, &later.ports)
            + kept("backends", &self.backends, &later.backends)
            + kept("names", &self.names, &later.names)
    }
}

fn kept<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    what: &str,
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
) -> usize {
    let both: Vec<_> = before
        .iter()
        .filter_map(|(key, id)| Some((key, id, after.get(key)?)))
        .collect();
    for (key, id, now) in &both {
        assert_eq!(id, now, "{what}: {key:?}");
    }
    both.len()
}
