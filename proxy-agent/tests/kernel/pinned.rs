//! Pins that are not what their names say, and maps with other capacities.

use std::{collections::BTreeMap, fs, net::IpAddr, os::fd::AsFd as _, path::Path, time::Instant};

use aya::{EbpfLoader, maps::MapData};
use proxy_agent::{
    commands::flows,
    dataplane::{
        gc::tables::FlowTables,
        load::{Features, OBJECT, ProgramName, Programs},
        log::DatapathLog,
        maps::KernelMaps,
        open::{self, MapCapacities},
        pin::PinFolder,
        sys::object,
    },
    delta::refusal::{Reason, Resource},
};
use proxy_common::{
    abi::{MAPS, MapKind, MapSpec, device::Device},
    addr::Addr,
};

use crate::{failures::fixture, plans::plans};

/// `BPF_F_NO_PREALLOC`, `BPF_F_MMAPABLE`, `BPF_F_RDONLY_PROG`.
const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;
const RDONLY_PROG: u32 = 1 << 7;

const fn kind_and_flags(kind: MapKind) -> (u32, u32) {
    match kind {
        MapKind::Hash => (1, NO_PREALLOC),
        MapKind::Array => (2, 0),
        MapKind::MappedArray => (2, MMAPABLE),
        MapKind::PerCpuArray => (6, 0),
        MapKind::LruHash => (9, 0),
        MapKind::LpmTrie => (11, NO_PREALLOC),
    }
}

/// Makes and pins a map.
pub fn create(path: &Path, spec: &MapSpec) {
    let (kind, flags) = kind_and_flags(spec.kind);
    make(path, kind, spec.key, spec.value, spec.entries, flags);
}

fn make(path: &Path, kind: u32, key: usize, value: usize, entries: u32, flags: u32) {
    let shape = aya_obj::Map::new_from_params(kind, key as u32, value as u32, entries, flags);
    let map = MapData::create(shape, "other", None).unwrap();
    fs::remove_file(path).ok();
    object::pin(map.fd().as_fd(), path).unwrap();
}

/// Opens some maps.
type Opener = fn(&PinFolder) -> Result<(), String>;

/// Whoever opens maps, by the maps that it opens.
fn openers() -> Vec<(&'static [&'static str], Opener)> {
    fn said<T, E: Into<anyhow::Error>>(result: Result<T, E>) -> Result<(), String> {
        result
            .map(drop)
            .map_err(|error| format!("{:#}", error.into()))
    }
    vec![
        (
            &[
                "FRONTENDS",
                "TARGETS",
                "SLOTS",
                "BACKENDS",
                "SOURCE_RANGES",
                "NODE_ADDRS",
                "DEVICES",
                "META_TARGETS",
                "META_BACKENDS",
                "META_NAMES",
            ],
            |pins| said(KernelMaps::open(pins)),
        ),
        (&["FLOWS", "NEW_FLOWS", "SNAT_CLAIMS", "BACKENDS"], |pins| {
            said(FlowTables::open(pins))
        }),
        (&["FLOWS", "BACKENDS"], |pins| said(flows::read(pins))),
        (&["COUNTERS"], |pins| said(open::counters(pins))),
    ]
}

fn expect_refused(pins: &PinFolder, name: &str, what: &str) {
    let said = MapCapacities::read(pins).unwrap_err().to_string();
    assert!(
        said.contains(name) && said.contains("another shape"),
        "{what}: {said}"
    );
    for (maps, open) in openers() {
        if maps.contains(&name) {
            let said = open(pins).unwrap_err();
            assert!(
                said.contains(name) && said.contains("another shape"),
                "{what}: {said}"
            );
        }
    }
    let loaded = Programs::load(pins, Features::default(), DatapathLog::Off);
    let said = loaded.unwrap_err().to_string();
    assert!(
        said.contains(name) && said.contains("another shape"),
        "{what}: {said}"
    );
}

