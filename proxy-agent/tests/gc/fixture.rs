//! The maps of the object, pinned in a folder of their own, and flows to put into them.

use std::{cell::Cell, fs, net::SocketAddr, os::unix::fs::MetadataExt, time::Duration};

use aya::EbpfLoader;
use proxy_agent::dataplane::{
    clock::Clock,
    gc::{Collected, Collector, tables::FlowTables},
    load::{Features, OBJECT, Programs, open_typed},
    pin::PinFolder,
    sys::map::{Map, Update},
};
use proxy_common::{
    abi::{
        MAPS,
        flow::{FlowKey, FlowValue, Half, flow_flags, seen},
        protocol::UDP,
        socket::{SocketBackend, SocketFrontend, SocketKey},
        target::{Backend, BackendState, BackendWord},
    },
    addr::Addr,
    flow_timeout::Reason,
    tables::FlowTable,
};
use zerocopy::network_endian::U16;

/// A backend that serves.
pub const LIVING: u32 = 1;
/// One that does not.
pub const DEAD: u32 = 2;

const GENERATION: u32 = 7;
const FRONTEND: [u8; 4] = [10, 96, 0, 1];
/// Seconds since all flows were made.
const AGE: u32 = 100;

/// Pinned maps with two backends.
pub struct Fixture {
    pins: PinFolder,
    tables: FlowTables,
    clock: Clock,
    next: Cell<u32>,
}

impl Fixture {
    /// Makes the maps, with room for `entries` in the plain flow tables; an error is a reason to skip.
    pub fn new(name: &str, entries: u32) -> Result<Self, String> {
        let process = fs::metadata("/proc/self").map_err(|error| error.to_string())?;
        if process.uid() != 0 {
            return Err("needs root".to_owned());
        }
        let folder = format!("/sys/fs/bpf/proxy-gc-{name}-{}", std::process::id());
        let pins = PinFolder::new(folder);
        pins.check_file_system()
            .map_err(|error| error.to_string())?;
        if OBJECT.is_empty() {
            return Err("built without the eBPF object".to_owned());
        }
        pins.create().unwrap();
        let mut loader = EbpfLoader::new();
        for spec in MAPS {
            loader.map_pin_path(spec.name, pins.map(spec.name));
        }
        loader.map_max_entries("FLOWS", entries);
        loader.map_max_entries("SNAT_CLAIMS", entries);
        loader.load(OBJECT).unwrap();
        let backends: Map<u32, Backend> = open_typed(&pins, "BACKENDS").unwrap();
        for (id, state) in [
            (LIVING, BackendState::Serving),
            (DEAD, BackendState::NotServing),
        ] {
            let backend = Backend {
                addr: backend_addr(id),
                port: U16::new(8080),
                word: BackendWord::new(GENERATION, state),
                ..Backend::default()
            };
            backends.update(&id, &backend, Update::Any).unwrap();
        }
        Ok(Self {
            tables: FlowTables::open(&pins).unwrap(),
            clock: Clock::open().unwrap(),
            next: Cell::new(0),
            pins,
        })
    }

    pub const fn pins(&self) -> &PinFolder {
        &self.pins
    }

    /// The clock of the loaded object.
    pub fn clock(&self) -> Clock {
        let programs = Programs::load(&self.pins, Features::default()).unwrap();
        Clock::new(&programs).unwrap()
    }

    pub fn collector(&self) -> Collector {
        Collector::open(&self.pins, Clock::open().unwrap()).unwrap()
    }

    /// A flow of a client of its own; see [`flow_flags`].
    pub fn pair(&self, protocol: u8, flags: u8) -> Pair {
        let id = self.next.get() + 1;
        self.next.set(id);
        Pair {
            id,
            claim: id,
            protocol,
            flags,
            seen: (seen::DATA, seen::DATA),
            idle: (0, 0),
            backend: LIVING,
            forward: true,
            reverse: true,
        }
    }

    /// The flow some seconds before it is over, and another of the same kind just after.
    pub fn around(&self, pair: Pair, seconds: u32, reason: Reason) -> [(Pair, Option<Reason>); 2] {
        let other = self.pair(pair.protocol, pair.flags);
        let other = Pair {
            id: other.id,
            claim: other.claim,
            ..pair.clone()
        };
        let (young, old) = (seconds - 5, seconds + 2);
        [
            (pair.idle(young, young), None),
            (other.idle(old, old), Some(reason)),
        ]
    }

