//! The maps of the object, pinned in a folder of their own, and flows to put into them.

use std::{cell::Cell, fs, os::unix::fs::MetadataExt, time::Duration};

use aya::EbpfLoader;
use proxy_agent::dataplane::{
    clock::Clock,
    gc::{Collected, Collector, tables::FlowTables},
    load::{Features, OBJECT, Programs},
    log::DatapathLog,
    open::open,
    pin::PinFolder,
    sys::map::{Map, Update},
};
use proxy_common::{
    abi::{
        Pinned,
        flow::{FlowKey, FlowValue},
        protocol::UDP,
        socket::{SocketBackend, SocketFrontend, SocketKey},
        target::{Backend, BackendState, BackendWord},
    },
    addr::Addr,
    flow_timeout::Reason,
    tables::FlowTable,
};
use zerocopy::network_endian::U16;

use crate::pair::Pair;

/// A backend that serves.
pub const LIVING: u32 = 1;
/// One that does not.
pub const DEAD: u32 = 2;

pub const GENERATION: u32 = 7;
pub const FRONTEND: [u8; 4] = [10, 96, 0, 1];

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
        loader.default_map_pin_directory(pins.maps());
        loader.map_max_entries("FLOWS", entries);
        loader.map_max_entries("SNAT_CLAIMS", entries);
        loader.load(OBJECT).unwrap();
        let backends = open(&pins, Pinned::BACKENDS).unwrap();
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
        let programs = Programs::load(&self.pins, Features::default(), DatapathLog::Off).unwrap();
        Clock::new(&programs).unwrap()
    }

    pub fn collector(&self) -> Collector {
        Collector::open(&self.pins, Clock::open().unwrap()).unwrap()
    }

    /// A flow of a client of its own; see `flow_flags`.
    pub fn pair(&self, protocol: u8, flags: u8) -> Pair {
        let id = self.next.get() + 1;
        self.next.set(id);
        Pair::new(id, protocol, flags)
    }

    /// The flow some seconds before it is over, and another of the same kind just after.
    pub fn around(&self, pair: Pair, seconds: u32, reason: Reason) -> [(Pair, Option<Reason>); 2] {
        let other = self.pair(pair.protocol, pair.flags);
        let other = pair.clone().of_client(&other);
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
            open(&self.pins, Pinned::SOCKET_BACKENDS).unwrap(),
            open(&self.pins, Pinned::SOCKET_FRONTENDS).unwrap(),
        )
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        fs::remove_dir_all(self.pins.base()).ok();
    }
}

pub fn backend_addr(id: u32) -> Addr {
    Addr::v4([10, 0, 1, id as u8])
}

fn peer(key: &SocketKey, backend: u32) -> SocketKey {
    SocketKey {
        addr: backend_addr(backend),
        port: U16::new(8080),
        ..*key
    }
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