#[test]
fn a_map_of_another_shape_is_opened_by_nobody() {
    let f = fixture!("shapes");
    let pins = f.pins();
    pins.create().unwrap();
    let small = |spec: &MapSpec| MapSpec {
        entries: 8,
        ..*spec
    };
    for spec in MAPS {
        create(&pins.map(spec.name), &small(spec));
    }
    for (_, open) in openers() {
        open(pins).unwrap();
    }
    for spec in MAPS {
        let (name, path) = (spec.name, pins.map(spec.name));
        let (kind, flags) = kind_and_flags(spec.kind);
        let (key, value) = (spec.key, spec.value);
        // A per-CPU map of the same sizes gives each reader the values of all CPUs.
        let per_cpu = match spec.kind {
            MapKind::Array | MapKind::MappedArray => Some(6),
            MapKind::Hash => Some(5),
            MapKind::LruHash => Some(10),
            MapKind::PerCpuArray | MapKind::LpmTrie => None,
        };
        if let Some(per_cpu) = per_cpu {
            make(&path, per_cpu, key, value, 8, 0);
            expect_refused(pins, name, "per CPU");
        }
        if spec.kind == MapKind::PerCpuArray {
            make(&path, 2, key, value, 8, 0);
            expect_refused(pins, name, "one for all CPUs");
        }
        if spec.kind == MapKind::MappedArray {
            make(&path, kind, key, value, 8, 0);
            expect_refused(pins, name, "not to be mapped");
        }
        make(&path, kind, key, value + 8, 8, flags);
        expect_refused(pins, name, "bigger values");
        if spec.kind != MapKind::LpmTrie {
            make(&path, kind, key, value, 8, flags | RDONLY_PROG);
            expect_refused(pins, name, "read only");
            make(&path, 1, key + 4, value, 8, 0);
            expect_refused(pins, name, "bigger keys");
        }
        create(&path, &small(spec));
    }
    for (_, open) in openers() {
        open(pins).unwrap();
    }
}

#[test]
fn a_program_is_no_map() {
    let f = fixture!("program");
    let programs = f.load();
    let pins = f.pins();
    for name in ["FRONTENDS", "COUNTERS", "FLOWS"] {
        let path = pins.map(name);
        let map = object::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        object::pin(programs.fd(ProgramName::Clock).unwrap(), &path).unwrap();
        expect_refused(pins, name, "a program");
        fs::remove_file(&path).unwrap();
        object::pin(&map, &path).unwrap();
    }
    MapCapacities::read(pins).unwrap();
}

/// An earlier version may have made maps with less room. What does not fit is refused, and nothing fails.
#[test]
fn a_smaller_map_is_filled_and_what_does_not_fit_is_refused() {
    for (small, resource) in [
        ("FRONTENDS", Resource::Frontends),
        ("TARGETS", Resource::Targets),
        ("META_TARGETS", Resource::Targets),
        ("TURNS", Resource::Targets),
        ("SLOTS", Resource::Slots),
        ("BACKENDS", Resource::Backends),
        ("META_BACKENDS", Resource::Backends),
        ("LOADS", Resource::Backends),
    ] {
        let f = fixture!("small");
        f.pins().create().unwrap();
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(f.pins().maps());
        loader.map_max_entries(small, 3);
        loader.load(OBJECT).unwrap();
        let _programs = f.load();
        let mut programmer = f.take_over();
        let outcome = programmer.sync(plans(5), Instant::now());
        assert!(outcome.failed.is_empty(), "{small}: {:?}", outcome.failed);
        let full = Reason::Full(resource);
        let reasons: Vec<_> = outcome.refused.into_iter().map(|r| r.reason).collect();
        // Id 0 is not used.
        let room = match resource {
            Resource::Frontends | Resource::Slots => 3,
            _ => 2,
        };
        assert_eq!(reasons, vec![full; 5 - room], "{small}");
        assert_eq!(outcome.programmed.len(), room, "{small}");
        assert!(!programmer.is_behind(), "{small}");
        let capacities: BTreeMap<_, _> = MapCapacities::read(f.pins()).unwrap().iter().collect();
        assert_eq!(capacities[small], 3);
    }
}

#[test]
fn addresses_and_devices_that_have_no_room_are_reported_and_the_others_are_there() {
    let f = fixture!("small-tables");
    f.pins().create().unwrap();
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(f.pins().maps());
    loader.map_max_entries("NODE_ADDRS", 3);
    loader.map_max_entries("DEVICES", 3);
    loader.load(OBJECT).unwrap();
    let _programs = f.load();
    let mut programmer = f.take_over();
    let now = Instant::now();
    let addrs = |range: std::ops::Range<u8>| -> BTreeMap<Addr, u32> {
        range
            .map(|n| (Addr::from(IpAddr::from([192, 0, 2, n])), 1))
            .collect()
    };
    let devices = |range: std::ops::Range<u32>| -> BTreeMap<u32, Device> {
        range.map(|n| (n, Device::default())).collect()
    };
    programmer.set_node_addrs(addrs(0..3), now);
    programmer.set_devices(devices(0..3), now);
    // Full; one stays and two are others.
    let outcome = programmer.set_node_addrs(addrs(2..5), now);
    assert!(outcome.failed.is_empty() && outcome.unplaced.is_empty());
    assert_eq!(programmer.snapshot().unwrap().node_addrs, addrs(2..5));

    let outcome = programmer.set_devices(devices(1..6), now);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert_eq!(outcome.unplaced.len(), 1);
    let said = outcome.unplaced[0].to_string();
    assert!(
        said.contains("DEVICES") && said.contains("device 5"),
        "{said}"
    );
    assert_eq!(programmer.snapshot().unwrap().devices, devices(1..4));
    assert!(programmer.is_settled() && !programmer.is_behind());
}
