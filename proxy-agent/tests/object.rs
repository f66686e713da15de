//! The object's own list of maps is `abi::MAPS`, in every number; beside it there are per-CPU scratch memory and the ring buffer of `--datapath-log` only.

#![cfg(test)]

use std::collections::BTreeMap;

use aya_obj::{Object, generated::bpf_map_type};
use proxy_agent::dataplane::load::OBJECT;
use proxy_common::abi::{MAPS, MapKind};

/// `BPF_F_NO_PREALLOC` and `BPF_F_MMAPABLE` (linux/bpf.h).
const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;

/// Memory that the programs share with nobody, and their log.
const SCRATCH: [&str; 3] = ["AYA_LOGS", "FIB", "WORK"];

fn kind(kind: MapKind) -> (u32, u32) {
    let (kind, flags) = match kind {
        MapKind::Hash => (bpf_map_type::BPF_MAP_TYPE_HASH, NO_PREALLOC),
        MapKind::LruHash => (bpf_map_type::BPF_MAP_TYPE_LRU_HASH, 0),
        MapKind::LpmTrie => (bpf_map_type::BPF_MAP_TYPE_LPM_TRIE, NO_PREALLOC),
        MapKind::MappedArray => (bpf_map_type::BPF_MAP_TYPE_ARRAY, MMAPABLE),
        MapKind::Array => (bpf_map_type::BPF_MAP_TYPE_ARRAY, 0),
        MapKind::PerCpuArray => (bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY, 0),
    };
    (kind as u32, flags)
}

#[test]
fn maps_of_the_object_are_those_of_the_abi() {
    let object = Object::parse(OBJECT).expect("the embedded object parses");
    let found: BTreeMap<&str, _> = object
        .maps
        .iter()
        .filter(|(name, _)| !name.starts_with('.') && !SCRATCH.contains(&name.as_str()))
        .map(|(name, map)| {
            let shape = (
                map.map_type(),
                map.map_flags(),
                map.key_size() as usize,
                map.value_size() as usize,
                map.max_entries(),
            );
            (name.as_str(), shape)
        })
        .collect();
    let expected: BTreeMap<&str, _> = MAPS
        .iter()
        .map(|spec| {
            let (kind, flags) = kind(spec.kind);
            (spec.name, (kind, flags, spec.key, spec.value, spec.entries))
        })
        .collect();
    assert_eq!(found, expected);
}