    pub fn insert(&self, pairs: Vec<(Pair, Option<Reason>)>) -> Vec<(Pair, Option<Reason>)> {
        for (pair, _) in &pairs {
            self.write(pair);
        }
        pairs
    }

    pub fn write(&self, pair: &Pair) {
        let now = self.clock.now().unwrap();
        for (table, key, value) in pair.elements(now, self.clock.hz()) {
            let map = self.tables.map(table);
            map.update(&key, &value, Update::Any).unwrap();
        }
    }

    /// Writes many flows at once.
    pub fn fill(&self, flows: usize, make: impl Fn(&Self) -> Pair) {
        let (now, hz) = (self.clock.now().unwrap(), self.clock.hz());
        let elements: Vec<_> = (0..flows)
            .flat_map(|_| make(self).elements(now, hz))
            .collect();
        for table in [FlowTable::Confirmed, FlowTable::New, FlowTable::Claims] {
            let (keys, values): (Vec<FlowKey>, Vec<FlowValue>) = elements
                .iter()
                .filter(|(of, ..)| *of == table)
                .map(|(_, key, value)| (*key, *value))
                .unzip();
            let map = self.tables.map(table);
            map.update_batch(&keys, &values).unwrap();
        }
    }

    /// Empties the flow tables.
    pub fn clear(&self) {
        for table in [FlowTable::Confirmed, FlowTable::New, FlowTable::Claims] {
            let map = self.tables.map(table);
            let keys: Vec<_> = map.entries().unwrap().into_iter().map(|(k, _)| k).collect();
            map.delete_batch(&keys).unwrap();
        }
    }

    /// How many halves of a flow are there.
    pub fn present(&self, pair: &Pair) -> usize {
        let is_there = |(table, key, value): &(FlowTable, FlowKey, FlowValue)| {
            let found = self.tables.lookup(*table, key).unwrap();
            found.is_some_and(|found| found.value.out == value.out)
        };
        pair.elements(0, 1).iter().filter(|e| is_there(e)).count()
    }

    pub fn count(&self, table: FlowTable) -> usize {
        self.tables.map(table).entries().unwrap().len()
    }

    /// An unconnected UDP socket that has sent to the frontend.
    pub fn socket(&self, cookie: u64, backend: u32, idle_seconds: u32) -> SocketKey {
        let key = SocketKey {
            cookie,
            addr: Addr::v4(FRONTEND),
            port: U16::new(80),
            protocol: UDP,
            pad: [0; 5],
        };
        let value = SocketBackend {
            backend,
            generation: GENERATION,
            last_used: self.clock.now().unwrap() - idle_seconds * self.clock.hz(),
            pad: 0,
        };
        let frontend = SocketFrontend {
            addr: key.addr,
            port: key.port,
            pad: [0; 6],
        };
        let (backends, frontends) = self.socket_maps();
        backends.update(&key, &value, Update::Any).unwrap();
        let peer = peer(&key, backend);
        frontends.update(&peer, &frontend, Update::Any).unwrap();
        key
    }

    /// Whether the backend of a socket is there, and the frontend of that.
    pub fn socket_records(&self, key: &SocketKey) -> (bool, bool) {
        let (backends, frontends) = self.socket_maps();
        (
            backends.lookup(key).unwrap().is_some(),
            frontends.lookup(&peer(key, LIVING)).unwrap().is_some(),
        )
    }

    fn socket_maps(
        &self,
    ) -> (
        Map<SocketKey, SocketBackend>,
        Map<SocketKey, SocketFrontend>,
    ) {
        (
            open_typed(&self.pins, "SOCKET_BACKENDS").unwrap(),
            open_typed(&self.pins, "SOCKET_FRONTENDS").unwrap(),
        )
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        fs::remove_dir_all(self.pins.base()).ok();
    }
}

fn backend_addr(id: u32) -> Addr {
    Addr::v4([10, 0, 1, id as u8])
}

fn peer(key: &SocketKey, backend: u32) -> SocketKey {
    SocketKey {
        addr: backend_addr(backend),
        port: U16::new(8080),
        ..*key
    }
}

/// A flow as it is written.
#[derive(Clone, Debug)]
pub struct Pair {
    id: u32,
    claim: u32,
    protocol: u8,
    flags: u8,
    seen: (u8, u8),
    idle: (u32, u32),
    backend: u32,
    forward: bool,
    reverse: bool,
}

