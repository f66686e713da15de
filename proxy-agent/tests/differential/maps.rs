//! The maps of the loaded object: filled from a world, and read back.

use std::{collections::BTreeMap, path::Path};

use proxy_agent::dataplane::sys::map::{CounterMap, Map, Plain, Update};
use proxy_common::{
    abi::{
        Pinned, TypedSpec,
        affinity::{AffinityKey, AffinityValue},
        counter::Counter,
        device::Device,
        flow::{FlowKey, FlowValue},
        fragment::{FragmentKey, FragmentValue},
        frontend::{FrontendKey, FrontendValue},
        kind::OneValue,
        load::Load,
        settings::Settings,
        target::{Backend, RangeKey, Slot, Target},
    },
    addr::Addr,
    host::World,
    tables::FlowTable,
};

pub struct KernelMaps {
    frontends: Map<FrontendKey, FrontendValue>,
    targets: Map<u32, Target>,
    slots: Map<u32, Slot>,
    backends: Map<u32, Backend>,
    source_ranges: Map<RangeKey, u32>,
    node_addrs: Map<Addr, u32>,
    devices: Map<u32, Device>,
    settings: Map<u32, Settings>,
    flows: Map<FlowKey, FlowValue>,
    new_flows: Map<FlowKey, FlowValue>,
    snat_claims: Map<FlowKey, FlowValue>,
    fragments: Map<FragmentKey, FragmentValue>,
    affinity: Map<AffinityKey, AffinityValue>,
    turns: Map<u32, u64>,
    loads: Map<u32, Load>,
    flow_loads: Map<FlowKey, Slot>,
    counters: CounterMap,
}

fn open<S: OneValue, K: Plain, V: Plain>(pins: &Path, map: TypedSpec<S, K, V>) -> Map<K, V> {
    let name = map.spec.name;
    Map::open(&pins.join(name), map).expect(name)
}

impl KernelMaps {
    pub fn open(pins: &Path) -> Self {
        Self {
            frontends: open(pins, Pinned::FRONTENDS),
            targets: open(pins, Pinned::TARGETS),
            slots: open(pins, Pinned::SLOTS),
            backends: open(pins, Pinned::BACKENDS),
            source_ranges: open(pins, Pinned::SOURCE_RANGES),
            node_addrs: open(pins, Pinned::NODE_ADDRS),
            devices: open(pins, Pinned::DEVICES),
            settings: open(pins, Pinned::SETTINGS),
            flows: open(pins, Pinned::FLOWS),
            new_flows: open(pins, Pinned::NEW_FLOWS),
            snat_claims: open(pins, Pinned::SNAT_CLAIMS),
            fragments: open(pins, Pinned::FRAGMENTS),
            affinity: open(pins, Pinned::AFFINITY),
            turns: open(pins, Pinned::TURNS),
            loads: open(pins, Pinned::LOADS),
            flow_loads: open(pins, Pinned::FLOW_LOADS),
            counters: CounterMap::open(&pins.join("COUNTERS"), Pinned::COUNTERS).expect("counters"),
        }
    }

    /// Writes all that a world's agent would have written.
    pub fn fill(&self, world: &World) {
        put_all(&self.frontends, world.frontends.entries());
        put_all(&self.source_ranges, world.source_ranges.entries());
        put_all(&self.node_addrs, world.node_addrs.entries());
        put_all(&self.devices, world.devices.entries());
        put_all(&self.settings, vec![(0, world.settings.get())]);
        put_all(&self.slots, numbered(world.slots.written()));
        put_all(&self.targets, numbered(world.targets.written()));
        put_all(&self.backends, numbered(world.backends.written()));
    }

    pub fn put_backend(&self, id: u32, backend: &Backend) {
        self.backends
            .update(&id, backend, Update::Any)
            .expect("BACKENDS");
    }

    pub fn flow_table(&self, table: FlowTable) -> &Map<FlowKey, FlowValue> {
        match table {
            FlowTable::Confirmed => &self.flows,
            FlowTable::New => &self.new_flows,
            FlowTable::Claims => &self.snat_claims,
        }
    }

    pub fn put_flow(&self, table: FlowTable, key: &FlowKey, value: &FlowValue) {
        let put = self.flow_table(table).update(key, value, Update::Any);
        put.expect("a flow");
    }

    pub fn flows(&self, table: FlowTable) -> BTreeMap<FlowKey, FlowValue> {
        let all = self.flow_table(table).entries().expect("a flow table");
        all.into_iter().collect()
    }

    pub fn fragments(&self) -> BTreeMap<FragmentKey, FragmentValue> {
        let all = self.fragments.entries().expect("FRAGMENTS");
        all.into_iter().collect()
    }

    pub fn affinity(&self) -> BTreeMap<AffinityKey, AffinityValue> {
        let all = self.affinity.entries().expect("AFFINITY");
        all.into_iter().collect()
    }

    pub fn flow_loads(&self) -> BTreeMap<FlowKey, Slot> {
        let all = self.flow_loads.entries().expect("FLOW_LOADS");
        all.into_iter().collect()
    }

    pub fn turns(&self, target: u32) -> u64 {
        let found = self.turns.lookup(&target).expect("TURNS");
        found.unwrap_or_default()
    }

    pub fn load(&self, backend: u32) -> Load {
        let found = self.loads.lookup(&backend).expect("LOADS");
        found.unwrap_or_default()
    }

    pub fn counted(&self, counter: Counter) -> u64 {
        self.counters.sum(counter as u32).expect("a counter")
    }
}

fn numbered<V>(values: Vec<V>) -> Vec<(u32, V)> {
    (0..).zip(values).collect()
}

fn put_all<K: Plain, V: Plain>(map: &Map<K, V>, entries: Vec<(K, V)>) {
    for (key, value) in entries {
        map.update(&key, &value, Update::Any).expect("an element");
    }
}
