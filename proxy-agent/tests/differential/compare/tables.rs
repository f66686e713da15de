//! The tables of both: disturbed, and compared.

use std::collections::BTreeMap;

use proxy_common::{
    abi::{
        affinity::{AffinityKey, AffinityValue},
        counter::Counter,
        flow::FlowValue,
        fragment::{FragmentKey, FragmentValue},
        target::{BackendState, backend_lists},
    },
    tables::FlowTable,
};

use super::Pair;
use crate::{chance::Chance, services::HZ};

impl Pair {
    /// Changes the world of both.
    pub fn disturb(&mut self, chance: &mut Chance) {
        let backends = self.world.backends.written();
        match chance.below(5) {
            4 => {
                let id = 1 + chance.below(backends.len() as u64 - 1) as u32;
                let mut backend = backends[id as usize];
                let lists = backend.word.lists() ^ backend_lists::ALL;
                backend.word = backend.word.in_lists(lists);
                self.world.backends.set(id, backend);
                self.object.maps.put_backend(id, &backend);
            }
            0 | 1 => {
                let id = 1 + chance.below(backends.len() as u64 - 1) as u32;
                let state = match backends[id as usize].word.state() {
                    BackendState::Serving => BackendState::NotServing,
                    _ => BackendState::Serving,
                };
                self.world.set_backend_state(id, state);
                let backend = self.world.backends.get(id).expect("a backend");
                self.object.maps.put_backend(id, &backend);
            }
            2 => {
                for table in [FlowTable::New, FlowTable::Claims] {
                    self.age(table);
                }
            }
            _ => {
                for table in [FlowTable::Confirmed, FlowTable::New, FlowTable::Claims] {
                    self.evict(table, chance);
                }
            }
        }
    }

    /// Makes what is in a table old enough to be taken over.
    fn age(&self, table: FlowTable) {
        for (key, mut value) in self.object.maps.flows(table) {
            grow_old(&mut value);
            self.object.maps.put_flow(table, &key, &value);
            self.world.flow_table(table).modify(&key, grow_old);
        }
    }

    /// Takes a tenth of a table away.
    fn evict(&self, table: FlowTable, chance: &mut Chance) {
        for (key, _) in self.world.flow_table(table).entries() {
            if chance.below(10) == 0 {
                self.world.flow_table(table).remove(&key);
                let was_there = self.object.maps.flow_table(table).delete(&key);
                assert!(
                    was_there.expect("a deletion"),
                    "{key:?} is not in the kernel"
                );
            }
        }
    }

    /// Compares all that packets write; panics where it differs.
    pub fn compare_tables(&self, which: &str) {
        for table in [FlowTable::Confirmed, FlowTable::New, FlowTable::Claims] {
            let kernel = self.object.maps.flows(table);
            let host: BTreeMap<_, _> = self.world.flow_table(table).entries().into_iter().collect();
            for key in kernel.keys().chain(host.keys()) {
                let (kernel, host) = (kernel.get(key), host.get(key));
                assert_eq!(
                    kernel.map(timeless),
                    host.map(timeless),
                    "{which}: {table:?} differs in the kernel (left) and on the host (right) at {key:?}"
                );
                let (kernel, host) = kernel.zip(host).expect("in both");
                assert!(
                    self.at_once(kernel.created, host.created)
                        && self.at_once(kernel.last_seen, host.last_seen),
                    "{which}: {table:?} has other times in the kernel, {kernel:?}, than on the host, {host:?}"
                );
            }
        }
        self.compare_fragments(which);
        self.compare_choices(which);
        for &counter in Counter::ALL {
            assert_eq!(
                self.object.maps.counted(counter),
                self.world.counted(counter),
                "{which}: {counter:?} was counted otherwise in the kernel (left)"
            );
        }
    }

    /// Compares what first fragments leave behind.
    fn compare_fragments(&self, which: &str) {
        let timeless = |(key, value): (FragmentKey, FragmentValue)| {
            let seen = 0;
            (key, FragmentValue { seen, ..value })
        };
        let kernel: Vec<_> = self
            .object
            .maps
            .fragments()
            .into_iter()
            .map(timeless)
            .collect();
        let host: Vec<_> = self
            .world
            .fragments
            .entries()
            .into_iter()
            .map(timeless)
            .collect();
        assert_eq!(kernel, host, "{which}: FRAGMENTS");
    }

    /// Compares what choices leave behind.
    fn compare_choices(&self, which: &str) {
        let (world, maps) = (&self.world, &self.object.maps);
        let timeless = |(key, value): (AffinityKey, AffinityValue)| {
            let last_used = 0;
            (key, AffinityValue { last_used, ..value })
        };
        let kernel: Vec<_> = maps.affinity().into_iter().map(timeless).collect();
        let host: Vec<_> = world.affinity.entries().into_iter().map(timeless).collect();
        assert_eq!(kernel, host, "{which}: AFFINITY");
        let host: BTreeMap<_, _> = world.flow_loads.entries().into_iter().collect();
        assert_eq!(maps.flow_loads(), host, "{which}: FLOW_LOADS");
        for (target, turns) in (0..).zip(world.turns.written()) {
            assert_eq!(maps.turns(target), turns, "{which}: TURNS of {target}");
        }
        for (backend, load) in (0..).zip(world.loads.written()) {
            assert_eq!(maps.load(backend), load, "{which}: LOADS of {backend}");
        }
    }

    /// How often anything was chosen by affinity, in turn, and by load.
    pub fn choices(&self) -> [usize; 3] {
        let turns = self.world.turns.written();
        let loads = self.world.loads.written();
        [
            self.world.affinity.len(),
            turns.into_iter().sum::<u64>() as usize,
            loads.iter().filter(|load| load.generation != 0).count(),
        ]
    }

    /// Whether two readings of the clock are no further apart than a run may take.
    const fn at_once(&self, a: u32, b: u32) -> bool {
        a.wrapping_sub(b).wrapping_add(self.ticks) <= 2 * self.ticks
    }
}

/// A value without its times, which may be some ticks apart.
fn timeless(value: &FlowValue) -> FlowValue {
    FlowValue {
        created: 0,
        last_seen: 0,
        ..*value
    }
}

fn grow_old(value: &mut FlowValue) {
    value.created = value.created.wrapping_sub(5 * HZ);
    value.last_seen = value.last_seen.wrapping_sub(5 * HZ);
}