impl Pair {
    /// What the client's packets and the backend's have carried.
    pub fn seen(self, client: u8, backend: u8) -> Self {
        let seen = (client, backend);
        Self { seen, ..self }
    }

    /// Seconds since the client's last packet, and the backend's.
    pub fn idle(self, client: u32, backend: u32) -> Self {
        let idle = (client, backend);
        Self { idle, ..self }
    }

    pub fn backend(self, backend: u32) -> Self {
        Self { backend, ..self }
    }

    pub fn without_forward(self) -> Self {
        let forward = false;
        Self { forward, ..self }
    }

    pub fn without_reverse(self) -> Self {
        let reverse = false;
        Self { reverse, ..self }
    }

    /// Takes the translated source of another flow.
    pub fn claiming_as(self, other: &Self) -> Self {
        let claim = other.claim;
        Self { claim, ..self }
    }

    /// How many halves are written.
    pub fn halves(&self) -> usize {
        usize::from(self.forward) + usize::from(self.reverse)
    }

    pub fn client(&self) -> SocketAddr {
        let key = self.forward_key();
        SocketAddr::new(key.src.to_ip(), key.src_port.get())
    }

    pub fn forward_key(&self) -> FlowKey {
        FlowKey {
            src: numbered(1, self.id),
            dst: Addr::v4(FRONTEND),
            src_port: U16::new(40_000),
            dst_port: U16::new(80),
            protocol: self.protocol,
            pad: [0; 3],
        }
    }

    pub fn forward_value(&self) -> FlowValue {
        let mut out = self.forward_key();
        out.dst = backend_addr(self.backend);
        out.dst_port = U16::new(8080);
        if self.flags & flow_flags::SNAT != 0 {
            out.src = numbered(2, self.claim);
        }
        if self.flags & (flow_flags::SNAT | flow_flags::PORT) != 0 {
            out.src_port = U16::new(61_000);
        }
        FlowValue {
            out,
            backend: self.backend,
            generation: GENERATION,
            half: Half::Forward as u8,
            flags: self.flags,
            seen: self.seen.0,
            fingerprint: self.forward_key().fingerprint(),
            ..FlowValue::default()
        }
    }

    /// What is to be written, with times relative to `now`.
    fn elements(&self, now: u32, hz: u32) -> Vec<(FlowTable, FlowKey, FlowValue)> {
        let before = |seconds: u32| now.wrapping_sub(seconds * hz);
        let table = if self.flags & flow_flags::CONFIRMED == 0 {
            FlowTable::New
        } else {
            FlowTable::Confirmed
        };
        let reverse_table = if self.flags & flow_flags::SNAT == 0 {
            table
        } else {
            FlowTable::Claims
        };
        let forward = FlowValue {
            created: before(AGE),
            last_seen: before(self.idle.0),
            ..self.forward_value()
        };
        let reverse_key = forward.out.inverted();
        let reverse = FlowValue {
            out: self.forward_key().inverted(),
            last_seen: before(self.idle.1),
            half: Half::Reverse as u8,
            seen: self.seen.1,
            fingerprint: reverse_key.fingerprint(),
            ..forward
        };
        let mut elements = Vec::new();
        if self.forward {
            elements.push((table, self.forward_key(), forward));
        }
        if self.reverse {
            elements.push((reverse_table, reverse_key, reverse));
        }
        elements
    }
}

fn numbered(network: u8, id: u32) -> Addr {
    let [zero, a, b, c] = id.to_be_bytes();
    assert_eq!(zero, 0);
    let mut octets = [0; 16];
    octets[10] = 0xff;
    octets[11] = 0xff;
    octets[12..].copy_from_slice(&[10 * network + (a & 0x0f), b, c, 9]);
    Addr::from_octets(octets)
}

/// A whole round in steps of `budget`.
pub fn round(collector: &mut Collector, budget: usize) -> Collected {
    let mut done = Collected::default();
    while !done.finished {
        done.add(collector.step(budget).unwrap());
    }
    done
}

/// Time that this thread was on a CPU (proc(5), schedstat), whoever else is busy here.
pub fn cpu_time() -> Duration {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds = schedstat.split(' ').next().unwrap();
    Duration::from_nanos(nanoseconds.parse().unwrap())
}
