//! The datapath's environment in memory: maps, clock, random numbers, routes.

use std::{
    cell::{Cell, RefCell},
    fmt,
    ops::Deref,
    rc::Rc,
};

use super::{Array, Listener, RouteTable, Table};
use crate::{
    abi::{
        affinity::{AffinityKey, AffinityValue},
        capacity,
        counter::Counter,
        device::Device,
        flow::{FlowKey, FlowValue},
        fragment::{FragmentKey, FragmentValue},
        frontend::{FrontendKey, FrontendValue},
        load::Load,
        settings::{PortRange, Settings},
        socket::{SocketBackend, SocketFrontend, SocketKey},
        target::{Backend, RangeKey, Slot, Target},
    },
    addr::Addr,
    hash,
    tables::{
        FlowRef, FlowState, FlowTable, Insert, PacketTables, Route, RouteQuery, SocketTables,
        Tables,
    },
};

/// The route lookup function.
type Routes = Rc<dyn Fn(&RouteQuery<'_>) -> Route>;

/// All maps, and the answers of the kernel's helpers. Everything can be changed through a shared reference, as
/// in BPF.
#[derive(Clone)]
pub struct World {
    /// `FRONTENDS`.
    pub frontends: Table<FrontendKey, FrontendValue>,
    /// `TARGETS`.
    pub targets: Array<Target>,
    /// `SLOTS`.
    pub slots: Array<Slot>,
    /// `BACKENDS`.
    pub backends: Array<Backend>,
    /// `SOURCE_RANGES`.
    pub source_ranges: Table<RangeKey, u32>,
    /// `NODE_ADDRS`.
    pub node_addrs: Table<Addr, u32>,
    /// `DEVICES`.
    pub devices: Table<u32, Device>,
    /// `SETTINGS`.
    pub settings: Cell<Settings>,
    /// `FLOWS`.
    pub flows: Table<FlowKey, FlowValue>,
    /// `NEW_FLOWS`.
    pub new_flows: Table<FlowKey, FlowValue>,
    /// `SNAT_CLAIMS`.
    pub snat_claims: Table<FlowKey, FlowValue>,
    /// `FRAGMENTS`.
    pub fragments: Table<FragmentKey, FragmentValue>,
    /// `SOCKET_BACKENDS`.
    pub socket_backends: Table<SocketKey, SocketBackend>,
    /// `SOCKET_FRONTENDS`.
    pub socket_frontends: Table<SocketKey, SocketFrontend>,
    /// `AFFINITY`.
    pub affinity: Table<AffinityKey, AffinityValue>,
    /// `TURNS`.
    pub turns: Array<u64>,
    /// `LOADS`.
    pub loads: Array<Load>,
    /// `SOCKET_LOADS`.
    pub socket_loads: Table<u64, Slot>,
    /// `FLOW_LOADS`.
    pub flow_loads: Table<FlowKey, Slot>,
    /// Listening sockets on this node.
    pub listeners: Table<Listener, ()>,
    /// Jiffies, low 32 bits.
    pub clock: Cell<u32>,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic: Cell<u64>,
    counters: RefCell<Vec<u64>>,
    chance: Cell<u32>,
    routes: RefCell<Routes>,
}

impl Default for World {
    /// A world without Services, with the capacities of the real maps and the agent's default settings.
    fn default() -> Self {
        Self {
            frontends: Table::hash(capacity::FRONTENDS as usize),
            targets: Array::new(capacity::TARGETS),
            slots: Array::new(capacity::SLOTS),
            backends: Array::new(capacity::BACKENDS),
            source_ranges: Table::hash(capacity::SOURCE_RANGES as usize),
            node_addrs: Table::hash(capacity::NODE_ADDRS as usize),
            devices: Table::hash(capacity::DEVICES as usize),
            settings: Cell::new(default_settings()),
            flows: Table::hash(capacity::FLOWS as usize),
            new_flows: Table::lru(capacity::NEW_FLOWS as usize),
            snat_claims: Table::hash(capacity::SNAT_CLAIMS as usize),
            fragments: Table::lru(capacity::FRAGMENTS as usize),
            socket_backends: Table::lru(capacity::SOCKET_BACKENDS as usize),
            socket_frontends: Table::lru(capacity::SOCKET_FRONTENDS as usize),
            affinity: Table::lru(capacity::AFFINITY as usize),
            turns: Array::new(capacity::TURNS),
            loads: Array::new(capacity::LOADS),
            socket_loads: Table::hash(capacity::SOCKET_LOADS as usize),
            flow_loads: Table::hash(capacity::FLOW_LOADS as usize),
            listeners: Table::hash(usize::MAX),
            clock: Cell::new(1_000_000),
            monotonic: Cell::new(1 << 50),
            counters: RefCell::new(vec![0; Counter::COUNT as usize]),
            chance: Cell::new(1),
            routes: RefCell::new(Rc::new(|_| Route::None)),
        }
    }
}

/// The defaults of `--snat-ports`. The last range is for hairpin flows.
fn default_settings() -> Settings {
    let mut settings = Settings {
        hz: 250,
        hash_key: [0x5eed_0001, 0x5eed_0002],
        hairpin_ports: PortRange {
            first: 61_000,
            last: 65_535,
        },
        ..Settings::default()
    };
    settings.snat_ports[0] = PortRange {
        first: 1_024,
        last: 29_999,
    };
    settings.snat_ports[1] = settings.hairpin_ports;
    settings
}

impl World {
    /// Sets the function that answers route lookups.
    pub fn set_routes(&self, routes: impl Fn(&RouteQuery<'_>) -> Route + 'static) {
        *self.routes.borrow_mut() = Rc::new(routes);
    }

    /// Answers route lookups from a table, by destination.
    pub fn set_route_table(&self, table: RouteTable) {
        self.set_routes(move |query| table.find(query.dst));
    }

    /// Changes the settings.
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.get();
        change(&mut settings);
        self.settings.set(settings);
    }

    /// Advances both clocks.
    pub fn pass_seconds(&self, seconds: u32) {
        let ticks = seconds * self.settings.get().hz;
        self.clock.set(self.clock.get().wrapping_add(ticks));
        let nanoseconds = u64::from(seconds) * 1_000_000_000;
        self.monotonic
            .set(self.monotonic.get().wrapping_add(nanoseconds));
    }

    /// The value of a counter.
    pub fn counted(&self, counter: Counter) -> u64 {
        self.counters.borrow()[counter as usize]
    }

    /// All counters that are not zero.
    pub fn counters(&self) -> Vec<(Counter, u64)> {
        let counters = self.counters.borrow();
        let all = Counter::ALL.iter().zip(counters.iter());
        all.filter(|(_, n)| **n != 0)
            .map(|(counter, n)| (*counter, *n))
            .collect()
    }

    /// A flow table.
    pub const fn flow_table(&self, table: FlowTable) -> &Table<FlowKey, FlowValue> {
        match table {
            FlowTable::Confirmed => &self.flows,
            FlowTable::New => &self.new_flows,
            FlowTable::Claims => &self.snat_claims,
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("flows", &self.flows.entries())
            .field("new_flows", &self.new_flows.entries())
            .field("snat_claims", &self.snat_claims.entries())
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

impl Tables for &World {
    fn now(&mut self) -> u32 {
        self.clock.get()
    }

    fn monotonic(&mut self) -> u64 {
        self.monotonic.get()
    }

    fn settings(&mut self) -> Settings {
        self.settings.get()
    }

    fn frontend(&mut self, key: &FrontendKey) -> Option<FrontendValue> {
        self.frontends.get(key)
    }

    fn target(&mut self, id: u32) -> Option<Target> {
        self.targets.get(id)
    }

    fn slot(&mut self, index: u32) -> Option<Slot> {
        self.slots.get(index)
    }

    fn backend(&mut self, id: u32) -> Option<Backend> {
        self.backends.get(id)
    }

    fn in_ranges(&mut self, key: &RangeKey) -> bool {
        self.source_ranges
            .entries()
            .iter()
            .any(|(range, _)| covers(range, key))
    }

    fn node_addr(&mut self, addr: &Addr) -> Option<u32> {
        self.node_addrs.get(addr)
    }

    fn affinity(&mut self, key: &AffinityKey) -> Option<AffinityValue> {
        self.affinity.get(key)
    }

    fn put_affinity(&mut self, key: &AffinityKey, value: &AffinityValue) {
        self.affinity.put(*key, *value);
    }

    fn turn(&mut self, target: u32) -> u32 {
        let turn = self.turns.get(target).unwrap_or_default();
        self.turns.set(target, turn.wrapping_add(1));
        turn as u32
    }

    fn load(&mut self, slot: Slot) -> u32 {
        let load = self.loads.get(slot.backend).unwrap_or_default();
        load.of(slot.generation)
    }

    fn add_load(&mut self, slot: Slot) {
        let count = self.load(slot).wrapping_add(1);
        let generation = slot.generation;
        self.loads.set(slot.backend, Load { count, generation });
    }

    fn take_load(&mut self, slot: Slot) {
        if let Some(count) = self.load(slot).checked_sub(1) {
            let generation = slot.generation;
            self.loads.set(slot.backend, Load { count, generation });
        }
    }

    fn count(&mut self, counter: Counter) {
        self.counters.borrow_mut()[counter as usize] += 1;
    }
}

/// Whether an element of an LPM trie covers a key: compares the set, then the address, bit by bit.
fn covers(range: &RangeKey, key: &RangeKey) -> bool {
    let bits = |k: &RangeKey| {
        let mut bytes = k.set.to_ne_bytes().to_vec();
        bytes.extend(k.addr.octets());
        bytes
    };
    let (a, b) = (bits(range), bits(key));
    (0..range.prefix_len as usize).all(|i| (a[i / 8] ^ b[i / 8]) & (0x80 >> (i % 8)) == 0)
}

/// Reference to an element of a world's flow table.
#[derive(Clone, Copy, Debug)]
pub struct FlowElement<'a> {
    table: &'a Table<FlowKey, FlowValue>,
    key: FlowKey,
}

impl FlowRef for FlowElement<'_> {
    fn load(&self, key: &FlowKey, into: &mut FlowValue) -> bool {
        let Some(value) = self.table.get(&self.key) else {
            return false;
        };
        *into = value;
        value.fingerprint == key.fingerprint()
    }

    fn state(&self, key: &FlowKey) -> Option<FlowState> {
        let value = self.table.get(&self.key)?;
        (value.fingerprint == key.fingerprint()).then_some(FlowState {
            last_seen: value.last_seen,
            half: value.half,
            flags: value.flags,
            seen: value.seen,
        })
    }

    fn touch(&self, now: u32, seen: u8) {
        self.table.modify(&self.key, |value| {
            value.last_seen = now;
            value.seen |= seen;
        });
    }

    fn set_flags(&self, flags: u8) {
        self.table.modify(&self.key, |value| value.flags = flags);
    }
}

impl<'a> PacketTables for &'a World {
    type Flow = FlowElement<'a>;

    fn device(&mut self, ifindex: u32) -> Option<impl Deref<Target = Device>> {
        self.devices.get(&ifindex).map(Box::new)
    }

    fn flow(&mut self, table: FlowTable, key: &FlowKey) -> Option<FlowElement<'a>> {
        let world: &'a World = self;
        let table = world.flow_table(table);
        table.get(key).map(|_| FlowElement { table, key: *key })
    }

    fn insert_flow(&mut self, table: FlowTable, key: &FlowKey, value: &FlowValue) -> Insert {
        self.flow_table(table).insert(*key, *value)
    }

    fn remove_flow(&mut self, table: FlowTable, key: &FlowKey) -> bool {
        self.flow_table(table).remove(key)
    }

    fn fragment(&mut self, key: &FragmentKey) -> Option<FragmentValue> {
        self.fragments.get(key)
    }

    fn put_fragment(&mut self, key: &FragmentKey, value: &FragmentValue) {
        self.fragments.put(*key, *value);
    }

    fn put_flow_load(&mut self, key: &FlowKey, slot: Slot) -> bool {
        self.flow_loads.insert(*key, slot) == Insert::Done
    }

    fn remove_flow_load(&mut self, key: &FlowKey) -> bool {
        self.flow_loads.remove(key)
    }

    fn route(&mut self, query: RouteQuery<'_>) -> Route {
        let routes = Rc::clone(&self.routes.borrow());
        routes(&query)
    }

    fn listens(&mut self, tuple: &FlowKey) -> bool {
        [tuple.dst, Addr::unspecified(tuple.dst.family())]
            .into_iter()
            .any(|addr| {
                let listener = Listener {
                    protocol: tuple.protocol,
                    addr,
                    port: tuple.dst_port.get(),
                };
                self.listeners.get(&listener).is_some()
            })
    }
}

impl SocketTables for &World {
    fn random(&mut self) -> u32 {
        let next = self.chance.get().wrapping_add(0x9e37_79b9);
        self.chance.set(next);
        hash::finish(next)
    }

    fn socket_backend(&mut self, key: &SocketKey) -> Option<SocketBackend> {
        self.socket_backends.get(key)
    }

    fn put_socket_backend(&mut self, key: &SocketKey, value: &SocketBackend) {
        self.socket_backends.put(*key, *value);
    }

    fn socket_frontend(&mut self, key: &SocketKey) -> Option<SocketFrontend> {
        self.socket_frontends.get(key)
    }

    fn put_socket_frontend(&mut self, key: &SocketKey, value: &SocketFrontend) {
        self.socket_frontends.put(*key, *value);
    }

    fn remove_socket_frontend(&mut self, key: &SocketKey) {
        self.socket_frontends.remove(key);
    }

    fn socket_load(&mut self, cookie: u64) -> Option<Slot> {
        self.socket_loads.get(&cookie)
    }

    fn put_socket_load(&mut self, cookie: u64, slot: Slot) -> bool {
        self.socket_loads.insert(cookie, slot) == Insert::Done
    }

    fn remove_socket_load(&mut self, cookie: u64) -> bool {
        self.socket_loads.remove(&cookie)
    }
}
